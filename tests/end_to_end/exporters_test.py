"""Exports small random models of the real architecture classes, serves them, compares.

The oracle is the Python model with its own library's preprocessing and tokeniser. Needs the
packages of models/export/requirements.txt in an environment of their own, which
scripts/setup does not make; without it the test is skipped (exit status 77).
"""

import contextlib
import gzip
import importlib
import io
import json
import math
import os
import re
import shutil
import subprocess
import sys
import tempfile
import unittest
import warnings
from pathlib import Path
from typing import Any, Callable

ROOT = Path(__file__).resolve().parents[2]
CACHE = Path(os.environ["QUERN_CACHE"])
BIN = Path(os.environ["QUERN_BIN"])
SKIPPED = 77


def enter_environment() -> None:
    """Goes on in the Python that has the packages."""
    python = os.environ.get("QUERN_EXPORT_PYTHON", str(CACHE / "export-venv/bin/python"))
    reason = None
    if not os.access(python, os.X_OK):
        reason = f"{python} is not there"
    elif Path(sys.executable) != Path(python):
        os.execv(python, [python, *sys.argv])
    else:
        try:
            for name in ("torch", "torchvision", "open_clip", "transformers", "sentencepiece", "grpc"):
                importlib.import_module(name)
        except ImportError as error:
            reason = str(error)
    if reason is not None:
        print(f"Skipped: {reason}. models/export/README.md tells how to make the environment.")
        sys.exit(SKIPPED)


enter_environment()
sys.path.insert(0, str(ROOT / "models/export"))

import open_clip  # noqa: E402
import sentencepiece  # noqa: E402
import torch  # noqa: E402
import transformers  # noqa: E402
from PIL import Image  # noqa: E402
from torch import Tensor, nn  # noqa: E402

from quern_export.main import main as export  # noqa: E402
from quern_export.package import unit  # noqa: E402

TOLERANCE = 1e-4  # Of a value of a unit vector.
# Different inputs must be further apart than the tolerance by far, or equality says nothing.
LEAST_DISTANCE = 1e-3

PICTURES = ("animals/birds", "food/fruit", "animals/mammals")
TEXTS = (
    "a photo of a cat",
    "Two dogs are running through the snow, aren't they?",
    "Ein Mädchen mit rotem Fahrrad vor einem großen Haus",
    "一只猫坐在窗边",
    "قطة سوداء على السجادة",
    "🐕 in the park 🌳",
    "x",
    "the street of a small town in the evening with people and lamps " * 9,
)


def randomise(model: nn.Module, seed: int) -> nn.Module:
    """Weights under which every part of the model matters, biases and norms too."""
    generator = torch.Generator().manual_seed(seed)
    with torch.no_grad():
        for name, parameter in model.named_parameters():
            noise = torch.randn(parameter.shape, generator=generator)
            if parameter.dim() > 1:
                parameter.copy_(3 * noise / parameter[0].numel() ** 0.5)
            else:
                parameter.copy_(0.2 * noise + (0 if "bias" in name else 1))
    return model.eval()


def real_pictures() -> list[Image.Image]:
    """Photographs of several sizes and shapes, on white."""
    pictures = []
    for folder in PICTURES:
        files = sorted((CACHE / "samples/pictures" / folder).glob("*.png"))
        for file in files[:2]:
            stamp = Image.open(file).convert("RGBA")
            white = Image.new("RGBA", stamp.size, "white")
            pictures.append(Image.alpha_composite(white, stamp).convert("RGB"))
    wide = pictures[0].resize((400, 100), Image.Resampling.BICUBIC)
    return [*pictures, wide, wide.transpose(Image.Transpose.ROTATE_90)]


def write_bpe(file: Path) -> None:
    """Merges for frequent English pairs, in OpenCLIP's format."""
    merges = ["t h", "th e</w>", "i n", "a n", "a n</w>", "d o", "do g", "c a", "ca t</w>", "o n</w>", "p h",
              "ph o", "pho t", "phot o</w>", "s n", "sn o", "sno w</w>", "r u", "o f</w>", "e r</w>"]
    with gzip.open(file, "wt", encoding="utf-8") as stream:
        stream.write("\n".join(['"bpe"', *merges]))


def write_clip_vocabulary(folder: Path) -> int:
    """vocab.json and merges.txt from the same merges; returns the vocabulary's size."""
    write_bpe(folder / "bpe.txt.gz")
    tokenizer = open_clip.tokenizer.SimpleTokenizer(str(folder / "bpe.txt.gz"))
    names = {"<start_of_text>": "<|startoftext|>", "<end_of_text>": "<|endoftext|>"}
    vocabulary = {names.get(piece, piece): number for piece, number in tokenizer.encoder.items()}
    (folder / "vocab.json").write_text(json.dumps(vocabulary, ensure_ascii=False), encoding="utf-8")
    merges = "\n".join(" ".join(pair) for pair in tokenizer.bpe_ranks if len(pair) == 2)
    (folder / "merges.txt").write_text(f"#version: 0.2\n{merges}\n", encoding="utf-8")
    return len(vocabulary)


def write_sentencepiece(folder: Path, **options: Any) -> int:
    corpus = folder / "corpus.txt"
    corpus.write_text("\n".join(TEXTS).lower() + "\n", encoding="utf-8")
    sentencepiece.SentencePieceTrainer.train(
        input=str(corpus), model_prefix=str(folder / "spiece"), vocab_size=330, character_coverage=1.0,
        hard_vocab_limit=False, minloglevel=2, **options)
    return sentencepiece.SentencePieceProcessor(model_file=str(folder / "spiece.model")).get_piece_size()


def write_wordpiece(folder: Path) -> int:
    letters = [chr(code) for code in range(ord("!"), ord("~") + 1)] + list("一只猫坐在窗边قطةسوداءعلىالسجاد")
    words = ["[PAD]", "[UNK]", "[CLS]", "[SEP]", "the", "dog", "cat", "photo", "snow", "haus"]
    pieces = list(dict.fromkeys([*words, *letters, *("##" + letter for letter in letters)]))
    (folder / "vocab.txt").write_text("\n".join(pieces) + "\n", encoding="utf-8")
    return len(pieces)


class Case:
    """One exported model and its oracle: the original's preprocessing, picture and text towers."""

    def __init__(self, name: str, model: nn.Module, arguments: list[str], pixels: Callable[[Image.Image], Tensor],
                 embed: Callable[[Tensor], Tensor], text: Callable[[str], Tensor], capabilities: set[str]):
        self.name = name
        self.model = model
        self.arguments = arguments
        self.pixels = pixels
        self.embed = embed
        self.text = text
        self.capabilities = capabilities

    def image(self, picture: Image.Image) -> Tensor:
        return self.embed(self.pixels(picture))


def open_clip_case(folder: Path, name: str, config: dict[str, Any], extra: list[str],
                   capabilities: set[str]) -> Case:
    write_bpe(folder / "bpe.txt.gz")
    tokenizer = open_clip.tokenizer.SimpleTokenizer(str(folder / "bpe.txt.gz"))
    config["text_cfg"] |= {"context_length": 77, "vocab_size": tokenizer.vocab_size}
    settings = {key: value for key, value in config.items() if key not in ("custom_text", "preprocess_cfg")}
    kind = open_clip.model.CustomTextCLIP if config.get("custom_text") else open_clip.model.CLIP
    model = randomise(kind(**settings), 1)
    torch.save(model.state_dict(), folder / "weights.pt")
    (folder / "config.json").write_text(json.dumps(config), encoding="utf-8")
    preprocessing = config.get("preprocess_cfg", {})
    transform = open_clip.image_transform(config["vision_cfg"]["image_size"], is_train=False, **preprocessing)
    return Case(
        name, model, ["openclip", "--config", str(folder / "config.json"), "--weights", str(folder / "weights.pt"),
                      "--bpe", str(folder / "bpe.txt.gz"), *extra],
        lambda picture: transform(picture)[None], model.encode_image,
        lambda text: model.encode_text(tokenizer([text])), capabilities)


def open_clip_cases(folder: Path) -> list[Case]:
    (folder / "a").mkdir()
    (folder / "b").mkdir()
    plain = {"embed_dim": 24, "quick_gelu": True,
             "vision_cfg": {"image_size": 64, "layers": 3, "width": 32, "head_width": 8, "patch_size": 16},
             "text_cfg": {"width": 32, "heads": 4, "layers": 3}}
    averaging = {"embed_dim": 16, "custom_text": True,
                 "vision_cfg": {"image_size": 48, "layers": 2, "width": 24, "head_width": 8, "patch_size": 8,
                                "pool_type": "avg", "final_ln_after_pool": False, "no_ln_pre": True,
                                "ls_init_value": 0.1},
                 "text_cfg": {"width": 24, "heads": 2, "layers": 2, "ls_init_value": 0.1},
                 "preprocess_cfg": {"resize_mode": "squash", "interpolation": "bilinear",
                                    "mean": [0.5, 0.4, 0.3], "std": [0.2, 0.3, 0.4]}}
    every = {"image.global", "image.dense", "text.global"}
    return [open_clip_case(folder / "a", "openclip-class", plain, ["--text-tokens"], every | {"text.tokens"}),
            open_clip_case(folder / "b", "openclip-mean", averaging, [], every)]


def clip_case(folder: Path) -> Case:
    size = write_clip_vocabulary(folder)
    common = {"hidden_size": 32, "intermediate_size": 48, "num_hidden_layers": 3, "num_attention_heads": 4}
    config = transformers.CLIPConfig(
        projection_dim=24, vision_config=common | {"image_size": 56, "patch_size": 8},
        text_config=common | {"vocab_size": size, "max_position_embeddings": 77, "bos_token_id": size - 2,
                              "eos_token_id": size - 1})
    model = randomise(transformers.CLIPModel(config), 2)
    model.save_pretrained(folder)
    processor = transformers.models.clip.image_processing_pil_clip.CLIPImageProcessorPil(
        size={"shortest_edge": 56}, crop_size={"height": 56, "width": 56})
    processor.save_pretrained(folder)
    tokenizer = transformers.CLIPTokenizer(str(folder / "vocab.json"), str(folder / "merges.txt"))
    return Case(
        "hf-clip", model, ["clip", "--checkpoint", str(folder), "--dense", "maskclip"],
        lambda picture: processor(picture, return_tensors="pt")["pixel_values"],
        lambda pixels: model.get_image_features(pixel_values=pixels).pooler_output,
        lambda text: model.get_text_features(
            **tokenizer([text], truncation=True, max_length=77, padding="max_length",
                        return_tensors="pt")).pooler_output,
        {"image.global", "image.dense", "text.global"})


def siglip_config(kind: type, size: int, vision: dict[str, Any]) -> Any:
    common = {"hidden_size": 32, "intermediate_size": 48, "num_hidden_layers": 2, "num_attention_heads": 4}
    return kind(vision_config=common | vision,
                text_config=common | {"vocab_size": size, "max_position_embeddings": 64, "projection_size": 32})


def siglip_case(folder: Path) -> Case:
    size = write_sentencepiece(folder, bos_id=-1, eos_id=1, unk_id=2, pad_id=0, model_type="unigram")
    config = siglip_config(transformers.SiglipConfig, size, {"image_size": 48, "patch_size": 16})
    model = randomise(transformers.SiglipModel(config), 3)
    model.save_pretrained(folder)
    processor = transformers.models.siglip.image_processing_pil_siglip.SiglipImageProcessorPil(
        size={"height": 48, "width": 48})
    processor.save_pretrained(folder)
    tokenizer = transformers.SiglipTokenizer(str(folder / "spiece.model"))
    return Case(
        "siglip", model, ["siglip", "--checkpoint", str(folder)],
        lambda picture: processor(picture, return_tensors="pt")["pixel_values"],
        lambda pixels: model.get_image_features(pixel_values=pixels).pooler_output,
        lambda text: model.get_text_features(
            input_ids=tokenizer([text], padding="max_length", truncation=True, max_length=64,
                                return_tensors="pt")["input_ids"]).pooler_output,
        {"image.global", "image.dense", "text.global"})


def siglip2_case(folder: Path) -> Case:
    """A flexible checkpoint, whose patches are a linear layer, served at one size."""
    size = write_sentencepiece(folder, bos_id=2, eos_id=1, unk_id=3, pad_id=0, model_type="bpe",
                               add_dummy_prefix=False, byte_fallback=True)
    config = siglip_config(transformers.Siglip2Config, size, {"patch_size": 16, "num_patches": 16})
    model = randomise(transformers.Siglip2Model(config), 4)
    model.save_pretrained(folder)
    squash = transformers.models.siglip.image_processing_pil_siglip.SiglipImageProcessorPil(
        size={"height": 64, "width": 64}, resample=2)
    processor = sentencepiece.SentencePieceProcessor(model_file=str(folder / "spiece.model"))

    def embed(pixels: Tensor) -> Tensor:
        # Rows of [16, 16, 3] values, as Siglip2ImageProcessor cuts them.
        patches = pixels[0].permute(1, 2, 0).reshape(4, 16, 4, 16, 3).transpose(1, 2).reshape(1, 16, -1)
        return model.get_image_features(
            pixel_values=patches, pixel_attention_mask=torch.ones(1, 16, dtype=torch.int64),
            spatial_shapes=torch.tensor([[4, 4]])).pooler_output

    def text(line: str) -> Tensor:
        ids = processor.encode(line.lower())[:63] + [1]
        return model.get_text_features(input_ids=torch.tensor([ids + [0] * (64 - len(ids))])).pooler_output

    return Case("siglip2", model, ["siglip", "--checkpoint", str(folder), "--generation", "2"],
                lambda picture: squash(picture, return_tensors="pt")["pixel_values"], embed, text,
                {"image.global", "image.dense", "text.global"})


def blip_case(folder: Path) -> Case:
    size = write_wordpiece(folder)
    common = {"hidden_size": 32, "intermediate_size": 48, "num_hidden_layers": 2, "num_attention_heads": 4}
    config = transformers.BlipConfig(
        image_text_hidden_size=16, vision_config=common | {"image_size": 48, "patch_size": 16},
        text_config=common | {"vocab_size": size, "encoder_hidden_size": 32, "max_position_embeddings": 40,
                              "pad_token_id": 0, "bos_token_id": 2, "eos_token_id": 3, "sep_token_id": 3})
    model = randomise(transformers.BlipForImageTextRetrieval(config), 5)
    model.save_pretrained(folder)
    processor = transformers.models.blip.image_processing_pil_blip.BlipImageProcessorPil(
        size={"height": 48, "width": 48})
    processor.save_pretrained(folder)
    tokenizer = transformers.BertTokenizer(str(folder / "vocab.txt"))

    def text(line: str) -> Tensor:
        # In company, so that padding is under test on the oracle's side too.
        tokens = tokenizer([line, TEXTS[-1]], padding=True, truncation=True, max_length=35, return_tensors="pt")
        states = model.text_encoder(input_ids=tokens["input_ids"], attention_mask=tokens["attention_mask"])
        return model.text_proj(states.last_hidden_state[:1, 0])

    return Case(
        "blip-itm", model, ["blip-itm", "--checkpoint", str(folder)],
        lambda picture: processor(picture, return_tensors="pt")["pixel_values"],
        lambda pixels: model.vision_proj(model.vision_model(pixel_values=pixels).last_hidden_state[:, 0]),
        text, {"image.global", "image.dense", "text.global", "match"})


FACTORY = '''
from pathlib import Path

import torch
from torch import nn

from quern_export.package import ImageTower, Model, Preprocess, TextTower
from quern_export.tokenizers import WordPiece


class Pictures(nn.Module):
    def __init__(self):
        super().__init__()
        self.cells = nn.Conv2d(3, 12, 8, 8)

    def forward(self, pixels):
        return self.dense(pixels).mean([1, 2])

    def dense(self, pixels):
        return self.cells(pixels).tanh().permute(0, 2, 3, 1)


class Texts(nn.Module):
    """Keyword arguments in a dictionary: does not compile, so it is traced."""

    def __init__(self, words):
        super().__init__()
        self.words = nn.Embedding(words, 12)

    def forward(self, ids, mask, **unused):
        return (self.words(ids) * mask[..., None]).sum(1) / mask.sum(1, keepdim=True)


def make():
    torch.manual_seed(6)
    vocabulary = Path(__file__).parent / "vocab.txt"
    words = len(vocabulary.read_text(encoding="utf-8").split("\\n"))
    preprocess = Preprocess(40, 24, "letterbox", "bilinear", (120.0, 110.0, 100.0), (60.0, 65.0, 70.0), (9, 8, 7))
    tokenizer = WordPiece(vocabulary, lowercase=True, strip_accents=True, max_tokens=20)
    return Model(name="", version="1", description="A mean of cells, a mean of words.", licence="", dimension=12,
                 image=ImageTower(Pictures(), preprocess, size_multiple=8, dense_stride=8),
                 text=TextTower(Texts(words), tokenizer))
'''


def generic_case(folder: Path) -> Case:
    write_wordpiece(folder)
    (folder / "factory.py").write_text(FACTORY, encoding="utf-8")
    spec = importlib.util.spec_from_file_location("factory", folder / "factory.py")
    factory = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(factory)
    model = factory.make()
    tokenizer = transformers.BertTokenizer(str(folder / "vocab.txt"))

    def pixels(picture: Image.Image) -> Tensor:
        preprocess = model.image.preprocess
        scale = min(preprocess.width / picture.width, preprocess.height / picture.height)
        size = (max(1, round(picture.width * scale)), max(1, round(picture.height * scale)))
        page = Image.new("RGB", (preprocess.width, preprocess.height), preprocess.pad_rgb)
        page.paste(picture.resize(size, Image.Resampling.BILINEAR),
                   ((preprocess.width - size[0]) // 2, (preprocess.height - size[1]) // 2))
        return preprocess.normalise(page)

    def text(line: str) -> Tensor:
        tokens = tokenizer([line], truncation=True, max_length=20, return_tensors="pt")
        return model.text.module(tokens["input_ids"], tokens["attention_mask"])

    return Case("generic", model.image.module, ["generic", "--factory", f"{folder / 'factory.py'}:make"],
                pixels, model.image.module, text, {"image.global", "image.dense", "text.global"})


MAKERS = {"openclip": open_clip_cases, "clip": lambda folder: [clip_case(folder)],
          "siglip": lambda folder: [siglip_case(folder)], "siglip2": lambda folder: [siglip2_case(folder)],
          "blip": lambda folder: [blip_case(folder)], "generic": lambda folder: [generic_case(folder)]}


class Server:
    """The real quernd with the packages, on a free port."""

    def __init__(self, folder: Path, packages: list[Path]):
        self._log = (folder / "quernd.log").open("wb")
        self._process = subprocess.Popen(
            [BIN / "quernd", "--set", "server.address=127.0.0.1:0", "--set", "metrics.address=",
             # The oracle computes in 32-bit floats.
             "--set", "models.precision=fp32", "--set", f"storage.path={folder}/data",
             "--set", f"models.paths=[{', '.join(map(str, packages))}]"],
            stdout=subprocess.PIPE, stderr=self._log, text=True)
        ready = re.match(r"quernd ready address=(\S+)", self._process.stdout.readline())
        if ready is None:
            self.stop()
            raise AssertionError((folder / "quernd.log").read_text())
        self.address = ready.group(1)

    def stop(self) -> None:
        self._process.terminate()
        self._process.wait(timeout=60)
        self._process.stdout.close()
        self._log.close()


def make_stubs(folder: Path) -> None:
    folder.mkdir()
    subprocess.run(
        ["protoc", "-I", ROOT / "proto", "-I", CACHE / "googleapis", f"--python_out={folder}",
         f"--grpc_python_out={folder}", "--plugin=protoc-gen-grpc_python=/usr/bin/grpc_python_plugin",
         *sorted((ROOT / "proto/quern/v1").glob("*.proto"))], check=True)
    sys.path.insert(0, str(folder))


def png_of(picture: Image.Image, file: Path) -> bytes:
    picture.save(file)
    return file.read_bytes()


def load_tower(package: Path) -> torch.jit.ScriptModule:
    with warnings.catch_warnings():
        warnings.simplefilter("ignore", DeprecationWarning)
        return torch.jit.load(str(package / "image.ts"))


class ExportersTest(unittest.TestCase):
    @classmethod
    def setUpClass(cls) -> None:
        cls.folder = Path(tempfile.mkdtemp())
        cls.addClassCleanup(shutil.rmtree, cls.folder)
        cls.cases: dict[str, Case] = {}
        for name, make in MAKERS.items():
            source = cls.folder / name
            source.mkdir()
            for case in make(source):
                cls.cases[case.name] = case
        packages = []
        for case in cls.cases.values():
            package = cls.folder / "packages" / case.name
            arguments = [*case.arguments, "--output", str(package), "--licence", "none: random weights"]
            if export(arguments) != 0:
                raise AssertionError(f"{case.name} was not exported")
            packages.append(package)
        cls.server = Server(cls.folder, packages)
        cls.addClassCleanup(cls.server.stop)
        make_stubs(cls.folder / "stubs")
        cls.embedding = importlib.import_module("quern.v1.embedding_pb2")
        models = importlib.import_module("quern.v1.models_pb2")
        grpc = importlib.import_module("grpc")
        cls.channel = grpc.insecure_channel(cls.server.address, [("grpc.enable_http_proxy", 0)])
        cls.addClassCleanup(cls.channel.close)
        cls.stub = importlib.import_module("quern.v1.embedding_pb2_grpc").EmbeddingStub(cls.channel)
        model_stub = importlib.import_module("quern.v1.models_pb2_grpc").ModelsStub(cls.channel)
        cls.models = {model.name: model for model in model_stub.List(models.ListModelsRequest()).models}

    def ask(self, model: str, inputs: list[Any], output: str) -> list[Any]:
        request = self.embedding.EmbedRequest(model=model, inputs=inputs, outputs=[f"EMBEDDING_OUTPUT_{output}"])
        response = self.stub.Embed(request, timeout=60)
        for result in response.results:
            self.assertEqual(result.status.code, 0, result.status.message)
        return list(response.results)

    def embed(self, model: str, inputs: list[Any]) -> Tensor:
        return torch.tensor([list(result.embedding.values) for result in self.ask(model, inputs, "GLOBAL")])

    def picture_input(self, picture: Image.Image) -> dict[str, Any]:
        return {"image": {"content": png_of(picture, self.folder / "picture.png")}}

    def expect_near(self, case: str, what: str, served: Tensor, expected: Tensor, all_differ: bool = True) -> None:
        expected = unit(expected)
        self.assertEqual(served.shape, expected.shape)
        difference = (served - expected).abs().max().item()
        distances = [(expected[i] - expected[j]).abs().max().item() for i in range(len(expected)) for j in range(i)]
        distance = min(distances) if all_differ else max(distances)
        print(f"{case}: {what}: largest difference {difference:.1e}, two of them are {distance:.1e} apart")
        self.assertLess(difference, TOLERANCE)
        self.assertGreater(distance, LEAST_DISTANCE)

    def test_capabilities_are_those_of_the_architecture(self) -> None:
        for name, case in self.cases.items():
            with self.subTest(name):
                self.assertEqual(set(self.models[name].capabilities), case.capabilities)
                self.assertEqual(self.models[name].licence, "none: random weights")

    def test_served_texts_are_the_python_models(self) -> None:
        for name, case in self.cases.items():
            with self.subTest(name), torch.inference_mode():
                expected = torch.cat([case.text(text) for text in TEXTS])
                self.expect_near(name, "texts", self.embed(name, [{"text": text} for text in TEXTS]), expected)

    def test_served_pictures_are_the_python_models(self) -> None:
        pictures = real_pictures()
        for name, case in self.cases.items():
            with self.subTest(name), torch.inference_mode():
                expected = torch.cat([case.image(picture) for picture in pictures])
                served = self.embed(name, [self.picture_input(picture) for picture in pictures])
                self.expect_near(name, "pictures", served, expected)

    def test_served_grids_are_the_towers(self) -> None:
        """Those that GridTest holds against the original's layers."""
        picture = real_pictures()[0]
        for name, case in self.cases.items():
            with self.subTest(name), torch.inference_mode():
                grid = load_tower(self.folder / "packages" / name).dense(case.pixels(picture))
                dense = self.ask(name, [self.picture_input(picture)], "DENSE")[0].dense
                self.assertEqual([dense.grid_height, dense.grid_width, dense.dimension], list(grid.shape[1:]))
                cells = torch.tensor(list(dense.values)).view(-1, dense.dimension)
                # Padding and white ground are alike.
                self.expect_near(name, "cells", unit(cells), grid.view(-1, dense.dimension), all_differ=False)

    def test_served_tokens_are_the_original_states_projected(self) -> None:
        case = self.cases["openclip-class"]
        states: list[Tensor] = []
        hook = case.model.ln_final.register_forward_hook(lambda *arguments: states.append(arguments[2]))
        with torch.inference_mode():
            case.text(TEXTS[1])
            expected = states[0][0] @ case.model.text_projection
        hook.remove()
        tokens = self.ask(case.name, [{"text": TEXTS[1]}], "TOKENS")[0].tokens
        served = torch.tensor(list(tokens.values)).view(-1, tokens.dimension)
        self.assertEqual(len(served), len(tokens.ids))
        self.expect_near(case.name, "tokens", unit(served), expected[:len(tokens.ids)])


class GridTest(unittest.TestCase):
    """The changed last blocks, from the original's own layers. The canary holds the server to the same cells."""

    @classmethod
    def setUpClass(cls) -> None:
        cls.folder = Path(tempfile.mkdtemp())
        cls.addClassCleanup(shutil.rmtree, cls.folder)

    def export_one(self, case: Case) -> torch.jit.ScriptModule:
        package = Path(tempfile.mkdtemp(dir=self.folder)) / case.name
        self.assertEqual(export([*case.arguments, "--output", str(package), "--licence", "none"]), 0)
        return load_tower(package)

    def source(self, name: str) -> Path:
        (self.folder / name).mkdir()
        return self.folder / name

    def expect_grid(self, actual: Tensor, expected: Tensor) -> None:
        difference = (unit(actual).flatten() - unit(expected).flatten()).abs().max().item()
        self.assertLess(difference, TOLERANCE)

    def test_maskclip_is_the_value_path_of_the_last_block(self) -> None:
        case = clip_case(self.source("clip"))
        tower = self.export_one(case)
        pixels = torch.randn(2, 3, 56, 56)
        with torch.inference_mode():
            vision = case.model.vision_model
            states = vision(pixel_values=pixels, output_hidden_states=True).hidden_states[-2]
            last = vision.encoder.layers[-1]
            states = states + last.self_attn.out_proj(last.self_attn.v_proj(last.layer_norm1(states)))
            states = states + last.mlp(last.layer_norm2(states))
            cells = case.model.visual_projection(vision.post_layernorm(states[:, 1:]))
            self.expect_grid(tower.dense(pixels), cells.view(2, 7, 7, -1))

    def test_naclip_is_key_key_attention_near_each_patch(self) -> None:
        case = open_clip_cases(self.source("openclip"))[0]
        tower = self.export_one(case)
        pixels = torch.randn(1, 3, 64, 64)
        inputs = []
        visual = case.model.visual
        visual.transformer.resblocks[-1].register_forward_pre_hook(
            lambda _, arguments, keywords: inputs.append(arguments[0] if arguments else keywords["q_x"]),
            with_kwargs=True)
        with torch.inference_mode():
            case.model.encode_image(pixels)
            block = visual.transformer.resblocks[-1]
            states = block.ln_1(inputs[0])[0]
            _, keys, values = nn.functional.linear(
                states, block.attn.in_proj_weight, block.attn.in_proj_bias).chunk(3, -1)
            width, heads = states.shape[-1], block.attn.num_heads
            mixed = torch.zeros_like(states)
            for head in range(heads):
                part = slice(head * width // heads, (head + 1) * width // heads)
                logits = keys[:, part] @ keys[:, part].T / (width // heads) ** 0.5
                for a in range(16):
                    for b in range(16):
                        squares = (a // 4 - b // 4) ** 2 + (a % 4 - b % 4) ** 2
                        logits[1 + a, 1 + b] += math.exp(-squares / 50)
                mixed[:, part] = logits.softmax(-1) @ values[:, part]
            cells = visual.ln_post(block.attn.out_proj(mixed))[1:] @ visual.proj
            self.expect_grid(tower.dense(pixels), cells.view(1, 4, 4, -1))

    def test_cells_of_averaging_models_have_the_picture_as_their_mean(self) -> None:
        tower = self.export_one(open_clip_cases(self.source("mean"))[1])
        pixels = torch.randn(2, 3, 48, 48)
        with torch.inference_mode():
            self.expect_grid(tower.dense(pixels).mean([1, 2]), tower(pixels))

    def test_siglips_cells_are_its_head_looking_at_one_patch(self) -> None:
        case = siglip_case(self.source("siglip"))
        tower = self.export_one(case)
        pixels = torch.randn(1, 3, 48, 48)
        with torch.inference_mode():
            states = case.model.vision_model(pixel_values=pixels).last_hidden_state
            cells = [case.model.vision_model.head(states[:, patch:patch + 1]) for patch in range(9)]
            self.expect_grid(tower.dense(pixels), torch.stack(cells, 1).view(1, 3, 3, -1))

    def test_larger_pictures_get_resized_positions(self) -> None:
        case = clip_case(self.source("larger"))
        pixels = torch.randn(2, 3, 112, 88)
        with torch.inference_mode():
            expected = case.model.get_image_features(pixel_values=pixels, interpolate_pos_encoding=True)
            tower = self.export_one(case)
            self.expect_grid(tower(pixels), expected.pooler_output)
            self.assertEqual(tuple(tower.dense(pixels).shape), (2, 14, 11, 24))


class ExportFailuresTest(unittest.TestCase):
    def setUp(self) -> None:
        self.folder = Path(tempfile.mkdtemp())
        self.addCleanup(shutil.rmtree, self.folder)

    def run_export(self, *arguments: str) -> tuple[int, str]:
        errors = io.StringIO()
        with contextlib.redirect_stderr(errors):
            status = export(list(arguments))
        return status, errors.getvalue()

    def export_generic(self, replace: tuple[str, str] = ("", ""), *more: str) -> tuple[int, str]:
        write_wordpiece(self.folder)
        self.assertIn(replace[0], FACTORY)
        (self.folder / "factory.py").write_text(FACTORY.replace(*replace), encoding="utf-8")
        return self.run_export("generic", "--factory", f"{self.folder}/factory.py:make",
                               "--output", str(self.folder / "out"), "--licence", "none", *more)

    def expect_refusal(self, outcome: tuple[int, str], pattern: str) -> None:
        status, errors = outcome
        self.assertEqual(status, 1, errors)
        self.assertRegex(errors, pattern)
        left = [path for path in self.folder.iterdir() if path.name.startswith((".out", "out"))]
        self.assertEqual(left, [])

    def test_a_trace_that_fits_one_length_only_is_found(self) -> None:
        bad = ("mask[..., None]).sum(1)", "mask[..., None])[:, :int(mask.sum(1).max())].sum(1)")
        self.expect_refusal(self.export_generic(bad), "the text tower differs by .* from the original model")

    def test_a_wrong_dimension_is_named(self) -> None:
        self.expect_refusal(self.export_generic(("dimension=12", "dimension=13")),
                            r"gave the shape \[1, 12\], expected \[1, 13\]")

    def test_values_that_are_not_numbers_are_found(self) -> None:
        self.expect_refusal(self.export_generic((".tanh()", ".log()")), "the image tower differs by inf")

    def test_an_existing_package_stays_without_force(self) -> None:
        self.assertEqual(self.export_generic()[0], 0)
        status, errors = self.export_generic()
        self.assertEqual(status, 1)
        self.assertIn("--force", errors)
        self.assertEqual(self.export_generic(("", ""), "--force")[0], 0)

    def test_a_missing_checkpoint_is_named(self) -> None:
        for exporter in ("clip", "siglip", "blip-itm"):
            self.expect_refusal(self.run_export(exporter, "--checkpoint", str(self.folder), "--output",
                                                str(self.folder / "out"), "--licence", "none"),
                                "config.json")

    def test_the_licence_must_be_stated(self) -> None:
        self.expect_refusal(self.export_generic(("", ""), "--licence", " "), "state the licence")


if __name__ == "__main__":
    torch.set_num_threads(1)
    unittest.main()
