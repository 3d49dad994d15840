"""Writes a model package: model.json, towers, tokeniser, canary.

Nothing is left behind unless the written towers, read back from disk, give what the original
model gives: for pictures and texts alone and in company, at several padded lengths.
"""

import json
import shutil
import tempfile
import warnings
import zipfile
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, Callable, Sequence

import numpy as np
import torch
from PIL import Image
from torch import Tensor, nn

from quern_export.tokenizers import Tokenizer

TOLERANCE = 1e-4  # Of a value of a unit vector: between the original and the written towers.
CANARY_TOLERANCE = 1e-3  # The same at load: other processors round otherwise.
ZIP_DATE = (1980, 1, 1, 0, 0, 0)

CANARY_TEXTS = (
    "a photo of a cat",
    "Two dogs are running through the snow.",
    "Ein Mädchen mit rotem Fahrrad vor einem großen Haus",
    "一只猫坐在窗边",
    "قطة سوداء على السجادة",
    "🐕 in the park 🌳",
    "the street of a small town in the evening, with people, bicycles and lamps " * 12,
)


class ExportError(Exception):
    """What is wrong with the model or the command line, in a sentence with the cure."""


@dataclass(frozen=True)
class Preprocess:
    """Of pictures; ``mean`` and ``std`` are in units of 0..255."""

    width: int
    height: int
    resize: str  # "center_crop", "center_crop_floor", "squash" or "letterbox"
    filter: str  # "bicubic" or "bilinear"
    mean: tuple[float, float, float]
    std: tuple[float, float, float]
    pad_rgb: tuple[int, int, int] = (255, 255, 255)

    def description(self) -> dict[str, Any]:
        return {"width": self.width, "height": self.height, "resize": self.resize, "filter": self.filter,
                "antialias": True, "pad_rgb": list(self.pad_rgb), "mean": list(self.mean),
                "std": list(self.std)}

    def normalise(self, picture: Image.Image) -> Tensor:
        """A picture of the right size as float [1, 3, height, width]."""
        assert picture.size == (self.width, self.height)
        values = np.asarray(picture.convert("RGB"), dtype=np.float32)
        values = (values - np.float32(self.mean)) / np.float32(self.std)
        return torch.from_numpy(values.transpose(2, 0, 1).copy())[None]


@dataclass
class ImageTower:
    """``module``: pixels -> [rows, dimension]; with ``dense_stride``, its method ``dense`` gives
    [rows, height / stride, width / stride, dimension]. ``reference`` is the original model.
    """

    module: nn.Module
    preprocess: Preprocess
    size_multiple: int
    dense_stride: int = 0  # Pixels per cell; 0: no grid.
    reference: Callable[[Tensor], Tensor] | None = None


@dataclass
class TextTower:
    """``module``: ids, mask -> [rows, dimension]; with ``has_tokens``, its method ``tokens`` gives
    [rows, tokens, dimension], and with ``has_packed``, ``packed`` takes what packed() gives ->
    [texts, dimension]. ``reference`` takes the ids of one text.
    """

    module: nn.Module
    tokenizer: Tokenizer
    has_tokens: bool = False
    reference: Callable[[list[int]], Tensor] | None = None
    has_packed: bool = False


@dataclass
class MatchHead:
    """``module``: pixels, ids, mask -> [rows]. ``reference`` takes one picture and one text's ids."""

    module: nn.Module
    reference: Callable[[Tensor, list[int]], Tensor] | None = None


@dataclass
class Model:
    name: str
    version: str
    description: str
    licence: str
    dimension: int
    image: ImageTower
    text: TextTower
    match: MatchHead | None = None
    figures: dict[str, Any] = field(default_factory=dict)


@dataclass(frozen=True)
class Report:
    """Largest differences between the written towers and the original."""

    image: float
    text: float
    match: float | None

    def __str__(self) -> str:
        match = "" if self.match is None else f", match {self.match:.1e}"
        return f"largest difference from the original model: image {self.image:.1e}, text {self.text:.1e}{match}"


def canary_picture(width: int, height: int) -> Image.Image:
    """Made here, so that it is nobody's: hills under a sunset, a lake and three balloons."""
    y, x = np.mgrid[0:height, 0:width].astype(np.float64)
    y, x = y / height, x / width
    picture = np.stack([250 - 90 * y, 150 + 60 * np.sin(3 * y), 110 + 100 * y], -1)
    hills = 0.55 + 0.08 * np.sin(7 * x) + 0.05 * np.sin(17 * x + 1)
    picture = np.where((y > hills)[..., None], np.stack([50 + 60 * y, 110 - 30 * x, 60 + 0 * x], -1), picture)
    picture = np.where((y > 0.82)[..., None], np.stack([60 + 30 * x, 120 + 20 * np.sin(60 * y), 170 + 0 * x], -1),
                       picture)
    for centre, radius, colour in (((0.25, 0.3), 0.11, (220, 40, 50)), ((0.55, 0.2), 0.07, (250, 220, 70)),
                                   ((0.78, 0.38), 0.09, (60, 80, 200))):
        inside = (x - centre[0]) ** 2 + (y - centre[1]) ** 2 < radius ** 2
        picture = np.where(inside[..., None], np.array(colour, dtype=np.float64), picture)
    grain = np.random.default_rng(11).integers(-9, 10, (height, width, 1))
    return Image.fromarray(np.clip(picture + grain, 0, 255).astype(np.uint8))


def padded(texts: Sequence[list[int]], length: int | None = None) -> tuple[Tensor, Tensor]:
    """As the server passes them: ids padded with 0, and the mask."""
    length = max(map(len, texts)) if length is None else length
    ids = torch.zeros(len(texts), length, dtype=torch.int64)
    mask = torch.zeros(len(texts), length, dtype=torch.int64)
    for row, text in enumerate(texts):
        ids[row, :len(text)] = torch.tensor(text)
        mask[row, :len(text)] = 1
    return ids, mask


def packed(texts: Sequence[list[int]]) -> tuple[Tensor, Tensor, Tensor, int]:
    """As the server passes them where the tower has ``packed``: texts one behind the other.

    Ids, positions (a token's place in its text) and segments (the number of its text, -1 for
    padding), int64 [tokens] each, and how many texts; a text of no tokens may be last.
    """
    padding = 3
    ids = [token for text in texts for token in text] + [0] * padding
    positions = [place for text in texts for place in range(len(text))] + [0] * padding
    segments = [number for number, text in enumerate(texts) for _ in text] + [-1] * padding
    return torch.tensor(ids), torch.tensor(positions), torch.tensor(segments), len(texts) + 1


def unit(rows: Tensor) -> Tensor:
    return nn.functional.normalize(rows.to(torch.float32), dim=-1)


def largest(a: Tensor, b: Tensor) -> float:
    """Infinite when a value is not a number."""
    difference = (a - b).abs().max().item()
    return difference if difference == difference else float("inf")


def write_module(module: nn.Module, file: Path) -> None:
    """Compiles, unless it is TorchScript already. The server freezes what it loads."""
    module = module.eval()
    for parameter in module.parameters():
        parameter.requires_grad_(False)
    with warnings.catch_warnings():
        warnings.simplefilter("ignore", DeprecationWarning)
        compiled = module if isinstance(module, torch.jit.ScriptModule) else torch.jit.script(module)
    compiled.save(str(file))
    without_source_positions(file)


def without_source_positions(file: Path) -> None:
    """Leaves out the records that name the exporter's source files, and the date."""
    part = file.with_suffix(".part")
    with zipfile.ZipFile(file) as old, zipfile.ZipFile(part, "w", zipfile.ZIP_STORED) as new:
        for entry in sorted(old.infolist(), key=lambda entry: entry.filename):
            if not entry.filename.endswith(".debug_pkl"):
                new.writestr(zipfile.ZipInfo(entry.filename, ZIP_DATE), old.read(entry))
    part.replace(file)


def capabilities(model: Model) -> list[str]:
    return [name for name, present in (
        ("image.global", True), ("image.dense", model.image.dense_stride > 0), ("text.global", True),
        ("text.tokens", model.text.has_tokens), ("match", model.match is not None)) if present]


def description(model: Model) -> dict[str, Any]:
    image_methods = {"global": "forward"} | ({"dense": "dense"} if model.image.dense_stride else {})
    image = {"file": "image.ts", "methods": image_methods, "preprocess": model.image.preprocess.description(),
             "size_multiple": model.image.size_multiple}
    if model.image.dense_stride:
        image["dense_stride"] = model.image.dense_stride
    text_methods = {"global": "forward"} | {name: name for name, present in (
        ("tokens", model.text.has_tokens), ("packed", model.text.has_packed)) if present}
    result = {
        "format_version": 1, "name": model.name, "version": model.version, "description": model.description,
        "licence": model.licence, "embedding": {"dimension": model.dimension, "metric": "cosine"},
        "capabilities": capabilities(model), "image": image,
        "text": {"file": "text.ts", "methods": text_methods, "tokenizer": model.text.tokenizer.description()},
    }
    if model.match is not None:
        result["match"] = {"file": "match.ts", "methods": {"score": "forward"}}
    return result | {"canary": {"file": "canary/canary.json"}, "calibration": {}, "figures": model.figures}


class WrittenModel:
    """The towers as they are on disk."""

    def __init__(self, folder: Path, model: Model):
        with warnings.catch_warnings():
            warnings.simplefilter("ignore", DeprecationWarning)
            self.image = torch.jit.load(str(folder / "image.ts")).eval()
            self.text = torch.jit.load(str(folder / "text.ts")).eval()
            self.match = torch.jit.load(str(folder / "match.ts")).eval() if model.match else None


def expect_shape(what: str, tensor: Tensor, shape: tuple[int, ...]) -> None:
    if tuple(tensor.shape) != shape:
        raise ExportError(f"{what} gave the shape {list(tensor.shape)}, expected {list(shape)}: change the module, "
                          "or the dimension and size that it is exported with")


def check_close(what: str, actual: Tensor, expected: Tensor) -> float:
    difference = largest(actual, expected)
    if not difference <= TOLERANCE:
        raise ExportError(f"{what} differs by {difference:.2e} from the original model, allowed are {TOLERANCE}: "
                          "its architecture is not the one that this exporter knows; use the generic exporter")
    return difference


def check_image(model: Model, written: WrittenModel, pixels: Tensor) -> tuple[Tensor, float]:
    """The canary picture's vector from the original model, and how far the written tower is off."""
    tower = model.image
    original = tower.reference or tower.module
    expected = unit(original(pixels))
    expect_shape("the image tower", expected, (1, model.dimension))
    company = torch.cat([pixels.flip(-1), pixels, pixels * 0.5])
    rows = written.image(company)
    expect_shape("the image tower", rows, (3, model.dimension))
    difference = max(check_close("the image tower", unit(rows)[1:2], expected),
                     check_close("the image tower", unit(written.image(pixels)), expected),
                     check_close("the image tower", unit(rows)[0:1], unit(original(company[0:1]))))
    return expected[0], difference


def canary_cells(model: Model, written: WrittenModel, pixels: Tensor) -> list[dict[str, Any]]:
    """Corners and centre of the grid."""
    height = model.image.preprocess.height // model.image.dense_stride
    width = model.image.preprocess.width // model.image.dense_stride
    grid = written.image.dense(pixels)
    expect_shape("the dense output", grid, (1, height, width, model.dimension))
    twice = written.image.dense(torch.cat([pixels.flip(-1), pixels]))
    check_close("the dense output of two pictures", unit(twice[1:2]), unit(grid))
    places = {(0, 0), (0, width - 1), (height - 1, 0), (height - 1, width - 1), (height // 2, width // 2)}
    return [{"row": row, "column": column, "embedding": rounded(unit(grid)[0, row, column])}
            for row, column in sorted(places)]


def check_texts(model: Model, written: WrittenModel, ids: list[list[int]]) -> tuple[Tensor, float]:
    tower = model.text
    original = tower.reference or (lambda text: tower.module(*padded([text])))
    expected = unit(torch.cat([original(text) for text in ids]))
    expect_shape("the text tower", expected, (len(ids), model.dimension))
    together = written.text(*padded(ids))
    expect_shape("the text tower", together, (len(ids), model.dimension))
    difference = check_close("the text tower", unit(together), expected)
    for row, text in enumerate(ids):
        alone = written.text(*padded([text]))
        difference = max(difference, check_close("the text tower", unit(alone), expected[row:row + 1]))
    if tower.has_packed:
        rows = written.text.packed(*packed(ids))
        expect_shape("the packed texts", rows, (len(ids) + 1, model.dimension))
        difference = max(difference, check_close("the packed texts", unit(rows)[:-1], expected))
    if tower.has_tokens:
        expect_shape("the tokens of a text", written.text.tokens(*padded(ids)),
                     (len(ids), max(map(len, ids)), model.dimension))
    return expected, difference


def check_match(model: Model, written: WrittenModel, pixels: Tensor, ids: list[list[int]]) -> tuple[Tensor, float]:
    """A score per text with the one picture."""
    head = model.match
    original = head.reference or (lambda picture, text: head.module(picture, *padded([text])))
    expected = torch.cat([original(pixels, text).reshape(1) for text in ids])
    together = written.match(pixels.expand(len(ids), -1, -1, -1), *padded(ids))
    expect_shape("the match head", together, (len(ids),))
    scale = expected.abs().clamp(min=1)  # Logits are of any size.
    return expected, check_close("the match head", together / scale, expected / scale)


def rounded(vector: Tensor) -> list[float]:
    return [round(value, 6) for value in vector.tolist()]


def write_canary(model: Model, folder: Path) -> Report:
    preprocess = model.image.preprocess
    (folder / "canary").mkdir()
    picture = canary_picture(preprocess.width, preprocess.height)
    picture.save(folder / "canary" / "image.png", optimize=True)
    pixels = preprocess.normalise(picture)
    ids = [model.text.tokenizer.encode(text) for text in CANARY_TEXTS]
    written = WrittenModel(folder, model)
    with torch.inference_mode():
        image, image_difference = check_image(model, written, pixels)
        entry = {"file": "image.png", "embedding": rounded(image)}
        if model.image.dense_stride:
            entry["cells"] = canary_cells(model, written, pixels)
        texts, text_difference = check_texts(model, written, ids)
        canary = {"texts": [{"text": text, "ids": ids[row], "embedding": rounded(texts[row])}
                            for row, text in enumerate(CANARY_TEXTS)],
                  "images": [entry], "tolerance": CANARY_TOLERANCE}
        match_difference = None
        if model.match is not None:
            scores, match_difference = check_match(model, written, pixels, ids)
            canary["matches"] = [{"text": text, "file": "image.png", "score": score}
                                 for text, score in zip(CANARY_TEXTS, rounded(scores))]
    write_json(canary, folder / "canary" / "canary.json")
    return Report(image_difference, text_difference, match_difference)


def write_json(value: Any, file: Path, indent: int | None = None) -> None:
    file.write_text(json.dumps(value, indent=indent, ensure_ascii=False, allow_nan=False) + "\n", encoding="utf-8")


def write_package(model: Model, output: Path, *, force: bool = False) -> Report:
    """``output`` appears complete or not at all; an older one is replaced only with ``force``."""
    if output.exists() and not force:
        raise ExportError(f"{output} exists: say --force to replace it")
    output.parent.mkdir(parents=True, exist_ok=True)
    folder = Path(tempfile.mkdtemp(prefix=f".{output.name}-", dir=output.parent))
    try:
        folder.chmod(0o755)
        report = write_into(model, folder)
        if output.exists():
            shutil.rmtree(output)
        folder.rename(output)
    except BaseException:
        shutil.rmtree(folder, ignore_errors=True)
        raise
    return report


def write_into(model: Model, folder: Path) -> Report:
    write_module(model.image.module, folder / "image.ts")
    write_module(model.text.module, folder / "text.ts")
    if model.match is not None:
        write_module(model.match.module, folder / "match.ts")
    model.text.tokenizer.write(folder)
    write_json(description(model), folder / "model.json", indent=1)
    return write_canary(model, folder)
