"""Takes the parts of a tower out of other libraries' modules."""

from pathlib import Path
from typing import Any

import json
from torch import nn

from quern_export.package import ExportError, Preprocess
from quern_export.towers import Block, Mlp, SelfAttention, joined

PIXEL_MAX = 255.0
# PIL's numbers of the resampling filters.
FILTERS = {2: "bilinear", 3: "bicubic"}
ACTIVATIONS = {"gelu": "gelu", "quick_gelu": "quick_gelu", "gelu_pytorch_tanh": "gelu_tanh", "gelu_new": "gelu_tanh"}


def norm_of(module: nn.Module) -> nn.Module:
    """A plain LayerNorm, or nothing, in place of a library's own kind."""
    if isinstance(module, nn.Identity):
        return nn.Identity()
    if not isinstance(module, nn.LayerNorm):
        raise ExportError(f"there is a {type(module).__name__} where a LayerNorm should be: "
                          "use the generic exporter")
    norm = nn.LayerNorm(module.normalized_shape, eps=module.eps)
    norm.load_state_dict(module.state_dict())
    return norm


def activation_of(name: str) -> str:
    if name not in ACTIVATIONS:
        raise ExportError(f"the activation is {name!r}, known are {', '.join(ACTIVATIONS)}: use the generic exporter")
    return ACTIVATIONS[name]


def transformers_block(layer: nn.Module, heads: int, activation: str) -> Block:
    """An encoder layer of CLIP or SigLIP in transformers."""
    attention = layer.self_attn
    return Block(norm_of(layer.layer_norm1),
                 SelfAttention(joined(attention.q_proj, attention.k_proj, attention.v_proj), attention.out_proj, heads),
                 norm_of(layer.layer_norm2), Mlp(layer.mlp.fc1, layer.mlp.fc2, activation))


def transformers_blocks(encoder: nn.Module, config: Any) -> list[Block]:
    activation = activation_of(config.hidden_act)
    return [transformers_block(layer, config.num_attention_heads, activation) for layer in encoder.layers]


def transformers_preprocess(folder: Path, side: int, default: dict[str, Any]) -> Preprocess:
    """As the checkpoint's preprocessor_config.json says; what it leaves out is as in ``default``."""
    settings = dict(default)
    file = folder / "preprocessor_config.json"
    if file.is_file():
        settings |= json.loads(file.read_text(encoding="utf-8"))
    filter_number = settings["resample"]
    if filter_number not in FILTERS:
        raise ExportError(f"resample is {filter_number} in {file}: it must be 2 (bilinear) or 3 (bicubic)")
    crop = settings.get("do_center_crop", False)
    resize = "center_crop_floor" if crop and "shortest_edge" in as_size(settings["size"], shortest=crop) else "squash"
    if resize == "center_crop_floor":
        shortest = as_size(settings["size"], shortest=True)["shortest_edge"]
        if shortest != side:
            raise ExportError(f"pictures are resized to {shortest} and cropped to {side}: the two must be equal")
    return Preprocess(width=side, height=side, resize=resize, filter=FILTERS[filter_number],
                      mean=tuple(value * PIXEL_MAX for value in settings["image_mean"]),
                      std=tuple(value * PIXEL_MAX for value in settings["image_std"]))


def as_size(size: Any, *, shortest: bool) -> dict[str, int]:
    """Older files have a number."""
    if isinstance(size, int):
        return {"shortest_edge": size} if shortest else {"height": size, "width": size}
    return size
