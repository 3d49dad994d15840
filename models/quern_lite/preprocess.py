"""The picture preprocessing that quern-lite's package describes, on Pillow.

Quern's media layer computes the same; its golden vectors come from here. All
filters are Pillow's: separable, antialiased, on uint8, ``reducing_gap`` unset.
"""

from pathlib import Path

import numpy as np
from PIL import Image, ImageOps

SIDE = 224  # Pixels, both ways.
MEAN = 127.0  # In 0..255 units, the same for the three channels.
STD = 128.0
WHITE = (255, 255, 255)


def load_rgb(path: Path) -> Image.Image:
    """Decodes, turns upright by EXIF, puts alpha on white. Returns an RGB image."""
    image = ImageOps.exif_transpose(Image.open(path))
    if image.mode in ("RGBA", "LA", "PA") or "transparency" in image.info:
        image = image.convert("RGBA")
        image = Image.alpha_composite(Image.new("RGBA", image.size, WHITE + (255,)), image)
    return image.convert("RGB")


def letterbox(image: Image.Image, side: int = SIDE) -> Image.Image:
    """Scales the longer side to ``side`` and centres the result on a white square."""
    scale = min(side / image.width, side / image.height)
    width = max(1, min(side, int(image.width * scale + 0.5)))
    height = max(1, min(side, int(image.height * scale + 0.5)))
    canvas = Image.new("RGB", (side, side), WHITE)
    resized = image.resize((width, height), Image.Resampling.BICUBIC)
    canvas.paste(resized, ((side - width) // 2, (side - height) // 2))
    return canvas


def squash(image: Image.Image, side: int = SIDE) -> Image.Image:
    """Resizes to a square whatever the aspect."""
    return image.resize((side, side), Image.Resampling.BICUBIC)


def normalise(image: Image.Image) -> np.ndarray:
    """RGB image -> float32 [3,H,W], (x - MEAN) / STD."""
    pixels = np.asarray(image, dtype=np.float32).transpose(2, 0, 1)
    return np.ascontiguousarray((pixels - MEAN) / STD)
