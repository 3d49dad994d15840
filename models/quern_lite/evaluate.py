"""Measures a finished package end to end: Pillow decoding, its TorchScript, its tokeniser.

    python evaluate.py --package DIR --dev-images DIR --dev-captions FILE.tsv
        --stamps DIR --backbone FILE.pth --classes _meta.py [--output figures.json]

``--stamps`` is a folder that tools/stamps.py has run in.
"""

import argparse
import json
from collections.abc import Callable
from pathlib import Path

import numpy as np
import torch

from classes import class_names, prompts
from package import Package
from preprocess import letterbox, load_rgb, normalise, squash
from towers import Lite0

RANKS = (1, 5, 10)
CONFIDENT = 0.5  # ImageNet posterior from which a photo counts in the agreement.
PICTURES_AT_ONCE = 16


def read_captions(file: Path) -> tuple[list[str], list[str], np.ndarray]:
    """Returns the pictures in order of first mention, the captions, and each caption's picture."""
    pairs = [line.split("\t", 1) for line in file.read_text(encoding="utf-8").splitlines()]
    rows: dict[str, int] = {}
    owners = [rows.setdefault(name, len(rows)) for name, _ in pairs]
    return list(rows), [caption for _, caption in pairs], np.array(owners)


def recalls(ranks: np.ndarray) -> dict[str, float]:
    return {f"R@{k}": round(100.0 * float((ranks < k).mean()), 1) for k in RANKS}


def retrieval(similarity: np.ndarray, owners: np.ndarray) -> dict[str, dict[str, float]]:
    """``similarity`` [captions,pictures]; ``owners`` [captions], the right picture of each."""
    right = similarity[np.arange(len(owners)), owners]
    text_ranks = (similarity > right[:, None]).sum(1)
    best = np.full(similarity.shape[1], -np.inf)
    np.maximum.at(best, owners, right)
    image_ranks = (similarity > best[None, :]).sum(0)
    return {"text_to_image": recalls(text_ranks), "image_to_text": recalls(image_ranks)}


def recall_sum(figures: dict[str, dict[str, float]]) -> float:
    return round(sum(value for one_way in figures.values() for value in one_way.values()), 1)


def imagenet_agreement(package: Package, files: list[Path], embeddings: np.ndarray,
                       weights: Path, names: list[str]) -> dict[str, float]:
    """How often the best of 1,000 class prompts is the classifier's own best class."""
    net = Lite0()
    net.load_state_dict(torch.load(weights, weights_only=True))
    net.eval()
    posteriors = []
    with torch.inference_mode():
        for start in range(0, len(files), PICTURES_AT_ONCE):
            chosen = files[start : start + PICTURES_AT_ONCE]
            pixels = np.stack([normalise(squash(load_rgb(file))) for file in chosen])
            top, _ = net(torch.from_numpy(pixels))
            posteriors.append(torch.softmax(net._fc(top.mean((2, 3))), 1).numpy())
    posterior = np.concatenate(posteriors)
    chosen_class = (embeddings @ package.embed_texts(prompts(names)[0]).T).argmax(1)
    confident = posterior.max(1) > CONFIDENT
    agrees = chosen_class == posterior.argmax(1)
    return {"photos": int(confident.sum()),
            "top_1": round(100.0 * float(agrees[confident].mean()), 1)}


def stamp_figures(package: Package, folder: Path) -> dict[str, object]:
    files, texts, owners = read_captions(folder / "captions.tsv")
    queries = package.embed_texts(texts)
    figures: dict[str, object] = {"pictures": len(files)}
    resizes: dict[str, Callable] = {"letterbox": letterbox, "squash": squash}
    for name, resize in resizes.items():
        package.resize = resize
        pictures = package.embed_files([folder / file for file in files])
        figures[name] = retrieval(queries @ pictures.T, owners)["text_to_image"]
    return figures


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    for name in ("package", "dev-images", "dev-captions", "stamps", "backbone", "classes"):
        parser.add_argument(f"--{name}", type=Path, required=True)
    parser.add_argument("--output", type=Path)
    arguments = parser.parse_args()
    package = Package(arguments.package)
    names, captions, owners = read_captions(arguments.dev_captions)
    files = [arguments.dev_images / name for name in names]
    pictures = package.embed_files(files)
    dev = retrieval(package.embed_texts(captions) @ pictures.T, owners)
    figures = {
        "flickr8k_dev": {"pictures": len(files), **dev, "recall_sum": recall_sum(dev)},
        "imagenet_agreement": imagenet_agreement(package, files, pictures, arguments.backbone,
                                                 class_names(arguments.classes)),
        "stamps": stamp_figures(package, arguments.stamps),
    }
    text = json.dumps(figures, indent=1)
    print(text)
    if arguments.output:
        arguments.output.write_text(text + "\n", encoding="utf-8")


if __name__ == "__main__":
    main()
