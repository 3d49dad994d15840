"""Writes what the repository keeps of the package: skeletons, canary and model.json.

    python export.py --backbone FILE.pth --bert model.safetensors --vocabulary vocab.txt

The skeletons hold code and shapes, no weights; ``quern-assemble`` fills them. The
canary holds inputs and expected outputs that a server checks when it loads the model.
"""

import argparse
import json
import zipfile
from pathlib import Path
from typing import Any

import numpy as np
import torch
from PIL import Image
from torch import nn

from package import build_image_tower, build_text_tower, pad_batch
from preprocess import MEAN, SIDE, STD, WHITE, normalise
from tokens import MAX_TOKENS, encode, reference_tokenizer
from towers import EMBEDDING_DIMENSION, STRIDE

FOLDER = Path(__file__).resolve().parent
VERSION = "1.0.0"
DENSE_SIDE = 448  # Pixels; things are found in grids of 14 x 14 cells.
RESIZE = "letterbox"  # Chosen on the stamps: figures in ../README.md.
ZIP_DATE = (1980, 1, 1, 0, 0, 0)
CANARY_TOLERANCE = 1e-3  # Largest difference of a component of a unit vector.
CANARY_TEXTS = (
    "a dog runs through the snow",
    "Zwei Kinder spielen am Strand.",
    "An old red bus, seen from the side; behind it a grey, rainy street with many people.",
)


def without_data(module: nn.Module) -> nn.Module:
    """Replaces every tensor by one shared zero per type, stretched to its shape."""
    zeros: dict[torch.dtype, torch.Tensor] = {}
    for owner in module.modules():
        for name, value in list(owner.named_parameters(recurse=False)):
            zero = zeros.setdefault(value.dtype, torch.zeros((), dtype=value.dtype))
            setattr(owner, name, nn.Parameter(zero.expand(value.shape), requires_grad=False))
        for name, value in list(owner.named_buffers(recurse=False)):
            zero = zeros.setdefault(value.dtype, torch.zeros((), dtype=value.dtype))
            setattr(owner, name, zero.expand(value.shape))
    return module


def without_source_positions(file: Path) -> None:
    """Rewrites a TorchScript archive without the files that name the exporter's sources."""
    with zipfile.ZipFile(file) as archive:
        records = [(name, archive.read(name)) for name in sorted(archive.namelist())
                   if not name.endswith(".debug_pkl")]
    with zipfile.ZipFile(file, "w", zipfile.ZIP_DEFLATED) as archive:
        for name, data in records:
            archive.writestr(zipfile.ZipInfo(name, ZIP_DATE), data, zipfile.ZIP_DEFLATED)


def write_skeleton(module: nn.Module, file: Path) -> None:
    file.parent.mkdir(parents=True, exist_ok=True)
    torch.jit.script(without_data(module)).save(str(file))
    without_source_positions(file)


def canary_picture() -> Image.Image:
    """A meadow under a sky with a sun, a house and coarse noise: 224 x 224, drawn here."""
    y, x = np.mgrid[0:SIDE, 0:SIDE]
    sky = np.stack([90 + y / 2, 140 + y / 3, np.full_like(y, 235)], -1)
    meadow = np.stack([60 + x / 8, 150 - y / 6, 50 + y / 10], -1)
    picture = np.where((y > 140)[..., None], meadow, sky)
    picture[(x - 180) ** 2 + (y - 40) ** 2 < 24 ** 2] = (255, 230, 90)
    picture[(abs(x - 80) < 40) & (y > 100) & (y < 170)] = (170, 60, 50)
    picture[(abs(x - 80) < 100 - y / 1.0 + 55) & (y > 65) & (y <= 100) & (abs(x - 80) < y - 60)] = (90, 50, 40)
    noise = np.random.default_rng(7).integers(-12, 13, (SIDE // 4, SIDE // 4, 3)).repeat(4, 0).repeat(4, 1)
    return Image.fromarray(np.clip(picture + noise, 0, 255).astype(np.uint8))


def write_canary(image_tower: nn.Module, text_tower: nn.Module, vocabulary: Path, folder: Path) -> None:
    folder.mkdir(parents=True, exist_ok=True)
    picture = canary_picture()
    picture.save(folder / "image.png", optimize=True)
    tokenizer = reference_tokenizer(vocabulary)
    with torch.inference_mode():
        image = image_tower(torch.from_numpy(normalise(picture))[None])[0]
        texts = []
        for text in CANARY_TEXTS:
            ids, _ = encode(tokenizer, text)
            embedding = text_tower(*pad_batch([ids]))[0]
            texts.append({"text": text, "ids": ids, "embedding": rounded(embedding)})
    canary = {"texts": texts,
              "images": [{"file": "image.png",
                          "embedding": rounded(image)}],
              "tolerance": CANARY_TOLERANCE}
    write_json(canary, folder / "canary.json", indent=None)


def rounded(vector: torch.Tensor) -> list[float]:
    return [round(value, 6) for value in vector.tolist()]


def write_json(value: Any, file: Path, indent: int | None = 1) -> None:
    file.write_text(json.dumps(value, indent=indent, ensure_ascii=False) + "\n", encoding="utf-8")


def model_description(calibration: dict[str, object], figures: dict[str, Any]) -> dict[str, Any]:
    return {
        "format_version": 1,
        "name": "quern-lite",
        "version": VERSION,
        "description": "Pictures and English text in one space of 512 dimensions: "
                       "EfficientNet-Lite0 and all-MiniLM-L6-v2, frozen, joined by small heads.",
        "licence": "Apache-2.0 (image weights, text weights); heads: see MODEL_CARD.md",
        "embedding": {"dimension": EMBEDDING_DIMENSION, "metric": "cosine"},
        "capabilities": ["image.global", "image.dense", "text.global"],
        "image": {
            "file": "image.ts",
            "methods": {"global": "forward", "dense": "dense"},
            "preprocess": {"width": SIDE, "height": SIDE, "resize": RESIZE, "filter": "bicubic",
                           "antialias": True, "pad_rgb": list(WHITE),
                           "mean": [MEAN] * 3, "std": [STD] * 3},
            "size_multiple": STRIDE,
            "dense_stride": STRIDE,
            "dense_side": DENSE_SIDE,
        },
        "text": {
            "file": "text.ts",
            "methods": {"global": "forward", "packed": "packed"},
            "tokenizer": {"kind": "wordpiece", "vocabulary": "vocab.txt", "lowercase": True,
                          "strip_accents": True, "max_tokens": MAX_TOKENS},
        },
        "canary": {"file": "canary/canary.json"},
        "calibration": calibration,
        "figures": figures,
    }


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--backbone", type=Path, required=True)
    parser.add_argument("--bert", type=Path, required=True)
    parser.add_argument("--vocabulary", type=Path, required=True)
    arguments = parser.parse_args()
    heads = FOLDER / "heads.safetensors"
    image_tower = build_image_tower(arguments.backbone, heads)
    text_tower = build_text_tower(arguments.bert, heads)
    write_canary(image_tower, text_tower, arguments.vocabulary, FOLDER / "canary")
    write_skeleton(image_tower, FOLDER / "skeletons" / "image.ts")
    write_skeleton(text_tower, FOLDER / "skeletons" / "text.ts")
    figures = json.loads((FOLDER / "figures.json").read_text(encoding="utf-8"))
    calibration = json.loads((FOLDER / "calibration.json").read_text(encoding="utf-8"))
    write_json(model_description(calibration, figures), FOLDER / "model.json")


if __name__ == "__main__":
    main()
