"""CLIP checkpoints of transformers."""

import argparse
from pathlib import Path
from typing import Any

import torch
from torch import nn

from quern_export.options import Options
from quern_export.package import ExportError, ImageTower, Model, TextTower as TextPart
from quern_export.parts import norm_of, transformers_blocks, transformers_preprocess
from quern_export.tokenizers import ClipBpe
from quern_export.towers import TextTower, VisionTower

PREPROCESS = {"size": {"shortest_edge": 224}, "do_center_crop": True, "resample": 3,
              "image_mean": (0.48145466, 0.4578275, 0.40821073),
              "image_std": (0.26862954, 0.26130258, 0.27577711)}


def add_arguments(parser: argparse.ArgumentParser) -> None:
    parser.add_argument("--checkpoint", type=Path, required=True, metavar="DIR",
                        help="a folder with config.json, the weights and the tokeniser, as save_pretrained() leaves it")
    Options.add_to(parser, dense=("naclip", "maskclip"))


def image_tower(model: nn.Module, dense: str) -> VisionTower:
    vision, config = model.vision_model, model.config.vision_config
    side = config.image_size // config.patch_size
    return VisionTower(
        patch=vision.embeddings.patch_embedding, class_token=vision.embeddings.class_embedding,
        position=vision.embeddings.position_embedding.weight, grid=(side, side),
        norm_first=norm_of(vision.pre_layrnorm), blocks=transformers_blocks(vision.encoder, config),
        norm_last=norm_of(vision.post_layernorm), projection=model.visual_projection, pool="class", dense=dense)


def text_tower(model: nn.Module) -> TextTower:
    text, config = model.text_model, model.config.text_config
    # transformers itself tells old checkpoints by this wrong id and takes the largest instead.
    old = text.eos_token_id == 2
    return TextTower(
        words=text.embeddings.token_embedding, position=text.embeddings.position_embedding.weight,
        blocks=transformers_blocks(text.encoder, config), norm_last=norm_of(text.final_layer_norm),
        projection=model.text_projection, pool="argmax" if old else "end", end_id=text.eos_token_id)


def build(arguments: argparse.Namespace, options: Options) -> Model:
    from transformers import CLIPModel
    folder = arguments.checkpoint
    if not (folder / "config.json").is_file():
        raise ExportError(f"there is no config.json in {folder}: name a folder that save_pretrained() wrote")
    model = CLIPModel.from_pretrained(folder).eval()
    return build_from(model, folder, options)


def build_from(model: Any, folder: Path, options: Options) -> Model:
    vision = model.config.vision_config
    tokenizer = ClipBpe.from_folder(folder, model.config.text_config.max_position_embeddings)
    patch = vision.patch_size
    return Model(
        name=options.name, version=options.version, licence=options.licence,
        description=options.description or "CLIP: pictures and texts in one space.",
        dimension=model.config.projection_dim,
        image=ImageTower(
            image_tower(model, "naclip" if options.dense == "auto" else options.dense),
            transformers_preprocess(folder, vision.image_size, PREPROCESS), size_multiple=patch,
            dense_stride=0 if options.dense == "none" else patch,
            reference=lambda pixels: model.get_image_features(pixel_values=pixels).pooler_output),
        text=TextPart(text_tower(model), tokenizer, options.text_tokens,
                      lambda ids: model.get_text_features(input_ids=torch.tensor([ids])).pooler_output,
                      has_packed=True))
