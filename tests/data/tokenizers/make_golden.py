#!/usr/bin/env python3
"""Writes the ids that the reference tokenisers give.

    python3 -m venv VENV && VENV/bin/pip install --no-deps --require-hashes -r requirements.txt
    VENV/bin/python make_golden.py WORDPIECE_VOCAB [--train] [--clip FOLDER] [--output FOLDER]

Reads clip_vocab.json, clip_merges.txt, unigram.model and bpe.model beside itself and writes golden.jsonl.
With --train makes those four first: small vocabularies, learned from the texts; ties are broken by
chance, so they differ from run to run. A line of golden.jsonl: {"text": ..., "NAME": [ids], ..., "truncated": [NAMEs]}, where a NAME is

    clip       Hugging Face CLIPTokenizer, 77 ids
    wordpiece  Hugging Face tokenizers, BERT uncased, 128 ids, on WORDPIECE_VOCAB
    siglip     Hugging Face SiglipTokenizer on unigram.model, 64 ids
    t5         sentencepiece on unigram.model, </s> behind, 64 ids
    siglip2    Hugging Face Siglip2Tokenizer on bpe.model, </s> behind, 64 ids

Names of special tokens in a text are plain text, as in the server. --clip FOLDER takes a vocab.json and a
merges.txt from elsewhere (CLIP's own, say) for "clip", --output another folder than this one for all files.
"""

import argparse
import io
import json
import sys
from pathlib import Path

import sentencepiece
from tokenizers import Regex, Tokenizer, models, normalizers, pre_tokenizers, trainers
from transformers import CLIPTokenizer, Siglip2Tokenizer, SiglipTokenizer
from transformers.tokenization_utils_sentencepiece import SentencePieceExtractor

from texts import all_texts, captions

HERE = Path(__file__).resolve().parent
sys.path.insert(0, str(HERE.parents[2] / "models/quern_lite"))

import tokens as wordpiece

CLIP_SPLIT = r"""'s|'t|'re|'ve|'m|'ll|'d|[\p{L}]+|[\p{N}]|[^\s\p{L}\p{N}]+"""
CLIP_MERGES = 2500
CLIP_TOKENS = 77
SENTENCEPIECE_TOKENS = 64


def bytes_to_unicode() -> list[str]:
    """The characters that stand for the 256 bytes, in the order of CLIP's ids."""
    shown = [*range(ord("!"), ord("~") + 1), *range(ord("¡"), ord("¬") + 1), *range(ord("®"), ord("ÿ") + 1)]
    hidden = [byte for byte in range(256) if byte not in shown]
    return [chr(byte) for byte in shown] + [chr(256 + i) for i in range(len(hidden))]


def train_clip(texts: list[str], folder: Path) -> None:
    tokenizer = Tokenizer(models.BPE(end_of_word_suffix="</w>"))
    tokenizer.normalizer = normalizers.Sequence([normalizers.NFC(), normalizers.Lowercase()])
    tokenizer.pre_tokenizer = pre_tokenizers.Sequence([
        pre_tokenizers.Split(Regex(CLIP_SPLIT), behavior="removed", invert=True),
        pre_tokenizers.ByteLevel(add_prefix_space=False, use_regex=False)])
    tokenizer.train_from_iterator(texts, trainers.BpeTrainer(
        vocab_size=512 + CLIP_MERGES, min_frequency=2, initial_alphabet=pre_tokenizers.ByteLevel.alphabet(),
        end_of_word_suffix="</w>", show_progress=False))
    merges = [tuple(merge) for merge in json.loads(tokenizer.to_str())["model"]["merges"]]
    letters = bytes_to_unicode()
    pieces = letters + [letter + "</w>" for letter in letters]
    pieces += dict.fromkeys("".join(merge) for merge in merges)
    pieces += ["<|startoftext|>", "<|endoftext|>"]
    assert len(set(pieces)) == len(pieces)
    write_json(folder / "clip_vocab.json", {piece: i for i, piece in enumerate(pieces)})
    lines = ["#version: 0.2", *(" ".join(merge) for merge in merges)]
    (folder / "clip_merges.txt").write_text("\n".join(lines) + "\n", encoding="utf-8")


def train_sentencepiece(texts: list[str], folder: Path) -> None:
    sentences = [line.replace("\0", "") for text in texts for line in text.split("\n") if line.strip("\0 ") and len(line) < 1000]

    def train(name: str, **options: object) -> None:
        model = io.BytesIO()
        sentencepiece.SentencePieceTrainer.train(
            sentence_iterator=iter(sentences), model_writer=model, model_type=name, vocab_size=1600, character_coverage=0.98,
            num_threads=1, minloglevel=2, pad_id=0, eos_id=1, unk_id=2, **options)
        (folder / f"{name}.model").write_bytes(model.getvalue())

    train("unigram", bos_id=-1)
    # As Gemma's: no normalisation, no dummy prefix, bytes for what is unknown.
    train("bpe", bos_id=3, byte_fallback=True, normalization_rule_name="identity", add_dummy_prefix=False,
          remove_extra_whitespaces=False, split_digits=True, allow_whitespace_only_pieces=True)


def write_json(path: Path, value: object) -> None:
    path.write_text(json.dumps(value, ensure_ascii=False, separators=(",", ":")) + "\n", encoding="utf-8")


class Clip:
    def __init__(self, vocabulary: Path, merges: Path) -> None:
        pairs = [tuple(line.split(" ")) for line in merges.read_text(encoding="utf-8").split("\n")[1:] if line]
        self.reference = CLIPTokenizer(vocab=json.loads(vocabulary.read_text(encoding="utf-8")), merges=pairs, split_special_tokens=True)

    def __call__(self, text: str) -> tuple[list[int], bool]:
        whole = self.reference(text)["input_ids"]
        return self.reference(text, truncation=True, max_length=CLIP_TOKENS)["input_ids"], len(whole) > CLIP_TOKENS


class Siglip:
    def __init__(self, model: Path) -> None:
        self.reference = SiglipTokenizer(str(model), split_special_tokens=True)

    def __call__(self, text: str) -> tuple[list[int], bool]:
        whole = self.reference(text)["input_ids"]
        return self.reference(text, truncation=True, max_length=SENTENCEPIECE_TOKENS)["input_ids"], len(whole) > SENTENCEPIECE_TOKENS


class Plain:
    def __init__(self, model: Path) -> None:
        self.reference = sentencepiece.SentencePieceProcessor(model_file=str(model))

    def __call__(self, text: str) -> tuple[list[int], bool]:
        ids = self.reference.encode(text)
        room = SENTENCEPIECE_TOKENS - 1
        return [*ids[:room], self.reference.eos_id()], len(ids) > room


class Siglip2:
    def __init__(self, model: Path) -> None:
        vocabulary, _, merges = SentencePieceExtractor(str(model)).extract(True)
        self.reference = Siglip2Tokenizer(vocab=vocabulary, merges=merges, unk_token="<unk>", bos_token="<s>", eos_token="</s>", pad_token="<pad>",
                                          mask_token="<pad>", split_special_tokens=True)
        self.eos = vocabulary["</s>"]

    def __call__(self, text: str) -> tuple[list[int], bool]:
        ids = self.reference(text, add_special_tokens=False)["input_ids"]
        room = SENTENCEPIECE_TOKENS - 1
        return [*ids[:room], self.eos], len(ids) > room


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("wordpiece_vocab", type=Path)
    parser.add_argument("--train", action="store_true", help="make new vocabularies first")
    parser.add_argument("--clip", type=Path, help="a folder with vocab.json and merges.txt")
    parser.add_argument("--output", type=Path, default=HERE)
    arguments = parser.parse_args()
    folder = arguments.output
    texts = all_texts()
    if arguments.train:
        corpus = [*texts, *captions(4000)]
        train_clip(corpus, folder)
        train_sentencepiece(corpus, folder)
    elif folder != HERE:
        for name in ("clip_vocab.json", "clip_merges.txt", "unigram.model", "bpe.model"):
            (folder / name).write_bytes((HERE / name).read_bytes())
    if arguments.clip is not None:
        for name in ("vocab.json", "merges.txt"):
            (folder / f"clip_{name}").write_bytes((arguments.clip / name).read_bytes())
    bert = wordpiece.reference_tokenizer(arguments.wordpiece_vocab)
    references = {
        "clip": Clip(folder / "clip_vocab.json", folder / "clip_merges.txt"),
        "wordpiece": lambda text: wordpiece.encode(bert, text),
        "siglip": Siglip(folder / "unigram.model"),
        "t5": Plain(folder / "unigram.model"),
        "siglip2": Siglip2(folder / "bpe.model"),
    }
    with (folder / "golden.jsonl").open("w", encoding="utf-8") as stream:
        for text in texts:
            results = {name: reference(text) for name, reference in references.items()}
            line = {"text": text} | {name: ids for name, (ids, _) in results.items()}
            line["truncated"] = [name for name, (_, truncated) in results.items() if truncated]
            # The line separators that JSON allows unescaped would confuse editors.
            shown = json.dumps(line, ensure_ascii=False, separators=(",", ":"))
            stream.write("".join(f"\\u{ord(c):04x}" if c in "\x7f\x85\u2028\u2029\ufeff" else c for c in shown) + "\n")
    print(len(texts), "texts")


if __name__ == "__main__":
    main()
