"""Mosaics: photographs side by side, one of whose captions is the phrase."""

from typing import NamedTuple

import numpy as np
from PIL import Image

from sources import Sources, cover, open_photo

SIZE = 448
LAYOUTS = ("2x2", "3x3", "irregular")


class Mosaic(NamedTuple):
    image: Image.Image
    phrase: str
    box: tuple[int, int, int, int]  # Left, top, width, height.


def splits(rng: np.random.Generator, layout: str) -> tuple[list[int], list[int]]:
    """The lines between columns and between rows, the edges included."""
    if layout == "irregular":
        lines = [[0, int(SIZE * rng.uniform(0.25, 0.75)), SIZE] for _ in range(2)]
        return lines[0], lines[1]
    cells = int(layout[0])
    lines = [SIZE * i // cells for i in range(cells + 1)]
    return lines, lines


def make_mosaic(rng: np.random.Generator, sources: Sources, layout: str) -> Mosaic:
    columns, rows = splits(rng, layout)
    cells = [(left, top, right - left, bottom - top)
             for top, bottom in zip(rows, rows[1:]) for left, right in zip(columns, columns[1:])]
    chosen = rng.choice(len(sources.photos), len(cells), replace=False)
    image = Image.new("RGB", (SIZE, SIZE))
    for photo, (left, top, width, height) in zip(chosen, cells):
        image.paste(cover(open_photo(sources.photos[photo]), width, height), (left, top))
    target = int(rng.integers(len(cells)))
    captions = sources.photos[chosen[target]].captions
    return Mosaic(image, captions[rng.integers(len(captions))], cells[target])
