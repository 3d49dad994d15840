"""Any pair of modules, made by a function of the user's own."""

import argparse
import importlib.util
import warnings
from pathlib import Path

import torch
from torch import Tensor, nn

from quern_export.options import Options
from quern_export.package import CANARY_TEXTS, ExportError, ImageTower, MatchHead, Model, TextTower, padded


def add_arguments(parser: argparse.ArgumentParser) -> None:
    parser.add_argument("--factory", required=True, metavar="FILE.py:FUNCTION",
                        help="a function without arguments that returns a quern_export.package.Model")
    Options.add_to(parser, dense=())


def load_factory(named: str):
    file, separator, function = named.rpartition(":")
    if not separator or not Path(file).is_file():
        raise ExportError(f"factory is {named!r}: it must be FILE.py:FUNCTION, and the file must be there")
    spec = importlib.util.spec_from_file_location("quern_export_factory", file)
    module = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(module)
    if not callable(getattr(module, function, None)):
        raise ExportError(f"{file} has no function {function!r}")
    return getattr(module, function)


def compiled(module: nn.Module, example: tuple[Tensor, ...], methods: list[str]) -> torch.jit.ScriptModule:
    """Compiles; what does not compile is traced, and write_package() finds what a trace baked in."""
    if isinstance(module, torch.jit.ScriptModule):
        return module
    module = module.eval()
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        for name in methods:
            if name != "forward":
                torch.jit.export(getattr(type(module), name))
        try:
            return torch.jit.script(module)
        except (RuntimeError, NotImplementedError, torch.jit.frontend.NotSupportedError) as error:
            if "packed" in methods:
                raise ExportError("the text tower has `packed`, so it must compile, which a trace cannot stand for: "
                                  f"{error}") from error
            with torch.no_grad():
                return torch.jit.trace_module(module, {name: example for name in methods}, check_trace=False)


def build(arguments: argparse.Namespace, options: Options) -> Model:
    model = load_factory(arguments.factory)()
    if not isinstance(model, Model):
        raise ExportError(f"{arguments.factory} returned a {type(model).__name__}, not a quern_export.package.Model")
    image, text, match = model.image, model.text, model.match
    pixels = torch.zeros(2, 3, image.preprocess.height, image.preprocess.width)
    # Short texts: what a trace bakes in then shows with the longer ones of the canary.
    ids, mask = padded(sorted((text.tokenizer.encode(line) for line in CANARY_TEXTS), key=len)[:2])
    # What is written is compared with the modules as they were.
    image_module, text_module = image.module, text.module
    image_methods = ["forward"] + ["dense"] * (image.dense_stride > 0)
    text_methods = ["forward"] + ["tokens"] * text.has_tokens + ["packed"] * text.has_packed
    if match is not None:
        match_module = match.module
        match = MatchHead(compiled(match_module, (pixels, ids, mask), ["forward"]),
                          match.reference or (lambda picture, line: match_module(picture, *padded([line]))))
    return Model(
        name=options.name, version=options.version, description=options.description or model.description,
        licence=options.licence, dimension=model.dimension,
        image=ImageTower(compiled(image_module, (pixels,), image_methods), image.preprocess, image.size_multiple,
                         image.dense_stride, image.reference or image_module.eval()),
        text=TextTower(compiled(text_module, (ids, mask), text_methods), text.tokenizer, text.has_tokens,
                       text.reference or (lambda line: text_module(*padded([line]))), text.has_packed),
        match=match, figures=model.figures)
