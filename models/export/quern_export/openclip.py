"""OpenCLIP models with its own vision transformer and text transformer."""

import argparse
import json
from pathlib import Path
from typing import Any

import torch
from torch import nn

from quern_export.options import Options
from quern_export.package import ExportError, ImageTower, Model, Preprocess, TextTower as TextPart
from quern_export.parts import PIXEL_MAX, norm_of
from quern_export.tokenizers import ClipBpe
from quern_export.towers import Block, Mlp, SelfAttention, TextTower, VisionTower, linear_of, scaled_linear

RESIZE = {"shortest": "center_crop", "squash": "squash", "longest": "letterbox"}
GENERIC = "use the generic exporter"


def add_arguments(parser: argparse.ArgumentParser) -> None:
    source = parser.add_mutually_exclusive_group(required=True)
    source.add_argument("--model", metavar="NAME", help="a model of OpenCLIP, such as ViT-B-32")
    source.add_argument("--config", type=Path, metavar="FILE", help="a model configuration of your own (JSON)")
    weights = parser.add_mutually_exclusive_group(required=True)
    weights.add_argument("--weights", type=Path, metavar="FILE", help="a checkpoint of that model")
    weights.add_argument("--pretrained", metavar="TAG", help="OpenCLIP's name of published weights; downloads them")
    parser.add_argument("--bpe", type=Path, metavar="FILE", help="merges (.txt.gz). Default: OpenCLIP's")
    Options.add_to(parser, dense=("naclip", "maskclip"))


def block_of(block: nn.Module) -> Block:
    attention = getattr(block, "attn", None)
    if not isinstance(attention, nn.MultiheadAttention) or hasattr(block, "ln_attn"):
        raise ExportError(f"the model's blocks are not OpenCLIP's plain ones: {GENERIC}")
    activations = {"GELU": "gelu", "QuickGELU": "quick_gelu"}
    activation = block.mlp.gelu
    if getattr(activation, "approximate", "none") == "tanh":
        name = "gelu_tanh"
    elif type(activation).__name__ in activations:
        name = activations[type(activation).__name__]
    else:
        raise ExportError(f"the activation is {type(activation).__name__}: {GENERIC}")
    return Block(
        norm_of(block.ln_1),
        SelfAttention(linear_of(attention.in_proj_weight, attention.in_proj_bias),
                      scaled_linear(attention.out_proj, getattr(block.ls_1, "gamma", None)), attention.num_heads),
        norm_of(block.ln_2),
        Mlp(block.mlp.c_fc, scaled_linear(block.mlp.c_proj, getattr(block.ls_2, "gamma", None)), name))


def projection_of(projection: Any) -> nn.Module:
    if projection is None:
        return nn.Identity()
    return projection if isinstance(projection, nn.Linear) else linear_of(projection.T, None)


def image_tower(visual: nn.Module, dense: str) -> VisionTower:
    from open_clip.transformer import VisionTransformer
    if not isinstance(visual, VisionTransformer) or visual.attn_pool is not None or \
            visual.pool_type not in ("tok", "avg"):
        raise ExportError(f"the image tower is a {type(visual).__name__} that this exporter does not know: {GENERIC}; "
                          "for SigLIP weights the siglip exporter")
    averages = visual.pool_type == "avg"
    if dense == "auto":
        dense = "project" if averages else "naclip"
    return VisionTower(
        patch=visual.conv1, class_token=visual.class_embedding, position=visual.positional_embedding,
        grid=visual.grid_size, norm_first=norm_of(visual.ln_pre),
        blocks=[block_of(block) for block in visual.transformer.resblocks], norm_last=norm_of(visual.ln_post),
        projection=projection_of(visual.proj), pool="mean" if averages else "class", dense=dense,
        norm_after_pool=visual.final_ln_after_pool)


def text_tower(text: nn.Module, pool: str, end_id: int) -> TextTower:
    """``text`` is the text tower, or the whole model where OpenCLIP keeps its parts there."""
    pools = {"argmax": "argmax", "eos": "end"}
    if pool not in pools or getattr(text, "attn_mask", None) is None or getattr(text, "cls_emb", None) is not None:
        raise ExportError(f"the text tower is not causal, or pools by {pool!r}: {GENERIC}")
    return TextTower(
        words=text.token_embedding, position=text.positional_embedding,
        blocks=[block_of(block) for block in text.transformer.resblocks], norm_last=norm_of(text.ln_final),
        projection=projection_of(text.text_projection), pool=pools[pool], end_id=end_id)


def load(arguments: argparse.Namespace) -> tuple[nn.Module, dict[str, Any]]:
    """The model and its preprocessing."""
    import open_clip
    if arguments.model is not None:
        config = open_clip.get_model_config(arguments.model)
        if config is None:
            raise ExportError(f"OpenCLIP has no model {arguments.model!r}: see open_clip.list_models()")
    else:
        config = json.loads(arguments.config.read_text(encoding="utf-8"))
    if "hf_tokenizer_name" in config["text_cfg"] or "hf_model_name" in config["text_cfg"]:
        raise ExportError(f"the text tower is not OpenCLIP's own: {GENERIC}")
    if arguments.pretrained is not None:
        if arguments.model is None:
            raise ExportError("--pretrained needs --model")
        model = open_clip.create_model(arguments.model, pretrained=arguments.pretrained, device="cpu")
        return model.eval(), open_clip.get_model_preprocess_cfg(model)
    preprocess = config.pop("preprocess_cfg", {})
    kind = open_clip.model.CustomTextCLIP if config.pop("custom_text", False) else open_clip.model.CLIP
    model = kind(**config)
    open_clip.load_checkpoint(model, str(arguments.weights))
    return model.eval(), preprocess


def preprocess_of(visual: nn.Module, settings: dict[str, Any]) -> Preprocess:
    from open_clip.constants import OPENAI_DATASET_MEAN, OPENAI_DATASET_STD
    height, width = visual.image_size
    mode = settings.get("resize_mode") or "shortest"
    return Preprocess(
        width=width, height=height, resize=RESIZE[mode],
        filter=settings.get("interpolation") or "bicubic",
        mean=tuple(value * PIXEL_MAX for value in settings.get("mean") or OPENAI_DATASET_MEAN),
        std=tuple(value * PIXEL_MAX for value in settings.get("std") or OPENAI_DATASET_STD),
        pad_rgb=(settings.get("fill_color") or 0,) * 3)


def build(arguments: argparse.Namespace, options: Options) -> Model:
    from open_clip.tokenizer import SimpleTokenizer
    model, settings = load(arguments)
    reference = SimpleTokenizer(str(arguments.bpe)) if arguments.bpe else SimpleTokenizer()
    tokenizer = ClipBpe.from_open_clip(reference, model.context_length)
    text = getattr(model, "text", model)
    pool = getattr(model, "text_pool_type", None) or text.pool_type
    end_id = getattr(model, "text_eos_id", None) or getattr(text, "eos_id", 0)
    patch_height, patch_width = model.visual.patch_size
    if patch_height != patch_width:
        raise ExportError(f"patches are {patch_width} x {patch_height}: they must be square")

    def text_reference(ids: list[int]) -> torch.Tensor:
        return model.encode_text(torch.tensor([ids + [0] * (model.context_length - len(ids))]))

    return Model(
        name=options.name, version=options.version, licence=options.licence,
        description=options.description or "OpenCLIP: pictures and texts in one space.",
        dimension=model.visual.output_dim,
        image=ImageTower(image_tower(model.visual, options.dense), preprocess_of(model.visual, settings),
                         size_multiple=patch_width, dense_stride=0 if options.dense == "none" else patch_width,
                         reference=model.encode_image),
        text=TextPart(text_tower(text, pool, end_id), tokenizer, options.text_tokens, text_reference,
                      has_packed=True))
