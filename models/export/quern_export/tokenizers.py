"""The tokenisers a package may name: the reference for the canary's ids, and the files to ship.

The ids come from the libraries that models are trained with (OpenCLIP, transformers, tokenizers,
sentencepiece); the server has its own readers, which the canary holds to these ids.
"""

import json
import re
import shutil
import string
from pathlib import Path
from typing import Any, Protocol


class Tokenizer(Protocol):
    def description(self) -> dict[str, Any]:
        """The section ``text.tokenizer`` of model.json."""

    def write(self, folder: Path) -> None:
        """The files that the description names."""

    def encode(self, text: str) -> list[int]:
        """Ids with the special tokens, cut to the longest that the model reads."""


class WordPiece:
    def __init__(self, vocabulary: Path, *, lowercase: bool, strip_accents: bool, max_tokens: int):
        import tokenizers
        self._vocabulary = vocabulary
        self._lowercase = lowercase
        self._strip_accents = strip_accents
        self._max_tokens = max_tokens
        self._tokenizer = tokenizers.BertWordPieceTokenizer(
            str(vocabulary), lowercase=lowercase, strip_accents=strip_accents)
        self._tokenizer.enable_truncation(max_tokens)

    def description(self) -> dict[str, Any]:
        return {"kind": "wordpiece", "vocabulary": "vocab.txt", "lowercase": self._lowercase,
                "strip_accents": self._strip_accents, "max_tokens": self._max_tokens}

    def write(self, folder: Path) -> None:
        shutil.copyfile(self._vocabulary, folder / "vocab.txt")

    def encode(self, text: str) -> list[int]:
        return self._tokenizer.encode(text).ids


class ClipBpe:
    """CLIP's byte pairs, as OpenCLIP has them: ``reference`` gives ids without the special tokens."""

    def __init__(self, vocabulary: dict[str, int], merges: list[tuple[str, str]], reference: Any, *,
                 start_id: int, end_id: int, max_tokens: int):
        self._vocabulary = vocabulary
        self._merges = merges
        self._reference = reference
        self._start_id = start_id
        self.end_id = end_id
        self._max_tokens = max_tokens

    @staticmethod
    def from_open_clip(tokenizer: Any, max_tokens: int) -> "ClipBpe":
        vocabulary = dict(tokenizer.encoder)
        # OpenCLIP's names of the special tokens; the package has the original ones.
        vocabulary["<|startoftext|>"] = vocabulary.pop("<start_of_text>")
        vocabulary["<|endoftext|>"] = vocabulary.pop("<end_of_text>")
        merges = [pair for pair in tokenizer.bpe_ranks if len(pair) == 2]
        return ClipBpe(vocabulary, merges, tokenizer.encode, start_id=tokenizer.sot_token_id,
                       end_id=tokenizer.eot_token_id, max_tokens=max_tokens)

    @staticmethod
    def from_folder(folder: Path, max_tokens: int) -> "ClipBpe":
        """Of a checkpoint of transformers: vocab.json and merges.txt, or tokenizer.json."""
        from transformers import CLIPTokenizer
        if (folder / "vocab.json").is_file() and (folder / "merges.txt").is_file():
            vocabulary = json.loads((folder / "vocab.json").read_text(encoding="utf-8"))
            lines = (folder / "merges.txt").read_text(encoding="utf-8").split("\n")
            merges = [tuple(line.split(" ")) for line in lines if line and not line.startswith("#version")]
        elif (folder / "tokenizer.json").is_file():
            model = json.loads((folder / "tokenizer.json").read_text(encoding="utf-8"))["model"]
            vocabulary = model["vocab"]
            merges = [tuple(merge.split(" ")) if isinstance(merge, str) else tuple(merge)
                      for merge in model["merges"]]
        else:
            raise FileNotFoundError(f"{folder} has neither vocab.json with merges.txt nor tokenizer.json")
        reference = CLIPTokenizer(vocab=vocabulary, merges=merges)
        return ClipBpe(vocabulary, merges, lambda text: reference.encode(text, add_special_tokens=False),
                       start_id=vocabulary["<|startoftext|>"], end_id=vocabulary["<|endoftext|>"],
                       max_tokens=max_tokens)

    def description(self) -> dict[str, Any]:
        return {"kind": "clip_bpe", "vocabulary": "vocab.json", "merges": "merges.txt",
                "max_tokens": self._max_tokens}

    def write(self, folder: Path) -> None:
        ordered = dict(sorted(self._vocabulary.items(), key=lambda entry: entry[1]))
        (folder / "vocab.json").write_text(json.dumps(ordered, ensure_ascii=False), encoding="utf-8")
        lines = ["#version: 0.2", *(" ".join(pair) for pair in self._merges)]
        (folder / "merges.txt").write_text("\n".join(lines) + "\n", encoding="utf-8")

    def encode(self, text: str) -> list[int]:
        return [self._start_id, *self._reference(text)[:self._max_tokens - 2], self.end_id]


class SentencePiece:
    def __init__(self, model: Path, *, lowercase: bool, remove_punctuation: bool, add_bos: bool, add_eos: bool,
                 max_tokens: int):
        import sentencepiece
        self._model = model
        self._lowercase = lowercase
        self._remove_punctuation = remove_punctuation
        self._add_bos = add_bos
        self._add_eos = add_eos
        self._max_tokens = max_tokens
        self._processor = sentencepiece.SentencePieceProcessor(model_file=str(model))
        self.end_id = self._processor.eos_id()

    def description(self) -> dict[str, Any]:
        return {"kind": "sentencepiece", "model": "spiece.model", "lowercase": self._lowercase,
                "remove_punctuation": self._remove_punctuation, "add_bos": self._add_bos,
                "add_eos": self._add_eos, "max_tokens": self._max_tokens}

    def write(self, folder: Path) -> None:
        shutil.copyfile(self._model, folder / "spiece.model")

    def encode(self, text: str) -> list[int]:
        if self._lowercase:
            text = text.lower()
        if self._remove_punctuation:
            # The order of the SigLIP authors' clean-up: ASCII punctuation, then white space.
            text = text.translate(str.maketrans("", "", string.punctuation))
            text = re.sub(r"\s+", " ", text).strip()
        room = self._max_tokens - self._add_bos - self._add_eos
        ids = self._processor.encode(text)[:room]
        return ([self._processor.bos_id()] * self._add_bos) + ids + ([self._processor.eos_id()] * self._add_eos)
