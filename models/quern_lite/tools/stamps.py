#!/usr/bin/env python3
"""Selects the photographic stamps of Debian's ``tuxpaint-stamps-default``.

    stamps.py ROOT DIR

ROOT is the folder the package was unpacked into (``dpkg -x``). Copies the pictures
into DIR, in the package's own folders (``DIR/animals/birds/owl.png``), and writes beside them

* ``captions.tsv``: ``file<TAB>description``, the file relative to DIR;
* ``items.jsonl``: one object a line, ``file``, ``id`` (the file without its
  ending), ``description`` (English) and ``category`` (the folder, such as
  ``animals/birds``);
* ``copyright``: the package's.

Both lists are sorted by id. Left out: drawings, letters, signs, flags, coins, mirrored
doubles, stamps without a description, and any stamp whose description an earlier
id has already.
"""

import argparse
import json
import os
import shutil
import sys
from collections.abc import Iterator
from pathlib import Path
from typing import NamedTuple

STAMPS = Path("usr/share/tuxpaint/stamps")
COPYRIGHT = Path("usr/share/doc/tuxpaint-stamps-default/copyright")

# Folder names, at any depth, that hold no photographs of things, or hardly any.
DRAWN_FOLDERS = frozenset({"cartoon", "flags", "hats", "naturalforces", "roadsigns", "seasonal", "symbols"})

# Drawings that lie among photographs, by id.
DRAWN_STAMPS = frozenset({
    "animals/mammals/hedgehog",
    "clothes/button",
    "food/pizza",
    "household/dishes/glass",
    "household/dishes/mug",
    "medical/tooth",
    "military/vehicles/ww2_german_gun",
    "people/body_parts/eye",
    "space/planets/0_sun",
    "sports/rugby_goal_posts",
    "town/monuments/inukshuk-outline",
    "vehicles/emergency/sedan_police",
})
DRAWN_PREFIXES = ("clothes/t_",)
MIRRORED_ENDINGS = ("_mirror", "_mirrored")


class Stamp(NamedTuple):
    id: str
    file: Path
    description: str
    category: str


def is_photograph(stamp_id: str) -> bool:
    *folders, _ = stamp_id.split("/")
    return not (DRAWN_FOLDERS.intersection(folders)
                or stamp_id in DRAWN_STAMPS
                or stamp_id.startswith(DRAWN_PREFIXES)
                or stamp_id.endswith(MIRRORED_ENDINGS))


def english_description(picture: Path) -> str:
    """The first line of the text beside the picture; empty when there is none."""
    text = picture.with_suffix(".txt")
    if not text.exists():
        return ""
    with text.open(encoding="utf-8", errors="replace") as stream:
        return " ".join(stream.readline().split())


def photographs(tree: Path) -> Iterator[Stamp]:
    seen: set[str] = set()
    ids = {p.relative_to(tree).with_suffix("").as_posix(): p for p in tree.rglob("*.png")}
    for stamp_id in sorted(ids):
        if not is_photograph(stamp_id):
            continue
        description = english_description(ids[stamp_id])
        if not description or description in seen:
            continue
        seen.add(description)
        yield Stamp(stamp_id, ids[stamp_id], description, stamp_id.rsplit("/", 1)[0])


def write_atomically(file: Path, lines: list[str]) -> None:
    part = file.with_name(file.name + ".part")
    part.write_text("".join(line + "\n" for line in lines), encoding="utf-8")
    os.replace(part, file)


def main() -> int:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("root", type=Path, help="folder the package was unpacked into")
    parser.add_argument("output", type=Path, help="folder for the pictures and their lists")
    arguments = parser.parse_args()
    tree = arguments.root / STAMPS
    if not tree.is_dir():
        print(f"{tree}: no such folder; unpack tuxpaint-stamps-default there", file=sys.stderr)
        return 1
    stamps = list(photographs(tree))
    output = arguments.output
    for stamp in stamps:
        copy = output / f"{stamp.id}.png"
        copy.parent.mkdir(parents=True, exist_ok=True)
        shutil.copyfile(stamp.file, copy)
    shutil.copyfile(arguments.root / COPYRIGHT, output / "copyright")
    write_atomically(output / "captions.tsv", [f"{s.id}.png\t{s.description}" for s in stamps])
    write_atomically(output / "items.jsonl",
                     [json.dumps({"file": f"{s.id}.png", "id": s.id,
                                  "description": s.description, "category": s.category},
                                 ensure_ascii=False) for s in stamps])
    print(f"{len(stamps)} stamps")
    return 0


if __name__ == "__main__":
    sys.exit(main())
