"""The pictures that test media are made of, and how they are cut and fitted."""

import re
from pathlib import Path
from typing import NamedTuple

import numpy as np
from PIL import Image, ImageOps

# Opacity from which a stamp's pixel counts as the stamp.
OPAQUE = 128

STOP_WORDS = frozenset("a an and at by for from in is it its of on or some the to two with".split())


class Photo(NamedTuple):
    path: Path
    captions: list[str]


class Stamp(NamedTuple):
    path: Path
    phrase: str  # "a barn owl"
    category: str  # Its top folder: "animals".


class Sources(NamedTuple):
    photos: list[Photo]  # In order of the captions file.
    stamps: list[Stamp]  # Likewise; no two have the same phrase.


def read_captions(path: Path) -> dict[str, list[str]]:
    """Lines of file, tab, caption."""
    captions: dict[str, list[str]] = {}
    for number, line in enumerate(path.read_text(encoding="utf-8").splitlines(), 1):
        if not line.strip():
            continue
        name, tab, caption = line.partition("\t")
        if not tab or not caption.strip():
            raise ValueError(f"{path}, line {number}: no tab between file and caption")
        captions.setdefault(name, []).append(caption.strip())
    return captions


def to_phrase(description: str) -> str | None:
    """"A Barn owl (Tyto alba)." as "a Barn owl"; None for what is no noun phrase."""
    text = re.sub(r"\([^)]*\)", "", description).split(".")[0].strip()
    if not re.match(r"(A|An|Some|The) ", text) or "," in text or len(text.split()) > 6:
        return None
    return text[0].lower() + text[1:]


def words(text: str) -> set[str]:
    """What a text speaks of, without endings of the plural."""
    found = re.findall(r"[a-z]+", text.lower())
    return {word.removesuffix("s") for word in found} - STOP_WORDS


def read_sources(photos: Path, captions: Path, stamps: Path | None) -> Sources:
    by_photo = read_captions(captions)
    present = [Photo(photos / name, lines) for name, lines in by_photo.items()
               if (photos / name).is_file()]
    if len(present) < 9:
        raise ValueError(f"{photos}: {len(present)} of the photos that {captions} names; at least 9 are needed")
    found: dict[str, Stamp] = {}
    if stamps is not None:
        for name, lines in read_captions(stamps / "captions.tsv").items():
            phrase = to_phrase(lines[0])
            if phrase is not None:
                found.setdefault(phrase.lower(), Stamp(stamps / name, phrase, name.split("/")[0]))
        if len(found) < 20:
            raise ValueError(f"{stamps}: {len(found)} stamps with a phrase; at least 20 are needed")
    return Sources(present, list(found.values()))


def cover(image: Image.Image, width: int, height: int) -> Image.Image:
    """Scaled so that it fills the size, its middle kept."""
    return ImageOps.fit(image, (width, height), Image.Resampling.BICUBIC)


def open_photo(photo: Photo) -> Image.Image:
    with Image.open(photo.path) as image:
        return ImageOps.exif_transpose(image).convert("RGB")


def open_stamp(stamp: Stamp) -> Image.Image:
    """Cut to its opaque pixels, RGBA."""
    with Image.open(stamp.path) as image:
        rgba = image.convert("RGBA")
    return rgba.crop(bounds(np.asarray(rgba)[..., 3] >= OPAQUE))


def bounds(mask: np.ndarray) -> tuple[int, int, int, int]:
    """Left, top, right and bottom of what is set; the latter two exclusive."""
    rows = np.flatnonzero(mask.any(axis=1))
    columns = np.flatnonzero(mask.any(axis=0))
    if rows.size == 0:
        raise ValueError("nothing is opaque")
    return int(columns[0]), int(rows[0]), int(columns[-1]) + 1, int(rows[-1]) + 1
