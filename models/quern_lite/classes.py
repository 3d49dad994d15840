"""ImageNet's class names, read from torchvision's metadata, and sentences made of them."""

import ast
from pathlib import Path

TEMPLATES = ("a photo of {}.", "{}.", "there is {} in the picture.")


def class_names(metadata: Path) -> list[str]:
    """``metadata``: torchvision/models/_meta.py. It is parsed, not run. Returns 1,000 names."""
    for node in ast.parse(metadata.read_text(encoding="utf-8")).body:
        if isinstance(node, ast.Assign) and getattr(node.targets[0], "id", "") == "_IMAGENET_CATEGORIES":
            return ast.literal_eval(node.value)
    raise ValueError(f"{metadata}: no ImageNet categories")


def with_article(name: str) -> str:
    return ("an " if name[0].lower() in "aeiou" else "a ") + name


def prompts(names: list[str]) -> list[list[str]]:
    """One list of sentences, in class order, for each template."""
    return [[template.format(with_article(name)) for name in names] for template in TEMPLATES]
