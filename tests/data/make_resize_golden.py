#!/usr/bin/env python3
"""Writes tests/data/resize: drawn pictures and what Pillow makes of them.

    python3 -m venv venv && venv/bin/pip install pillow==12.3.0
    venv/bin/python tests/data/make_resize_golden.py

cases.tsv has a line per case: input, mode, filter, width, height, expected. The
expected picture is the one that preprocessing hands to normalisation.
"""

from pathlib import Path

from PIL import Image

FILTERS = {"bilinear": Image.Resampling.BILINEAR, "bicubic": Image.Resampling.BICUBIC}
PADDING = (255, 255, 255)

# Name: width, height.
PICTURES = {
    "dot": (1, 1),
    "line": (1000, 3),
    "column": (3, 1000),
    "small": (17, 13),
    "wide": (97, 40),
    "tall": (41, 90),
}

# Input, target width, target height.
SQUASH = [
    ("dot", 1, 1), ("dot", 5, 4), ("line", 64, 64), ("line", 1, 1), ("line", 1000, 2),
    ("column", 64, 64), ("column", 3, 7), ("small", 17, 13), ("small", 31, 29),
    ("small", 64, 13), ("small", 17, 5), ("wide", 32, 32), ("wide", 96, 41),
    ("wide", 200, 9), ("tall", 32, 32), ("tall", 7, 64),
]
PLACED = [
    ("dot", 4, 4), ("line", 32, 32), ("column", 32, 32), ("small", 32, 32), ("small", 16, 24),
    ("wide", 32, 32), ("wide", 24, 33), ("tall", 32, 32), ("tall", 41, 16),
]


def draw(width: int, height: int) -> Image.Image:
    """Ramps, hard edges and noise, the same on every machine."""
    image = Image.new("RGB", (width, height))
    noise = 12345
    for y in range(height):
        for x in range(width):
            noise = (noise * 1103515245 + 12345) % 2**31
            red = 255 * x // max(1, width - 1)
            green = 255 if (x // 3 + y // 3) % 2 else 255 * y // max(1, height - 1)
            blue = noise >> 23
            image.putpixel((x, y), (red, green, blue))
    return image


def letterbox(image: Image.Image, width: int, height: int, resample) -> Image.Image:
    scale = min(width / image.width, height / image.height)
    inner = (min(width, max(1, int(image.width * scale + 0.5))),
             min(height, max(1, int(image.height * scale + 0.5))))
    canvas = Image.new("RGB", (width, height), PADDING)
    canvas.paste(image.resize(inner, resample),
                 ((width - inner[0]) // 2, (height - inner[1]) // 2))
    return canvas


def center_crop(image: Image.Image, width: int, height: int, resample) -> Image.Image:
    """torchvision's Resize(side) and CenterCrop(side), also for targets not square."""
    if width * image.height >= height * image.width:
        size = (width, int(width * image.height / image.width))
    else:
        size = (int(height * image.width / image.height), height)
    left = int(round((size[0] - width) / 2.0))
    top = int(round((size[1] - height) / 2.0))
    return image.resize(size, resample).crop((left, top, left + width, top + height))


def squash(image: Image.Image, width: int, height: int, resample) -> Image.Image:
    return image.resize((width, height), resample)


def main() -> None:
    folder = Path(__file__).parent / "resize"
    folder.mkdir(exist_ok=True)
    pictures = {name: draw(*size) for name, size in PICTURES.items()}
    for name, picture in pictures.items():
        picture.save(folder / f"{name}.png", optimize=True)
    lines = []
    for mode, place, cases in (("squash", squash, SQUASH), ("letterbox", letterbox, PLACED),
                               ("center_crop", center_crop, PLACED)):
        for name, width, height in cases:
            for filter_name, resample in FILTERS.items():
                expected = f"{name}_{mode}_{filter_name}_{width}x{height}.png"
                place(pictures[name], width, height, resample).save(folder / expected,
                                                                   optimize=True)
                lines.append(f"{name}.png\t{mode}\t{filter_name}\t{width}\t{height}\t{expected}\n")
    (folder / "cases.tsv").write_text("".join(lines))


if __name__ == "__main__":
    main()
