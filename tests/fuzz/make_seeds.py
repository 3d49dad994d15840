#!/usr/bin/env python3
"""Writes the seeds of tests/fuzz/corpus: seed-* of tokenizer_fuzz, request_fuzz, filter_fuzz and parts_fuzz.

    make_seeds.py GOOGLEAPIS    # the folder that scripts/setup made; needs protoc and the venv of make_golden.py

Inputs that once broke a target have other names; they stay.
"""

import io
import json
import struct
import subprocess
import sys
import tempfile
from pathlib import Path

import sentencepiece

HERE = Path(__file__).resolve().parent
ROOT = HERE.parents[1]
TEXTS_PER_TOKENIZER = 24
# Each of them one rule of the table "from TAB to", in hexadecimal code points.
RULES = ("FB01\t66 69", "C4\t41", "61 300\t61", "AD\t", "3000\t20")

MODEL = {
    "format_version": 1, "name": "tiny", "version": "1.2", "description": "for tests", "licence": "none",
    "embedding": {"dimension": 2, "metric": "cosine"}, "capabilities": ["image.global", "image.dense", "text.global"],
    "image": {"file": "image.ts", "methods": {"global": "forward", "dense": "dense"},
              "preprocess": {"width": 8, "height": 8, "resize": "squash", "filter": "bilinear", "antialias": True,
                             "pad_rgb": [1, 2, 3], "mean": [100, 100, 100], "std": [50, 50, 50]},
              "size_multiple": 4, "dense_stride": 4},
    "text": {"file": "text.ts", "methods": {"global": "forward"}},
    "canary": {"file": "canary/canary.json"}, "calibration": {"temperature": 3}, "figures": {},
}
TOKENIZERS = (
    {"kind": "wordpiece", "vocabulary": "vocab.txt", "lowercase": True, "strip_accents": False, "max_tokens": 8},
    {"kind": "clip_bpe", "vocabulary": "vocab.json", "merges": "merges.txt", "max_tokens": 77},
    {"kind": "sentencepiece", "model": "spiece.model", "lowercase": True, "remove_punctuation": True, "add_bos": False,
     "add_eos": True, "max_tokens": 64},
)
CANARY = {"texts": [{"text": "a b", "ids": [2, 4, 5, 3], "embedding": [0.6, 0.8]}],
          "images": [{"file": "image.png", "embedding": [0.8, -0.6]}], "tolerance": 0.001}

# Type, file, text format; the first byte and the pieces' size go before.
REQUESTS = {
    "e": ("quern.v1.EmbedRequest", "embedding", (
        'inputs { text: "a dog" } inputs { image { content: "\\377\\330\\377" } } model: "m"',
        'inputs { image { uri: "file:///x" } } inputs { } outputs: EMBEDDING_OUTPUT_DENSE video { frames_per_second: 2 }',
        'inputs { video { content: "x" } }')),
    "s": ("quern.v1.SearchRequest", "retrieval", (
        'collection: "photos" query { parts { text: "ein Hündchen" weight: 2 } parts { image { content: "x" } weight: -1 } } page_size: 3',
        'collection: "c" query { parts { embedding { values: 1 values: nan values: -inf } } parts { item_id: "x" } } min_score: 0.5 recall: 0.9',
        'collection: "c" query { parts { } } page_token: "MQBhAGI" read_mask { paths: "id" paths: "payload" }',
        'collection: "c" filter: "a = 1" granularity: GRANULARITY_REGION explain: true')),
    "u": ("quern.v1.UpsertRequest", "items", (
        'collection: "c" id: "x" text: "a" payload { fields { key: "k" value { list_value { values { number_value: 1 } values { null_value: NULL_VALUE } } } } }',
        'collection: "c" id: "x" image { content: "\\211PNG" } media_uri: "file:///a" model_fingerprint: "00"',
        'collection: "c" id: "x" embedding { values: 0.5 } payload { fields { key: "s" value { struct_value { fields { key: "t" value { string_value: "u" } } } } } }',
        'id: "x" etag: "1"')),
    "c": ("quern.v1.CreateCollectionRequest", "collections", (
        'collection { name: "c" }',
        'collection { name: "c" index { kind: KIND_EXACT shards: 2 target_recall: 0.9 } parts { dense: DENSE_OFF max_frames: 3 } }')),
}

FILTERS = (
    's = "a*" AND n >= 1.5 OR NOT b = true', "l:a AND l IN (b, 'c') AND m:3", 't > "2024-05-01T12:00:01+02:00"',
    '"o"."ü \\"x" != é', "-(s:* OR (n < -2e3 AND -b:false))", r's = "\*\\\n\u00e9\U0001F989" OR m IN (1,2,5)', "s > \"\" n = 1",
    "n = \"1\"", "(" * 70,
)
PAYLOADS = (
    'fields { key: "s" value { string_value: "a" } } fields { key: "n" value { number_value: nan } }',
    'fields { key: "t" value { string_value: "2024-05-01T12:00:00.5Z" } } fields { key: "l" value { list_value { values { '
    'string_value: "a" } values { bool_value: true } } } } fields { key: "o" value { struct_value { fields { key: "ü \\"x" '
    'value { string_value: "b" } } } } }',
)
# Insides of an index, see engine/filter/README.md: its declarations, rows, modalities, values.
INDEXES = (
    b"\0" b"\0" b"\0",
    b"\1\1s\0\0" b"\1\1\3" b"\1\0\1\1\3" b"\2\1a\1\0\1b\1\3\1",
    b"\2\1n\1\0\1t\3\0" b"\2\0\4" b"\1\1\1\0" + b"\1" + bytes(8) + b"\1\0" + b"\1" + bytes(12) + b"\1\6",
    b"\1\1l\0\1" b"\1\1\xFE\7" b"\0" b"\2\0\1\1\xFE\7\1x\1\1\xFE\7",
)


def write(target: str, name: str, content: bytes) -> None:
    (HERE / "corpus" / target / f"seed-{name}").write_bytes(content)


def tokenizer_seeds() -> None:
    lines = (ROOT / "tests/data/tokenizers/golden.jsonl").read_text(encoding="utf-8").split("\n")[:-1]
    texts = [text for line in lines if 0 < len(text := json.loads(line)["text"]) < 200]
    for kind in range(5):
        for i in range(TEXTS_PER_TOKENIZER):
            text = texts[(kind + 5 * i) * len(texts) // (5 * TEXTS_PER_TOKENIZER)]
            write("tokenizer_fuzz", f"{kind}-{i:02}", f"{kind}{text}".encode())
    vocabulary = json.loads((ROOT / "tests/data/tokenizers/clip_vocab.json").read_text(encoding="utf-8"))
    small = {token: i for token, i in vocabulary.items() if i < 512 or token.startswith("<|")} | {"do": 512, "dog</w>": 513}
    packed = json.dumps(small, ensure_ascii=False, separators=(",", ":"))
    write("tokenizer_fuzz", "a", f"a{packed}\0#version: 0.2\nd o\ndo g</w>\n".encode())
    write("tokenizer_fuzz", "b", "b[UNK]\n[CLS]\n[SEP]\na\n##a\nß\n!\n犬\n".encode())
    with tempfile.NamedTemporaryFile("w", suffix=".tsv") as rules:
        rules.write("\n".join(RULES) + "\n")
        rules.flush()
        for kind, size in (("unigram", 60), ("bpe", 60), ("word", 30), ("char", 30)):
            model = io.BytesIO()
            sentencepiece.SentencePieceTrainer.train(
                sentence_iterator=iter(["a dog runs", "two dogs run", "a cat sleeps on the sofa", "the old man's hat"] * 3),
                model_writer=model, model_type=kind, vocab_size=size, hard_vocab_limit=False, minloglevel=2,
                user_defined_symbols=["<x>", "<xy>"], normalization_rule_tsv=rules.name)
            write("tokenizer_fuzz", f"c-{kind}", b"c" + model.getvalue().replace(rules.name.encode(), b"x" * len(rules.name)))
    for tokenizer in TOKENIZERS:
        model = MODEL | {"text": MODEL["text"] | {"tokenizer": tokenizer}}
        write("tokenizer_fuzz", f"d-{tokenizer['kind']}", f"d{json.dumps(model)}".encode())
    write("tokenizer_fuzz", "e", f"e{json.dumps(CANARY)}".encode())


def request_seeds(googleapis: str) -> None:
    for first, (message, file, requests) in REQUESTS.items():
        for i, request in enumerate(requests):
            encoded = subprocess.run(
                ["protoc", "-I", str(ROOT / "proto"), "-I", googleapis, f"--encode={message}", f"quern/v1/{file}.proto"],
                input=request.encode(), capture_output=True, check=True).stdout
            write("request_fuzz", f"{first}-{i}", first.encode() + bytes([3]) + encoded)
    write("request_fuzz", "t", b"t\0" + b"MQBpdGVtcyBvZiBwaG90b3MAYXBwbGU")


def filter_seeds() -> None:
    for i, text in enumerate(FILTERS):
        write("filter_fuzz", f"f-{i}", f"f{text}".encode())
    for i, payload in enumerate(PAYLOADS):
        encoded = subprocess.run(["protoc", "--encode=google.protobuf.Struct", "google/protobuf/struct.proto"],
                                 input=payload.encode(), capture_output=True, check=True).stdout
        write("filter_fuzz", f"p-{i}", b"p" + encoded)
    for i, index in enumerate(INDEXES):
        write("filter_fuzz", f"i-{i}", b"i" + index)


def parts_seeds() -> None:
    """Each of a picture and a video in each form, as engine/fine/README.md has the bytes."""
    picture = struct.pack("<B5Iq", 1, 640, 480, 1, 2, 0, 0)
    video = struct.pack("<B5IqqIqI", 1, 320, 240, 0, 0, 2, 4_000_000_000, 0, 1, 1_500_000_000, 3)
    plain = struct.pack("<BII2f", 1, 2, 3, 0.005, 0.007) + bytes([127, 0, 129, 1, 127, 255])
    # One block of two rows and rank two: scales, coefficients, and for each of the rank half a byte a column.
    compressed = struct.pack("<BIIBB2f", 2, 2, 3, 2, 2, 0.01, 0.02) + bytes([127, 0, 129, 5, 0x8f, 0x81, 0x77, 0x89])
    for name, head in (("picture", picture), ("video", video)):
        write("parts_fuzz", f"{name}-plain", head + plain)
        write("parts_fuzz", f"{name}-compressed", head + compressed)


def main() -> None:
    filter_seeds()
    parts_seeds()
    tokenizer_seeds()
    request_seeds(sys.argv[1])


if __name__ == "__main__":
    main()
