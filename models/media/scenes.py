"""Scenes: stamps pasted on photographs, with the box of every stamp.

A plain scene has one to five different stamps that may overlap. A relation scene has
the same stamp twice, on either side of another, and asks for each by where it is: it
cannot be answered without the relation. Every scene also asks for as many things that are
not there: of another category than any stamp in it, and in no caption of the photograph.
"""

from typing import NamedTuple

import numpy as np
from PIL import Image

from sources import OPAQUE, Photo, Sources, Stamp, bounds, cover, open_photo, open_stamp, words

SIZES = ((448, 448), (512, 384), (384, 512))
# Share of a stamp's opaque pixels that has to stay in sight.
LEAST_VISIBLE = 0.6
TRIES = 60

# What the first and the last of three in a row are to the middle one.
RELATIONS = {"x": ("left of", "right of"), "y": ("above", "below")}


class Phrase(NamedTuple):
    text: str
    kind: str  # plain, relation, absent
    box: tuple[int, int, int, int] | None  # Left, top, width, height.


class Scene(NamedTuple):
    image: Image.Image
    phrases: list[Phrase]


class Canvas:
    """A photograph that stamps are pasted on, and who owns each of its pixels."""

    def __init__(self, background: Image.Image):
        self.image = background.copy()
        self.owner = np.full((background.height, background.width), -1, np.int16)
        self.areas: list[int] = []  # Opaque pixels of each stamp.

    def paste(self, stamp: Image.Image, left: int, top: int) -> bool:
        """False, and nothing happens, when it would hide too much of another."""
        opaque = np.asarray(stamp)[..., 3] >= OPAQUE
        owner = self.owner.copy()
        owner[top:top + stamp.height, left:left + stamp.width][opaque] = len(self.areas)
        for index, area in enumerate(self.areas):
            if np.count_nonzero(owner == index) < LEAST_VISIBLE * area:
                return False
        self.image.paste(stamp, (left, top), stamp)
        self.owner = owner
        self.areas.append(int(np.count_nonzero(opaque)))
        return True

    def box(self, index: int) -> tuple[int, int, int, int]:
        left, top, right, bottom = bounds(self.owner == index)
        return left, top, right - left, bottom - top


def resized(stamp: Image.Image, area: float, largest: tuple[int, int]) -> Image.Image:
    """With about `area` pixels, within `largest`."""
    scale = (area / (stamp.width * stamp.height)) ** 0.5
    scale = min(scale, largest[0] / stamp.width, largest[1] / stamp.height)
    size = (max(8, int(stamp.width * scale)), max(8, int(stamp.height * scale)))
    image = stamp.resize(size, Image.Resampling.LANCZOS)
    return image.crop(bounds(np.asarray(image)[..., 3] >= OPAQUE))


def choose_stamps(rng: np.random.Generator, stamps: list[Stamp], count: int) -> list[Stamp]:
    """Different ones, none of which speaks of another."""
    chosen: list[Stamp] = []
    for index in rng.permutation(len(stamps)):
        stamp = stamps[index]
        if all(not words(stamp.phrase) & words(other.phrase) for other in chosen):
            chosen.append(stamp)
        if len(chosen) == count:
            break
    return chosen


def place_anywhere(rng: np.random.Generator, canvas: Canvas, stamp: Stamp) -> bool:
    width, height = canvas.image.size
    picture = open_stamp(stamp)
    for _ in range(TRIES):
        area = rng.uniform(0.04, 0.22) * width * height
        image = resized(picture, area, (int(width * 0.8), int(height * 0.8)))
        left = int(rng.integers(0, width - image.width + 1))
        top = int(rng.integers(0, height - image.height + 1))
        if canvas.paste(image, left, top):
            return True
    return False


def plain(rng: np.random.Generator, canvas: Canvas, stamps: list[Stamp]) -> tuple[list[Phrase], list[Stamp]]:
    wanted = choose_stamps(rng, stamps, int(rng.integers(1, 6)))
    placed = [stamp for stamp in wanted if place_anywhere(rng, canvas, stamp)]
    return [Phrase(stamp.phrase, "plain", canvas.box(i)) for i, stamp in enumerate(placed)], placed


def relation(rng: np.random.Generator, canvas: Canvas, stamps: list[Stamp]) -> tuple[list[Phrase], list[Stamp]]:
    """The same stamp before and after another, along one axis, each in its third."""
    twice, between = choose_stamps(rng, stamps, 2)
    axis = "x" if rng.random() < 0.5 else "y"
    width, height = canvas.image.size
    third = width // 3 if axis == "x" else height // 3
    most = (third, int(height * 0.8)) if axis == "x" else (int(width * 0.8), third)
    for index, stamp in enumerate((twice, between, twice)):
        image = resized(open_stamp(stamp), rng.uniform(0.05, 0.10) * width * height, most)
        along = index * third + int(rng.integers(0, third - image.size[0 if axis == "x" else 1] + 1))
        room = height - image.height if axis == "x" else width - image.width
        across = int(rng.integers(room // 4, room - room // 4 + 1))
        canvas.paste(image, *((along, across) if axis == "x" else (across, along)))
    before, after = RELATIONS[axis]
    anchor = "the " + between.phrase.split(" ", 1)[1]
    one = "the " + twice.phrase.split(" ", 1)[1]
    return [Phrase(f"{one} {before} {anchor}", "relation", canvas.box(0)),
            Phrase(f"{one} {after} {anchor}", "relation", canvas.box(2)),
            Phrase(between.phrase, "plain", canvas.box(1))], [twice, between]


def absent(rng: np.random.Generator, stamps: list[Stamp], there: list[Stamp], photo: Photo,
           count: int) -> list[Phrase]:
    seen = set().union(*(words(text) for text in photo.captions), *(words(s.phrase) for s in there))
    categories = {stamp.category for stamp in there}
    others = [s for s in stamps if s.category not in categories and not words(s.phrase) & seen]
    chosen = rng.permutation(len(others))[:count]
    return [Phrase(others[i].phrase, "absent", None) for i in chosen]


def make_scene(rng: np.random.Generator, sources: Sources) -> Scene:
    photo = sources.photos[rng.integers(len(sources.photos))]
    size = SIZES[rng.integers(len(SIZES))]
    canvas = Canvas(cover(open_photo(photo), *size))
    arrange = relation if rng.random() < 0.5 else plain
    phrases, there = arrange(rng, canvas, sources.stamps)
    phrases += absent(rng, sources.stamps, there, photo, len(phrases))
    return Scene(canvas.image, phrases)
