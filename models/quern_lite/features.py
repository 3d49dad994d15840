"""Frozen features of pictures and captions, cached for ``train.py``.

Image views are numbered: 0 the picture, 1 its mirror image, from 2 on random
crops, from 8 on random crops cut out and put on white. Each is seeded by its number
and the picture's row, so a cache can grow.
"""

import random
from collections.abc import Iterator
from concurrent.futures import Future, ThreadPoolExecutor
from pathlib import Path

import numpy as np
import torch
from PIL import Image, ImageDraw, ImageEnhance, ImageOps
from torch import Tensor, nn
from torch.nn.utils.fusion import fuse_conv_bn_eval

from preprocess import SIDE, WHITE, load_rgb, normalise, squash
from towers import ExpandedBlock, ImageTower, Lite0

BATCH = 16
FIRST_CUT_OUT = 8  # Views from this number on lie on white.
VIEWS = 9


def view_of(image: Image.Image, view: int, row: int) -> Image.Image:
    """The 224 x 224 view numbered ``view`` of the picture in row ``row``."""
    if view == 0:
        return squash(image)
    if view == 1:
        return ImageOps.mirror(squash(image))
    rng = random.Random(view * 1_000_003 + row)
    crop = random_crop(image, rng)
    return crop if view < FIRST_CUT_OUT else cut_out(crop, rng)


def random_crop(image: Image.Image, rng: random.Random) -> Image.Image:
    """Area U(.5,1), log-uniform aspect 3/4..4/3, half of them mirrored, colour U(.7,1.3)."""
    area = rng.uniform(0.5, 1.0) * image.width * image.height
    aspect = (4 / 3) ** rng.uniform(-1.0, 1.0)
    width = min(image.width, round((area * aspect) ** 0.5))
    height = min(image.height, round((area / aspect) ** 0.5))
    left = rng.randint(0, image.width - width)
    top = rng.randint(0, image.height - height)
    crop = squash(image.crop((left, top, left + width, top + height)))
    if rng.random() < 0.5:
        crop = ImageOps.mirror(crop)
    for enhance in (ImageEnhance.Brightness, ImageEnhance.Contrast, ImageEnhance.Color):
        crop = enhance(crop).enhance(rng.uniform(0.7, 1.3))
    return crop


def cut_out(image: Image.Image, rng: random.Random) -> Image.Image:
    """Puts the picture, or an ellipse of it, smaller and at a random place on white."""
    width, height = (round(SIDE * rng.uniform(0.45, 1.0)) for _ in range(2))
    mask = Image.new("L", (width, height), 255)
    if rng.random() < 0.5:
        mask = Image.new("L", (width, height), 0)
        ImageDraw.Draw(mask).ellipse((0, 0, width - 1, height - 1), fill=255)
    canvas = Image.new("RGB", (SIDE, SIDE), WHITE)
    corner = (rng.randint(0, SIDE - width), rng.randint(0, SIDE - height))
    canvas.paste(image.resize((width, height), Image.Resampling.BICUBIC), corner, mask)
    return canvas


class PooledFeatures(nn.Module):
    """[B,3,H,W] -> [B,3584+1000]: mean over the cells of their features and posteriors."""

    def __init__(self, tower: ImageTower):
        super().__init__()
        self.tower = tower

    def forward(self, pixels: Tensor) -> Tensor:
        features, posterior = self.tower.cells(pixels)
        return torch.cat([features.float().mean((1, 2)), posterior.float().mean((1, 2))], 1)


def fold_batch_norms(net: Lite0) -> Lite0:
    """Folds every batch norm into the convolution before it, in place."""
    def fold(owner: nn.Module, conv: str, norm: str) -> None:
        setattr(owner, conv, fuse_conv_bn_eval(getattr(owner, conv), getattr(owner, norm)))
        setattr(owner, norm, nn.Identity())
    fold(net, "_conv_stem", "_bn0")
    fold(net, "_conv_head", "_bn1")
    for block in net._blocks:
        if isinstance(block, ExpandedBlock):
            fold(block, "_expand_conv", "_bn0")
        fold(block, "_depthwise_conv", "_bn1")
        fold(block, "_project_conv", "_bn2")
    return net


def frozen_features(weights: Path) -> PooledFeatures:
    tower = ImageTower().eval()
    tower.backbone.load_state_dict(torch.load(weights, weights_only=True))
    fold_batch_norms(tower.backbone)
    return PooledFeatures(tower).to(memory_format=torch.channels_last)


def batches(paths: list[Path], view: int) -> Iterator[Tensor]:
    def pixels(row: int) -> np.ndarray:
        return normalise(view_of(load_rgb(paths[row]), view, row))
    with ThreadPoolExecutor(1) as decoder:
        def decode(start: int) -> Future[np.ndarray]:
            rows = range(start, min(start + BATCH, len(paths)))
            return decoder.submit(lambda: np.stack([pixels(row) for row in rows]))
        ahead = decode(0)
        for start in range(0, len(paths), BATCH):
            ready = ahead.result()
            ahead = decode(start + BATCH) if start + BATCH < len(paths) else ahead
            yield torch.from_numpy(ready)


def cache_view(net: nn.Module, paths: list[Path], view: int, file: Path, dtype: torch.dtype) -> None:
    """Writes float16 [pictures, features] to ``file``, unless it exists."""
    if file.exists():
        return
    out: list[np.ndarray] = []
    with torch.inference_mode():
        for pixels in batches(paths, view):
            x = pixels.to(dtype).to(memory_format=torch.channels_last)
            out.append(net(x).half().numpy())
    part = file.with_suffix(".part")
    with part.open("wb") as stream:
        np.save(stream, np.concatenate(out))
    part.rename(file)
    print("cached", file, flush=True)


def file_names(captions: Path) -> list[str]:
    """The pictures of a ``file<TAB>caption`` list, in order of first mention."""
    lines = captions.read_text(encoding="utf-8").splitlines()
    return list(dict.fromkeys(line.split("\t", 1)[0] for line in lines))
