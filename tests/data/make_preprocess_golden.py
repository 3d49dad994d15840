#!/usr/bin/env python3
"""Writes tests/data/preprocess: photographs, and what the exported models' own
preprocessing makes of them.

    python3 -m venv venv
    venv/bin/pip install pillow==12.3.0 torch==2.11.0 torchvision==0.26.0 \\
        transformers==5.24.0 open_clip_torch==3.3.0
    venv/bin/python tests/data/make_preprocess_golden.py STAMPS

STAMPS is the folder of photographs that scripts/setup fetches
(~/.cache/quern/samples/pictures).

cases.tsv has a line per case: photograph, mode, filter, side, mean and standard
deviation of the channels (in units of 0..1), expected. The expected picture is the
model's input with the normalisation undone, of which every STEPth pixel of every STEPth
row is kept, to be small.
"""

import sys
from pathlib import Path

import numpy
import torch
from open_clip.transform import image_transform
from PIL import Image
from transformers import BlipImageProcessor, CLIPImageProcessor, SiglipImageProcessor

from make_resize_golden import letterbox

FOLDER = Path(__file__).parent / "preprocess"
CLIP_MEAN = (0.48145466, 0.4578275, 0.40821073)
CLIP_STD = (0.26862954, 0.26130258, 0.27577711)
HALF = (0.5, 0.5, 0.5)
LITE_MEAN = (127 / 255,) * 3
LITE_STD = (128 / 255,) * 3
STEP = 4

# Name: the stamp, its part (left, top, right, bottom), its size.
PHOTOGRAPHS = {
    "landscape": ("animals/insects/bee.png", (60, 60, 620, 440), (280, 190)),
    "portrait": ("household/tools/spade.png", (0, 1200, 694, 2300), (190, 301)),
    "odd": ("plants/flowers/anemone_red.png", (50, 50, 550, 470), (333, 279)),
    "tiny": ("military/paratrooper.png", (200, 100, 700, 500), (20, 15)),
    "wide": ("vehicles/race/indycar.png", (0, 120, 1226, 190), (900, 51)),
    "tall": ("military/final-roll-call.png", (90, 0, 150, 864), (31, 446)),
    # The decoder shrinks this one while decoding, when it is told the model's side.
    "large": ("animals/insects/bee.png", (0, 0, 671, 538), (1342, 1076)),
}


def make_photographs(stamps: Path) -> dict[str, Image.Image]:
    photographs = {}
    for name, (stamp, part, size) in PHOTOGRAPHS.items():
        image = Image.open(stamps / stamp).convert("RGBA")
        white = Image.new("RGBA", image.size, (255, 255, 255, 255))
        image = Image.alpha_composite(white, image).convert("RGB")
        path = FOLDER / f"{name}.jpg"
        image.resize(size, Image.Resampling.LANCZOS, box=part).save(
            path, quality=70 if name == "large" else 85)
        photographs[name] = Image.open(path).convert("RGB")
    return photographs


def processors() -> list[tuple[str, str, str, int, tuple, tuple, object]]:
    """Name, mode, filter, side, mean, deviation, and a function to channels-first values."""
    def hugging_face(processor):
        return lambda image: processor(image, return_tensors="pt")["pixel_values"][0]

    def quern_lite(image):
        boxed = numpy.asarray(letterbox(image, 224, 224, Image.Resampling.BICUBIC))
        return torch.from_numpy((boxed.astype(numpy.float64) - 127) / 128).permute(2, 0, 1)

    clip = CLIPImageProcessor(size={"shortest_edge": 224}, crop_size=224)
    siglip = SiglipImageProcessor(size={"height": 224, "width": 224}, image_mean=HALF,
                                  image_std=HALF, resample=Image.Resampling.BICUBIC)
    siglip2 = SiglipImageProcessor(size={"height": 256, "width": 256}, image_mean=HALF,
                                   image_std=HALF, resample=Image.Resampling.BILINEAR)
    blip = BlipImageProcessor(size={"height": 384, "width": 384})
    return [
        ("open_clip", "center_crop", "bicubic", 224, CLIP_MEAN, CLIP_STD,
         image_transform(224, is_train=False, mean=CLIP_MEAN, std=CLIP_STD)),
        ("open_clip_squash", "squash", "bicubic", 224, HALF, HALF,
         image_transform(224, is_train=False, mean=HALF, std=HALF, resize_mode="squash")),
        ("hf_clip", "center_crop_floor", "bicubic", 224, CLIP_MEAN, CLIP_STD, hugging_face(clip)),
        ("siglip", "squash", "bicubic", 224, HALF, HALF, hugging_face(siglip)),
        ("siglip2", "squash", "bilinear", 256, HALF, HALF, hugging_face(siglip2)),
        ("quern_lite", "letterbox", "bicubic", 224, LITE_MEAN, LITE_STD, quern_lite),
        ("blip", "squash", "bicubic", 384, CLIP_MEAN, CLIP_STD, hugging_face(blip)),
    ]


def main() -> None:
    FOLDER.mkdir(exist_ok=True)
    for old in FOLDER.iterdir():
        old.unlink()
    photographs = make_photographs(Path(sys.argv[1]))
    lines = []
    for name, mode, filter_name, side, mean, deviation, process in processors():
        for photograph, image in photographs.items():
            values = process(image).to(torch.float64).numpy()
            assert values.shape == (3, side, side), values.shape
            shape = (3, 1, 1)
            pixels = (values * numpy.reshape(deviation, shape) + numpy.reshape(mean, shape)) * 255
            rounded = numpy.rint(pixels)
            # The normalisation is as it is written above.
            assert abs(pixels - rounded).max() < 1e-3
            kept = rounded[:, ::STEP, ::STEP]
            expected = f"{photograph}_{name}.png"
            Image.fromarray(kept.transpose(1, 2, 0).clip(0, 255).astype(numpy.uint8)).save(
                FOLDER / expected, optimize=True)
            numbers = [",".join(map(str, three)) for three in (mean, deviation)]
            lines.append("\t".join([f"{photograph}.jpg", mode, filter_name, str(side), *numbers,
                                    expected]) + "\n")
    (FOLDER / "cases.tsv").write_text("".join(lines))


if __name__ == "__main__":
    main()
