"""BLIP image-text matching checkpoints of transformers: two towers and a match head."""

import argparse
from pathlib import Path
from typing import Any

import torch
from torch import Tensor, nn

from quern_export.options import Options
from quern_export.package import ExportError, ImageTower, MatchHead as MatchPart, Model, TextTower as TextPart
from quern_export.parts import activation_of, norm_of, transformers_preprocess
from quern_export.tokenizers import WordPiece
from quern_export.towers import (BertLayer, BertTower, Block, CrossAttention, MatchHead, Mlp, SelfAttention,
                                 VisionTower, joined)

PREPROCESS = {"size": {"height": 384, "width": 384}, "resample": 3,
              "image_mean": (0.48145466, 0.4578275, 0.40821073),
              "image_std": (0.26862954, 0.26130258, 0.27577711)}


def add_arguments(parser: argparse.ArgumentParser) -> None:
    parser.add_argument("--checkpoint", type=Path, required=True, metavar="DIR",
                        help="a folder with config.json, the weights and vocab.txt, as save_pretrained() leaves it")
    parser.add_argument("--max-tokens", type=int, default=35, metavar="N",
                        help="longest text, special tokens included. Default: 35, as in training")
    Options.add_to(parser, dense=("naclip", "maskclip"))


def vision_block(layer: nn.Module, config: Any) -> Block:
    attention = layer.self_attn
    return Block(norm_of(layer.layer_norm1),
                 SelfAttention(attention.qkv, attention.projection, config.num_attention_heads),
                 norm_of(layer.layer_norm2), Mlp(layer.mlp.fc1, layer.mlp.fc2, activation_of(config.hidden_act)))


def image_tower(model: nn.Module, dense: str) -> VisionTower:
    vision, config = model.vision_model, model.config.vision_config
    side = config.image_size // config.patch_size
    return VisionTower(
        patch=vision.embeddings.patch_embedding, class_token=vision.embeddings.class_embedding,
        position=vision.embeddings.position_embedding, grid=(side, side), norm_first=nn.Identity(),
        blocks=[vision_block(layer, config) for layer in vision.encoder.layers],
        norm_last=norm_of(vision.post_layernorm), projection=model.vision_proj, pool="class", dense=dense)


def text_layer(layer: nn.Module, config: Any) -> BertLayer:
    own, cross, heads = layer.attention.self, layer.crossattention.self, config.num_attention_heads
    return BertLayer(
        SelfAttention(joined(own.query, own.key, own.value), layer.attention.output.dense, heads),
        norm_of(layer.attention.output.LayerNorm),
        CrossAttention(cross.query, joined(cross.key, cross.value), layer.crossattention.output.dense, heads),
        norm_of(layer.crossattention.output.LayerNorm),
        Mlp(layer.intermediate.dense, layer.output.dense, activation_of(config.hidden_act)),
        norm_of(layer.output.LayerNorm))


def text_tower(model: nn.Module) -> BertTower:
    text, config = model.text_encoder, model.config.text_config
    return BertTower(
        words=text.embeddings.word_embeddings, position=text.embeddings.position_embeddings.weight,
        norm_first=norm_of(text.embeddings.LayerNorm),
        layers=[text_layer(layer, config) for layer in text.encoder.layer], projection=model.text_proj)


def build(arguments: argparse.Namespace, options: Options) -> Model:
    from transformers import BlipForImageTextRetrieval
    folder = arguments.checkpoint
    for file in ("config.json", "vocab.txt"):
        if not (folder / file).is_file():
            raise ExportError(f"there is no {file} in {folder}: name a folder that save_pretrained() wrote, with "
                              "the tokeniser's vocab.txt")
    model = BlipForImageTextRetrieval.from_pretrained(folder).eval()
    return build_from(model, arguments, options)


def build_from(model: Any, arguments: argparse.Namespace, options: Options) -> Model:
    folder: Path = arguments.checkpoint
    vision, text = model.config.vision_config, model.config.text_config
    if not 3 <= arguments.max_tokens <= text.max_position_embeddings:
        raise ExportError(f"max-tokens is {arguments.max_tokens}: it must be 3 to {text.max_position_embeddings}")
    dense = "naclip" if options.dense == "auto" else options.dense

    def image_reference(pixels: Tensor) -> Tensor:
        return model.vision_proj(model.vision_model(pixel_values=pixels).last_hidden_state[:, 0])

    def text_reference(ids: list[int]) -> Tensor:
        return model.text_proj(model.text_encoder(input_ids=torch.tensor([ids])).last_hidden_state[:, 0])

    def match_reference(pixels: Tensor, ids: list[int]) -> Tensor:
        logits = model(input_ids=torch.tensor([ids]), pixel_values=pixels).itm_score
        return logits[:, 1] - logits[:, 0]

    image, text_part = image_tower(model, dense), text_tower(model)
    return Model(
        name=options.name, version=options.version, licence=options.licence,
        description=options.description or "BLIP: pictures and texts in one space, with a match head.",
        dimension=model.config.image_text_hidden_size,
        image=ImageTower(image, transformers_preprocess(folder, vision.image_size, PREPROCESS),
                         size_multiple=vision.patch_size,
                         dense_stride=0 if options.dense == "none" else vision.patch_size,
                         reference=image_reference),
        text=TextPart(text_part, WordPiece(folder / "vocab.txt", lowercase=True, strip_accents=True,
                                           max_tokens=arguments.max_tokens),
                      options.text_tokens, text_reference, has_packed=True),
        match=MatchPart(MatchHead(image, text_part, model.itm_head), match_reference))
