"""Trained heads: from the standardised inputs of training to plain linear maps, and their file."""

from pathlib import Path

import torch
from safetensors.torch import load_file, save_file
from torch import Tensor

from towers import IMAGE_FEATURES

DEAD_STD = 1e-3  # A feature that varies less over the training data is not used.


def standardise(x: Tensor, mean: Tensor, std: Tensor) -> Tensor:
    alive = std > DEAD_STD
    return torch.where(alive, (x - mean) / torch.where(alive, std, 1.0), 0.0)


def fold(weight: Tensor, bias: Tensor, mean: Tensor, std: Tensor) -> tuple[Tensor, Tensor]:
    """W, b with W x + b = weight standardise(x) + bias."""
    scaled = torch.where(std > DEAD_STD, weight / std, 0.0)
    return scaled, bias - scaled @ mean


def fold_image_head(weight: Tensor, bias: Tensor, mean: Tensor, std: Tensor,
                    class_names: Tensor) -> dict[str, Tensor]:
    """``weight`` [512,3584+384] reads features and ConSE; ``class_names`` [1000,384]."""
    plain, offset = fold(weight, bias, mean, std)
    return {"image.features.weight": plain[:, :IMAGE_FEATURES].half(),
            "image.features.bias": offset,
            "image.classes.weight": (plain[:, IMAGE_FEATURES:] @ class_names.T).half()}


def fold_text_head(linear: tuple[Tensor, Tensor], hidden: tuple[Tensor, Tensor],
                   output: tuple[Tensor, Tensor], mean: Tensor, std: Tensor) -> dict[str, Tensor]:
    linear_weight, linear_bias = fold(*linear, mean, std)
    hidden_weight, hidden_bias = fold(*hidden, mean, std)
    return {"text.linear.weight": linear_weight.half(),
            "text.linear.bias": linear_bias + output[1],
            "text.hidden.weight": hidden_weight.half(),
            "text.hidden.bias": hidden_bias,
            "text.output.weight": output[0].half()}


def save_heads(tensors: dict[str, Tensor], path: Path) -> None:
    save_file({name: tensor.detach().contiguous() for name, tensor in tensors.items()}, path)
    path.chmod(0o644)


def load_heads(path: Path, tower: str) -> dict[str, Tensor]:
    """The tensors of one tower ("image" or "text"), float32, names as in its module."""
    prefix = tower + "."
    return {name.removeprefix(prefix): tensor.float()
            for name, tensor in load_file(path).items() if name.startswith(prefix)}
