"""SigLIP and SigLIP2 checkpoints of transformers."""

import argparse
from pathlib import Path
from typing import Any

import torch
from torch import Tensor, nn
from torch.nn import functional as F

from quern_export.options import Options
from quern_export.package import ExportError, ImageTower, Model, TextTower as TextPart
from quern_export.parts import activation_of, norm_of, transformers_blocks, transformers_preprocess
from quern_export.tokenizers import SentencePiece
from quern_export.towers import AttentionPool, Mlp, TextTower, VisionTower, linear_of

HALF = (0.5, 0.5, 0.5)
PREPROCESS = {
    1: {"size": {"height": 224, "width": 224}, "resample": 3, "image_mean": HALF, "image_std": HALF},
    2: {"size": {"height": 224, "width": 224}, "resample": 2, "image_mean": HALF, "image_std": HALF},
}
SENTENCEPIECE_FILES = ("spiece.model", "tokenizer.model")


def add_arguments(parser: argparse.ArgumentParser) -> None:
    parser.add_argument("--checkpoint", type=Path, required=True, metavar="DIR",
                        help="a folder with config.json and the weights, as save_pretrained() leaves it")
    parser.add_argument("--tokenizer-model", type=Path, metavar="FILE",
                        help="the SentencePiece model. Default: spiece.model or tokenizer.model in DIR")
    parser.add_argument("--generation", type=int, choices=(1, 2), default=1,
                        help="whose texts: 1 drops punctuation and pads with the end's id, 2 (SigLIP2) keeps it "
                             "and pads with 0. Both lowercase")
    Options.add_to(parser, dense=("values",))


def conv_of(module: nn.Module, channels: int, patch: int) -> nn.Conv2d:
    """SigLIP2's flexible checkpoints have a linear layer over [patch, patch, channels]."""
    if isinstance(module, nn.Conv2d):
        return module
    conv = nn.Conv2d(channels, module.out_features, patch, patch)
    weight = module.weight.detach().view(-1, patch, patch, channels).permute(0, 3, 1, 2)
    conv.weight = nn.Parameter(weight.contiguous())
    conv.bias = nn.Parameter(module.bias.detach().clone())
    return conv


def pool_of(head: nn.Module, config: Any) -> AttentionPool:
    attention = head.attention
    query_weight, key_weight, value_weight = attention.in_proj_weight.chunk(3)
    query_bias, key_bias, value_bias = attention.in_proj_bias.chunk(3)
    return AttentionPool(
        F.linear(head.probe, query_weight, query_bias),
        linear_of(torch.cat([key_weight, value_weight]), torch.cat([key_bias, value_bias])),
        linear_of(attention.out_proj.weight, attention.out_proj.bias), norm_of(head.layernorm),
        Mlp(head.mlp.fc1, head.mlp.fc2, activation_of(config.hidden_act)), config.num_attention_heads)


def is_flexible(model: nn.Module) -> bool:
    """NaFlex checkpoints take patches of pictures of any shape; the package takes squares."""
    return isinstance(model.vision_model.embeddings.patch_embedding, nn.Linear)


def grid_side(model: nn.Module) -> int:
    config = model.config.vision_config
    return round(config.num_patches ** 0.5) if is_flexible(model) else config.image_size // config.patch_size


def image_tower(model: nn.Module) -> VisionTower:
    vision, config = model.vision_model, model.config.vision_config
    side = grid_side(model)
    return VisionTower(
        patch=conv_of(vision.embeddings.patch_embedding, config.num_channels, config.patch_size), class_token=None,
        position=vision.embeddings.position_embedding.weight, grid=(side, side), norm_first=nn.Identity(),
        blocks=transformers_blocks(vision.encoder, config), norm_last=norm_of(vision.post_layernorm),
        projection=nn.Identity(), pool="attention", dense="values", head=pool_of(vision.head, config))


def text_tower(model: nn.Module, pad_id: int) -> TextTower:
    text, config = model.text_model, model.config.text_config
    return TextTower(
        words=text.embeddings.token_embedding, position=text.embeddings.position_embedding.weight,
        blocks=transformers_blocks(text.encoder, config), norm_last=norm_of(text.final_layer_norm),
        projection=text.head, pool="last", pad_to=config.max_position_embeddings, pad_id=pad_id)


def image_reference(model: nn.Module):
    if not is_flexible(model):
        return lambda pixels: model.get_image_features(pixel_values=pixels).pooler_output
    patch = model.config.vision_config.patch_size

    def reference(pixels: Tensor) -> Tensor:
        rows, side = pixels.size(0), grid_side(model)
        patches = F.unfold(pixels, patch, stride=patch).transpose(1, 2)
        patches = patches.view(rows, -1, 3, patch * patch).transpose(2, 3).flatten(2)
        return model.get_image_features(
            pixel_values=patches, pixel_attention_mask=torch.ones(rows, side * side, dtype=torch.int64),
            spatial_shapes=torch.tensor([[side, side]] * rows)).pooler_output

    return reference


def tokenizer_model(folder: Path, named: Path | None) -> Path:
    files = [named] if named else [folder / name for name in SENTENCEPIECE_FILES]
    for file in files:
        if file.is_file():
            return file
    raise ExportError(f"there is no {' or '.join(map(str, files))}: name the SentencePiece model with "
                      "--tokenizer-model")


def build(arguments: argparse.Namespace, options: Options) -> Model:
    from transformers import AutoConfig, Siglip2Model, SiglipModel
    folder = arguments.checkpoint
    if not (folder / "config.json").is_file():
        raise ExportError(f"there is no config.json in {folder}: name a folder that save_pretrained() wrote")
    if options.text_tokens:
        raise ExportError("SigLIP projects the last place of a padded text only: leave out --text-tokens")
    kind = AutoConfig.from_pretrained(folder).model_type
    model = {"siglip": SiglipModel, "siglip2": Siglip2Model}[kind].from_pretrained(folder).eval()
    return build_from(model, arguments, options)


def build_from(model: Any, arguments: argparse.Namespace, options: Options) -> Model:
    folder, generation = arguments.checkpoint, arguments.generation
    text_config, patch = model.config.text_config, model.config.vision_config.patch_size
    length = text_config.max_position_embeddings
    tokenizer = SentencePiece(tokenizer_model(folder, arguments.tokenizer_model), lowercase=True,
                              remove_punctuation=generation == 1, add_bos=False, add_eos=True, max_tokens=length)
    pad_id = tokenizer.end_id if generation == 1 else 0

    def text_reference(ids: list[int]) -> Tensor:
        whole = torch.tensor([ids + [pad_id] * (length - len(ids))])
        return model.get_text_features(input_ids=whole).pooler_output

    return Model(
        name=options.name, version=options.version, licence=options.licence,
        description=options.description or "SigLIP: pictures and texts in one space.",
        dimension=model.config.vision_config.hidden_size,
        image=ImageTower(
            image_tower(model), transformers_preprocess(folder, grid_side(model) * patch, PREPROCESS[generation]),
            size_multiple=patch, dense_stride=0 if options.dense == "none" else patch,
            reference=image_reference(model)),
        text=TextPart(text_tower(model, pad_id), tokenizer, False, text_reference))
