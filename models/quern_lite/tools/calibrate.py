#!/usr/bin/env python3
"""Fits how probable it is that what a text speaks of is in a picture or a video.

    calibrate.py --package DIR --photos DIR --captions FILE.tsv --stamps DIR [--count N]

``--photos`` and ``--captions`` are photographs and ``file<TAB>caption`` lines; ``--stamps`` is a
folder that stamps.py has run in. From a seed it makes mosaics of 4, 9 and 4 unequal photos, scenes
of 2 or 3 stamps on a photo, and sequences of jittered photos as a video's frames, each with a text
of what is in it and a text of something else. On those of every other photo and stamp it fits a
logistic regression on the peak, the mean and the deviation of the map of cosines; on those of the
rest it measures average precision. Writes ``calibration.json`` beside this folder and puts it into
``model.json`` there.

The map is the one that engine/fine/region_grounder.cc and segment_grounder.cc read: of a picture
squashed to 448 x 448, smoothed over 3 x 3 cells; of a video's frames as they are.
"""

import argparse
import json
import random
import sys
from collections.abc import Callable
from pathlib import Path

import numpy as np
import torch
from PIL import Image, ImageEnhance

FOLDER = Path(__file__).resolve().parent.parent
sys.path.insert(0, str(FOLDER))

from package import Package  # noqa: E402
from preprocess import load_rgb, normalise, squash  # noqa: E402

SIDE = 448  # image.dense_side of the package.
SEED = 5
RIDGE = 1e-2
THRESHOLD = 0.5
Features = tuple[float, float, float]  # Peak, mean, deviation.
Case = tuple[Features, bool]


def read_pairs(file: Path) -> dict[str, list[str]]:
    pairs: dict[str, list[str]] = {}
    for line in file.read_text(encoding="utf-8").splitlines():
        name, text = line.split("\t", 1)
        pairs.setdefault(name, []).append(text)
    return pairs


def summary(scores: np.ndarray) -> Features:
    return float(scores.max()), float(scores.mean()), float(scores.std())


class Maker:
    """Pictures and frames of one half of the photos and stamps."""

    def __init__(self, package: Package, photos: Path, captions: dict[str, list[str]],
                 stamps: Path, descriptions: dict[str, list[str]], seed: int):
        self.package, self.photos, self.captions = package, photos, captions
        self.stamps, self.descriptions = stamps, descriptions
        self.random = random.Random(seed)

    def photo(self, name: str) -> Image.Image:
        return load_rgb(self.photos / name)

    def picture_cases(self, image: Image.Image, there: str, absent: str) -> list[Case]:
        with torch.inference_mode():
            grid = self.package.image.dense(torch.from_numpy(normalise(squash(image, SIDE))[None]))[0].numpy()
        grid /= np.linalg.norm(grid, axis=-1, keepdims=True)
        cases = []
        for text, is_there in ((there, True), (absent, False)):
            scores = grid @ self.package.embed_texts([text])[0]
            padded = np.pad(scores, 1, mode="edge")
            height, width = scores.shape
            smooth = sum(padded[y : y + height, x : x + width] for y in range(3) for x in range(3)) / 9
            cases.append((summary(smooth), is_there))
        return cases

    def mosaic(self) -> list[Case]:
        kind = self.random.choice(("2x2", "3x3", "irregular"))
        if kind == "irregular":
            x, left, right = (self.random.uniform(0.3, 0.7) for _ in range(3))
            boxes = [(0, 0, x, left), (0, left, x, 1), (x, 0, 1, right), (x, right, 1, 1)]
        else:
            n = int(kind[0])
            boxes = [(j / n, i / n, (j + 1) / n, (i + 1) / n) for i in range(n) for j in range(n)]
        names = self.random.sample(sorted(self.captions), len(boxes) + 1)
        canvas = Image.new("RGB", (SIDE, SIDE))
        for box, name in zip(boxes, names):
            left, top, right, bottom = (round(edge * SIDE) for edge in box)
            canvas.paste(self.photo(name).resize((right - left, bottom - top), Image.Resampling.BICUBIC),
                         (left, top))
        return self.picture_cases(canvas, self.random.choice(self.captions[names[0]]),
                                  self.random.choice(self.captions[names[-1]]))

    def scene(self) -> list[Case]:
        canvas = self.photo(self.random.choice(sorted(self.captions))).resize((560, 560), Image.Resampling.BICUBIC)
        chosen = self.random.sample(sorted(self.descriptions), 4)
        corners = self.random.sample([(0, 0), (280, 0), (0, 280), (280, 280)], self.random.choice((2, 3)))
        for name, (left, top) in zip(chosen, corners):
            stamp = Image.open(self.stamps / name).convert("RGBA")
            stamp = stamp.crop(stamp.getchannel("A").getbbox())
            scale = self.random.uniform(140, 280) / max(stamp.size)
            stamp = stamp.resize(tuple(max(8, int(side * scale)) for side in stamp.size), Image.Resampling.BICUBIC)
            canvas.paste(stamp, (left + self.random.randint(0, 280 - stamp.width),
                                 top + self.random.randint(0, 280 - stamp.height)), stamp)
        return self.picture_cases(canvas, self.descriptions[chosen[0]][0], self.descriptions[chosen[-1]][0])

    def video(self) -> list[Case]:
        names = self.random.sample(sorted(self.captions), self.random.randint(4, 7))
        frames = []
        for name in names[:-1]:
            photo = self.photo(name)
            for _ in range(self.random.randint(2, 6)):
                share = self.random.uniform(0.85, 1)
                width, height = int(photo.width * share), int(photo.height * share)
                left, top = self.random.randint(0, photo.width - width), self.random.randint(0, photo.height - height)
                frame = photo.crop((left, top, left + width, top + height))
                frames.append(ImageEnhance.Brightness(frame).enhance(self.random.uniform(0.9, 1.1)))
        embeddings = self.package.embed_images(frames)
        texts = self.package.embed_texts([self.random.choice(self.captions[names[0]]),
                                          self.random.choice(self.captions[names[-1]])])
        return [(summary(embeddings @ texts[0]), True), (summary(embeddings @ texts[1]), False)]


def fit(cases: list[Case]) -> dict[str, float]:
    """Newton's method on the penalised log-likelihood of standardised features."""
    inputs = np.array([features for features, _ in cases])
    labels = np.array([is_there for _, is_there in cases], dtype=float)
    middle, spread = inputs.mean(0), inputs.std(0)
    design = np.column_stack([(inputs - middle) / spread, np.ones(len(cases))])
    weights = np.zeros(design.shape[1])
    for _ in range(50):
        probability = 1 / (1 + np.exp(-design @ weights))
        gradient = design.T @ (probability - labels) + RIDGE * weights
        curvature = (design.T * (probability * (1 - probability))) @ design + RIDGE * np.eye(len(weights))
        weights -= np.linalg.solve(curvature, gradient)
    slopes = weights[:-1] / spread
    values = {"bias": weights[-1] - float(slopes @ middle), **dict(zip(("peak", "mean", "deviation"), slopes))}
    return {name: round(float(value), 4) for name, value in values.items()} | {"threshold": THRESHOLD}


def probabilities(calibration: dict[str, float], cases: list[Case]) -> np.ndarray:
    weights = [calibration[name] for name in ("peak", "mean", "deviation")]
    logits = np.array([features for features, _ in cases]) @ weights + calibration["bias"]
    return 1 / (1 + np.exp(-logits))


def average_precision(calibration: dict[str, float], cases: list[Case]) -> float:
    order = np.argsort(-probabilities(calibration, cases), kind="stable")
    labels = np.array([is_there for _, is_there in cases], dtype=float)[order]
    precision = labels.cumsum() / np.arange(1, len(labels) + 1)
    return float((precision * labels).sum() / labels.sum())


def halves(pairs: dict[str, list[str]]) -> tuple[dict[str, list[str]], dict[str, list[str]]]:
    """Every other one, by name: both have every kind of stamp."""
    names = sorted(pairs)
    return {n: pairs[n] for n in names[::2]}, {n: pairs[n] for n in names[1::2]}


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--package", type=Path, required=True)
    parser.add_argument("--photos", type=Path, required=True)
    parser.add_argument("--captions", type=Path, required=True)
    parser.add_argument("--stamps", type=Path, required=True)
    parser.add_argument("--count", type=int, default=200, help="of each kind and half; default 200")
    arguments = parser.parse_args()
    package = Package(arguments.package)
    photo_halves = halves(read_pairs(arguments.captions))
    stamp_halves = halves(read_pairs(arguments.stamps / "captions.tsv"))
    makers = [Maker(package, arguments.photos, photos, arguments.stamps, stamps, SEED + i)
              for i, (photos, stamps) in enumerate(zip(photo_halves, stamp_halves))]

    def cases(maker: Maker, make: Callable[[Maker], list[Case]]) -> list[Case]:
        return [case for _ in range(arguments.count) for case in make(maker)]

    kinds = {"mosaics": Maker.mosaic, "scenes": Maker.scene, "videos": Maker.video}
    fitted, held_out = ({name: cases(maker, make) for name, make in kinds.items()} for maker in makers)
    calibration = {"regions": fit(fitted["mosaics"] + fitted["scenes"]), "segments": fit(fitted["videos"])}
    for name, of in (("mosaics", "regions"), ("scenes", "regions"), ("videos", "segments")):
        right = ((probabilities(calibration[of], held_out[name]) >= THRESHOLD)
                 == np.array([is_there for _, is_there in held_out[name]])).mean()
        print(f"{name}: average precision {average_precision(calibration[of], held_out[name]):.3f}, "
              f"right at the threshold {100 * right:.1f} %, n = {len(held_out[name])}, half absent")
    (FOLDER / "calibration.json").write_text(json.dumps(calibration, indent=1) + "\n", encoding="utf-8")
    description = json.loads((FOLDER / "model.json").read_text(encoding="utf-8"))
    description["calibration"] = calibration
    (FOLDER / "model.json").write_text(json.dumps(description, indent=1) + "\n", encoding="utf-8")


if __name__ == "__main__":
    main()
