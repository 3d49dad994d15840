#!/usr/bin/env python3
"""Writes golden token ids of the reference WordPiece tokeniser as JSON lines.

    make_wordpiece_golden.py VOCAB.txt OUTPUT.jsonl [TEXTS.txt]

Each line of the output: {"text": ..., "ids": [...], "truncated": bool}. The texts are the
lines of TEXTS.txt ("-" is standard input), or those of golden_texts.py. Needs the PyPI package
``tokenizers``. Special tokens in a text are plain text (see ../tokens.py).
"""

import argparse
import json
import sys
from collections.abc import Iterable
from pathlib import Path

sys.path.insert(0, str(Path(__file__).resolve().parent.parent))

from golden_texts import all_texts
from tokens import encode, reference_tokenizer


def lines_of(file: str) -> list[str]:
    """The lines of a file without their "\\n"; other line separators stay in the text."""
    data = sys.stdin.buffer.read() if file == "-" else Path(file).read_bytes()
    return data.decode("utf-8").removesuffix("\n").split("\n")


def write_golden(vocabulary: Path, output: Path, texts: Iterable[str]) -> None:
    tokenizer = reference_tokenizer(vocabulary)
    with output.open("w", encoding="ascii") as stream:
        for text in texts:
            ids, truncated = encode(tokenizer, text)
            json.dump({"text": text, "ids": ids, "truncated": truncated}, stream)
            stream.write("\n")


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("vocabulary", type=Path)
    parser.add_argument("output", type=Path)
    parser.add_argument("texts", nargs="?")
    arguments = parser.parse_args()
    texts = all_texts() if arguments.texts is None else lines_of(arguments.texts)
    write_golden(arguments.vocabulary, arguments.output, texts)


if __name__ == "__main__":
    main()
