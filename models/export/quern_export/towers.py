"""Transformer towers that TorchScript compiles, filled from other libraries' modules.

Tracing bakes in whatever the traced call looked like: the rows, the padded length, the size of
the picture. These modules are compiled instead, so one file serves every batch, length and size.
They are written against the papers, not against the libraries that the weights come from; so
comparing the two (see package.py) is a check of both.

Shapes: pixels float [rows, 3, height, width]; ids and mask int64 [rows, tokens], padded with 0,
mask 1 for a token and 0 for padding.
"""

import math
from typing import Optional

import torch
from torch import Tensor, nn
from torch.nn import functional as F

ACTIVATIONS = ("gelu", "gelu_tanh", "quick_gelu")


def scaled_linear(linear: nn.Linear, scale: Optional[Tensor]) -> nn.Linear:
    """``scale * linear(x)`` as one layer; LayerScale costs nothing when served."""
    if scale is None:
        return linear
    scaled = nn.Linear(linear.in_features, linear.out_features, bias=linear.bias is not None)
    scaled.weight = nn.Parameter(linear.weight.detach() * scale.detach()[:, None])
    if linear.bias is not None:
        scaled.bias = nn.Parameter(linear.bias.detach() * scale.detach())
    return scaled


def same(a: Tensor, b: Tensor) -> Tensor:
    """[a, b]: where numbers are equal."""
    return a[:, None] == b[None]


def linear_of(weight: Tensor, bias: Optional[Tensor]) -> nn.Linear:
    """``weight`` is [out, in]."""
    linear = nn.Linear(weight.shape[1], weight.shape[0], bias=bias is not None)
    linear.weight = nn.Parameter(weight.detach().clone())
    if bias is not None:
        linear.bias = nn.Parameter(bias.detach().clone())
    return linear


def joined(*linears: nn.Linear) -> nn.Linear:
    """One layer whose output is that of ``linears`` side by side."""
    return linear_of(torch.cat([linear.weight for linear in linears]),
                     torch.cat([linear.bias for linear in linears]))


class Mlp(nn.Module):
    activation: torch.jit.Final[str]

    def __init__(self, first: nn.Linear, second: nn.Linear, activation: str):
        super().__init__()
        if activation not in ACTIVATIONS:
            raise ValueError(f"activation is {activation!r}: it must be one of {', '.join(ACTIVATIONS)}")
        self.first = first
        self.second = second
        self.activation = activation

    def forward(self, x: Tensor) -> Tensor:
        x = self.first(x)
        if self.activation == "quick_gelu":
            x = x * torch.sigmoid(1.702 * x)
        elif self.activation == "gelu_tanh":
            x = F.gelu(x, approximate="tanh")
        else:
            x = F.gelu(x)
        return self.second(x)


class SelfAttention(nn.Module):
    heads: torch.jit.Final[int]

    def __init__(self, qkv: nn.Linear, out: nn.Linear, heads: int):
        super().__init__()
        self.qkv = qkv
        self.out = out
        self.heads = heads

    def split(self, x: Tensor) -> Tensor:
        """[3, rows, heads, tokens, width of a head]"""
        return self.qkv(x).view(x.size(0), x.size(1), 3, self.heads, -1).permute(2, 0, 3, 1, 4)

    def merge(self, x: Tensor) -> Tensor:
        return self.out(x.transpose(1, 2).flatten(2))

    def forward(self, x: Tensor, mask: Optional[Tensor], causal: bool) -> Tensor:
        """``mask`` is boolean, [rows, 1, 1, tokens]: what may be looked at."""
        parts = self.split(x)
        return self.merge(F.scaled_dot_product_attention(
            parts[0], parts[1], parts[2], attn_mask=mask, is_causal=causal))

    def values(self, x: Tensor) -> Tensor:
        """Every token attends to itself alone."""
        return self.merge(self.split(x)[2])

    def neighbours(self, x: Tensor, bias: Tensor) -> Tensor:
        """Tokens attend to those with similar keys; ``bias`` [tokens, tokens] is added to the logits."""
        parts = self.split(x)
        keys = parts[1]
        logits = torch.matmul(keys, keys.transpose(-1, -2)) / math.sqrt(float(keys.size(-1))) + bias
        return self.merge(torch.matmul(logits.softmax(-1), parts[2]))


class CrossAttention(nn.Module):
    heads: torch.jit.Final[int]

    def __init__(self, query: nn.Linear, key_value: nn.Linear, out: nn.Linear, heads: int):
        super().__init__()
        self.query = query
        self.key_value = key_value
        self.out = out
        self.heads = heads

    def forward(self, x: Tensor, context: Tensor) -> Tensor:
        query = self.query(x).view(x.size(0), x.size(1), self.heads, -1).transpose(1, 2)
        parts = self.key_value(context).view(context.size(0), context.size(1), 2, self.heads, -1)
        parts = parts.permute(2, 0, 3, 1, 4)
        attended = F.scaled_dot_product_attention(query, parts[0], parts[1])
        return self.out(attended.transpose(1, 2).flatten(2))


class Block(nn.Module):
    """Normalises before attention and before the MLP."""

    def __init__(self, norm_1: nn.LayerNorm, attention: SelfAttention, norm_2: nn.LayerNorm, mlp: Mlp):
        super().__init__()
        self.norm_1 = norm_1
        self.attention = attention
        self.norm_2 = norm_2
        self.mlp = mlp

    def forward(self, x: Tensor, mask: Optional[Tensor], causal: bool) -> Tensor:
        x = x + self.attention(self.norm_1(x), mask, causal)
        return x + self.mlp(self.norm_2(x))

    def value_path(self, x: Tensor) -> Tensor:
        """MaskCLIP: the block without the mixing of tokens."""
        x = x + self.attention.values(self.norm_1(x))
        return x + self.mlp(self.norm_2(x))

    def neighbour_path(self, x: Tensor, bias: Tensor) -> Tensor:
        """NACLIP: key-key attention alone, without residual and MLP."""
        return self.attention.neighbours(self.norm_1(x), bias)


class AttentionPool(nn.Module):
    """SigLIP's head: one learnt query looks at all patches, an MLP follows."""

    heads: torch.jit.Final[int]

    def __init__(self, query: Tensor, key_value: nn.Linear, out: nn.Linear, norm: nn.LayerNorm, mlp: Mlp,
                 heads: int):
        super().__init__()
        self.query = nn.Parameter(query.detach().clone())  # [1, 1, width], projected already.
        self.key_value = key_value
        self.out = out
        self.norm = norm
        self.mlp = mlp
        self.heads = heads

    def split(self, x: Tensor) -> Tensor:
        """[2, rows, heads, tokens, width of a head]"""
        return self.key_value(x).view(x.size(0), x.size(1), 2, self.heads, -1).permute(2, 0, 3, 1, 4)

    def finish(self, x: Tensor) -> Tensor:
        x = self.out(x.transpose(1, 2).flatten(2))
        return x + self.mlp(self.norm(x))

    def forward(self, x: Tensor) -> Tensor:
        """[rows, width]"""
        parts = self.split(x)
        query = self.query.view(1, 1, self.heads, -1).transpose(1, 2).expand(x.size(0), -1, -1, -1)
        return self.finish(F.scaled_dot_product_attention(query, parts[0], parts[1]))[:, 0]

    def value_path(self, x: Tensor) -> Tensor:
        """What each patch would give if it alone were looked at: [rows, tokens, width]."""
        return self.finish(self.split(x)[1])


class NoPool(nn.Module):
    """Stands where a tower has no attention pool."""

    def forward(self, x: Tensor) -> Tensor:
        return x

    def value_path(self, x: Tensor) -> Tensor:
        return x


class VisionTower(nn.Module):
    """A vision transformer with a text-comparable grid.

    ``pool``: "class" (the class token), "mean" (of the patches) or "attention" (SigLIP's head).
    ``dense``: how the grid comes about.
      naclip, maskclip  a changed last block (for "class": there, patches do not speak the
                        text's language)
      project           the patches as they are (for "mean": the vector is their mean)
      values            the value path of the attention pool
    """

    pool: torch.jit.Final[str]
    dense_method: torch.jit.Final[str]
    norm_after_pool: torch.jit.Final[bool]
    prefix: torch.jit.Final[int]
    grid_height: torch.jit.Final[int]
    grid_width: torch.jit.Final[int]
    neighbourhood: torch.jit.Final[float]

    def __init__(self, *, patch: nn.Conv2d, class_token: Optional[Tensor], position: Tensor,
                 grid: tuple[int, int], norm_first: nn.Module, blocks: list[Block], norm_last: nn.Module,
                 projection: nn.Module, pool: str, dense: str, head: nn.Module | None = None,
                 norm_after_pool: bool = False):
        super().__init__()
        width = position.shape[-1]
        self.prefix = 0 if class_token is None else 1
        self.grid_height, self.grid_width = grid
        expected = self.prefix + grid[0] * grid[1]
        if position.numel() != expected * width:
            raise ValueError(f"there are {position.numel() // width} positions for {expected} tokens")
        self.patch = patch
        token = torch.zeros(1, 0, width) if class_token is None else class_token.detach().reshape(1, 1, width)
        self.class_token = nn.Parameter(token.clone())
        self.position = nn.Parameter(position.detach().reshape(1, expected, width).clone())
        self.norm_first = norm_first
        self.blocks = nn.ModuleList(blocks[:-1])
        self.last_block = blocks[-1]
        self.norm_last = norm_last
        self.projection = projection
        self.head = NoPool() if head is None else head
        self.pool = pool
        self.dense_method = dense
        self.norm_after_pool = norm_after_pool
        self.neighbourhood = 5.0  # Standard deviation of NACLIP's Gaussian, in cells.

    def positions(self, height: int, width: int) -> Tensor:
        """The learnt ones, resized for pictures of another size."""
        if height == self.grid_height and width == self.grid_width:
            return self.position
        grid = self.position[:, self.prefix:].view(1, self.grid_height, self.grid_width, -1)
        grid = F.interpolate(grid.permute(0, 3, 1, 2), [height, width], mode="bicubic", align_corners=False)
        return torch.cat([self.position[:, :self.prefix], grid.flatten(2).transpose(1, 2)], 1)

    def embed(self, pixels: Tensor) -> Tensor:
        grid = self.patch(pixels)
        x = torch.cat([self.class_token.expand(pixels.size(0), -1, -1), grid.flatten(2).transpose(1, 2)], 1)
        x = self.norm_first(x + self.positions(grid.size(2), grid.size(3)))
        for block in self.blocks:
            x = block(x, None, False)
        return x

    @torch.jit.export
    def features(self, pixels: Tensor) -> Tensor:
        """All tokens, normalised: [rows, tokens, width]."""
        return self.norm_last(self.last_block(self.embed(pixels), None, False))

    def forward(self, pixels: Tensor) -> Tensor:
        x = self.last_block(self.embed(pixels), None, False)
        if self.pool == "attention":
            x = self.head(self.norm_last(x))
        elif self.pool == "mean":
            if self.norm_after_pool:
                x = self.norm_last(x[:, self.prefix:].mean(1))
            else:
                x = self.norm_last(x)[:, self.prefix:].mean(1)
        else:
            x = self.norm_last(x[:, 0])
        return self.projection(x)

    def nearness(self, height: int, width: int, like: Tensor) -> Tensor:
        """NACLIP's bias: a Gaussian around each patch, nothing for the class token."""
        rows = torch.arange(height, dtype=like.dtype, device=like.device)
        columns = torch.arange(width, dtype=like.dtype, device=like.device)
        y = rows[:, None].expand(height, width).flatten()
        x = columns[None].expand(height, width).flatten()
        squares = (y[:, None] - y[None]) ** 2 + (x[:, None] - x[None]) ** 2
        bias = torch.exp(-squares / (2 * self.neighbourhood ** 2))
        return F.pad(bias, [self.prefix, 0, self.prefix, 0])

    @torch.jit.export
    def dense(self, pixels: Tensor) -> Tensor:
        """[rows, grid height, grid width, dimension]"""
        height = pixels.size(2) // self.patch.kernel_size[0]
        width = pixels.size(3) // self.patch.kernel_size[1]
        x = self.embed(pixels)
        if self.dense_method == "naclip":
            x = self.last_block.neighbour_path(x, self.nearness(height, width, x))
        elif self.dense_method == "maskclip":
            x = self.last_block.value_path(x)
        else:
            x = self.last_block(x, None, False)
        x = self.norm_last(x[:, self.prefix:])
        if self.dense_method == "values":
            x = self.head.value_path(x)
        return self.projection(x).view(pixels.size(0), height, width, -1)


class TextTower(nn.Module):
    """A transformer that normalises first, as in CLIP and SigLIP.

    ``pool``: "argmax" (the largest id), "end" (the first ``end_id``) or "last" (the last place).
    ``pad_to``: texts are padded to this length with ``pad_id``, which the model attends to; 0: the
    model is causal, so what comes after the end of the text does not matter.
    """

    pool: torch.jit.Final[str]
    end_id: torch.jit.Final[int]
    pad_to: torch.jit.Final[int]
    pad_id: torch.jit.Final[int]

    def __init__(self, *, words: nn.Embedding, position: Tensor, blocks: list[Block], norm_last: nn.Module,
                 projection: nn.Module, pool: str, end_id: int = 0, pad_to: int = 0, pad_id: int = 0):
        super().__init__()
        self.words = words
        self.position = nn.Parameter(position.detach().reshape(1, -1, words.embedding_dim).clone())
        self.blocks = nn.ModuleList(blocks)
        self.norm_last = norm_last
        self.projection = projection
        self.pool = pool
        self.end_id = end_id
        self.pad_to = pad_to
        self.pad_id = pad_id

    def padded(self, ids: Tensor, mask: Tensor) -> Tensor:
        ids = ids.masked_fill(mask == 0, self.pad_id)
        return F.pad(ids, [0, self.pad_to - ids.size(1)], value=float(self.pad_id))

    def states(self, ids: Tensor) -> Tensor:
        assert ids.size(1) <= self.position.size(1), "a text is longer than the model's positions"
        x = self.words(ids) + self.position[:, :ids.size(1)]
        for block in self.blocks:
            x = block(x, None, self.pad_to == 0)
        return x

    def forward(self, ids: Tensor, mask: Tensor) -> Tensor:
        if self.pad_to > 0:
            ids = self.padded(ids, mask)
        x = self.states(ids)
        if self.pool == "last":
            x = x[:, -1]
        else:
            ends = ids if self.pool == "argmax" else (ids == self.end_id).to(torch.int64)
            x = x[torch.arange(ids.size(0), device=ids.device), ends.argmax(-1)]
        return self.projection(self.norm_last(x))

    @torch.jit.export
    def tokens(self, ids: Tensor, mask: Tensor) -> Tensor:
        """Every token's state, projected: [rows, tokens, dimension]; zeros for padding."""
        length = ids.size(1)
        if self.pad_to > 0:
            ids = self.padded(ids, mask)
        x = self.projection(self.norm_last(self.states(ids)[:, :length]))
        return x * mask.unsqueeze(-1)


    @torch.jit.export
    def packed(self, ids: Tensor, positions: Tensor, segments: Tensor, texts: int) -> Tensor:
        """As ``forward``, of texts one behind the other (see package.packed): [texts, dimension]."""
        assert self.pad_to == 0, "the model attends to padding: its texts cannot be packed"
        x = self.words(ids)[None] + self.position[:, positions]
        visible = same(segments, segments) & (positions[:, None] >= positions[None])
        for block in self.blocks:
            x = block(x, visible[None, None], False)
        ends = ids if self.pool == "argmax" else (ids == self.end_id).to(torch.int64)
        own = same(torch.arange(texts, device=ids.device), segments)
        ends = torch.where(own, ends, torch.full_like(ends, -1))
        return self.projection(self.norm_last(x[0, ends.argmax(-1)]))


class BertLayer(nn.Module):
    """Normalises after attention, as BERT does; may look at a picture in between."""

    def __init__(self, attention: SelfAttention, norm_1: nn.LayerNorm, cross: CrossAttention,
                 norm_cross: nn.LayerNorm, mlp: Mlp, norm_2: nn.LayerNorm):
        super().__init__()
        self.attention = attention
        self.norm_1 = norm_1
        self.cross = cross
        self.norm_cross = norm_cross
        self.mlp = mlp
        self.norm_2 = norm_2

    def forward(self, x: Tensor, mask: Tensor, picture: Optional[Tensor]) -> Tensor:
        x = self.norm_1(x + self.attention(x, mask, False))
        if picture is not None:
            x = self.norm_cross(x + self.cross(x, picture))
        return self.norm_2(x + self.mlp(x))


class BertTower(nn.Module):
    """BLIP's text encoder; the text's vector is its first token's."""

    def __init__(self, *, words: nn.Embedding, position: Tensor, norm_first: nn.LayerNorm,
                 layers: list[BertLayer], projection: nn.Linear):
        super().__init__()
        self.words = words
        self.position = nn.Parameter(position.detach().reshape(1, -1, words.embedding_dim).clone())
        self.norm_first = norm_first
        self.layers = nn.ModuleList(layers)
        self.projection = projection

    def states(self, ids: Tensor, mask: Tensor, picture: Optional[Tensor]) -> Tensor:
        assert ids.size(1) <= self.position.size(1), "a text is longer than the model's positions"
        x = self.norm_first(self.words(ids) + self.position[:, :ids.size(1)])
        visible = (mask != 0)[:, None, None]
        for layer in self.layers:
            x = layer(x, visible, picture)
        return x

    def forward(self, ids: Tensor, mask: Tensor) -> Tensor:
        return self.projection(self.states(ids, mask, None)[:, 0])

    @torch.jit.export
    def packed(self, ids: Tensor, positions: Tensor, segments: Tensor, texts: int) -> Tensor:
        """As TextTower.packed()."""
        x = self.norm_first(self.words(ids)[None] + self.position[:, positions])
        visible = same(segments, segments)[None, None]
        for layer in self.layers:
            x = layer(x, visible, None)
        own = same(torch.arange(texts, device=ids.device), segments)
        firsts = (own & (positions == 0)[None]).to(torch.int64).argmax(-1)
        return self.projection(x[0, firsts])

    @torch.jit.export
    def tokens(self, ids: Tensor, mask: Tensor) -> Tensor:
        """As TextTower.tokens()."""
        return self.projection(self.states(ids, mask, None)) * mask.unsqueeze(-1)


class MatchHead(nn.Module):
    """BLIP's image-text matching: the logit for a match less the one against: [rows]."""

    def __init__(self, image: VisionTower, text: BertTower, classifier: nn.Linear):
        super().__init__()
        self.image = image
        self.text = text
        weight, bias = classifier.weight.detach(), classifier.bias.detach()
        self.difference = linear_of(weight[1:2] - weight[0:1], bias[1:2] - bias[0:1])

    def forward(self, pixels: Tensor, ids: Tensor, mask: Tensor) -> Tensor:
        states = self.text.states(ids, mask, self.image.features(pixels))
        return self.difference(states[:, 0]).squeeze(-1)
