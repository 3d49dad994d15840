"""What all exporters are told on the command line."""

import argparse
import re
from dataclasses import dataclass
from pathlib import Path

from quern_export.package import ExportError


@dataclass(frozen=True)
class Options:
    output: Path
    name: str
    version: str
    description: str
    licence: str
    dense: str  # "auto", "naclip", "maskclip" or "none"
    text_tokens: bool
    force: bool

    @staticmethod
    def add_to(parser: argparse.ArgumentParser, *, dense: tuple[str, ...]) -> None:
        parser.add_argument("--output", type=Path, required=True, metavar="DIR", help="the package to write")
        parser.add_argument("--licence", required=True, metavar="TEXT",
                            help="licence of the weights; only you can know it")
        parser.add_argument("--name", metavar="NAME", help="a-z, 0-9, '-', '_', '.'. Default: the name of DIR")
        parser.add_argument("--package-version", default="1.0.0", metavar="V", help="default: 1.0.0")
        parser.add_argument("--description", default="", metavar="TEXT", help="for people")
        parser.add_argument("--force", action="store_true", help="replaces DIR if it is there")
        if dense:
            parser.add_argument("--dense", choices=("auto", *dense, "none"), default="auto",
                                help="how the text-comparable grid is made; see the README. Default: auto")
        parser.add_argument("--text-tokens", action="store_true",
                            help="also offers a vector per token of a text (text.tokens)")

    @staticmethod
    def of(arguments: argparse.Namespace) -> "Options":
        name = arguments.name or arguments.output.name.lower()
        if not re.fullmatch(r"[a-z0-9._-]{1,64}", name):
            raise ExportError(f"name is {name!r}: it must be 1 to 64 of a-z, 0-9, '-', '_' and '.'; use --name")
        if not arguments.licence.strip():
            raise ExportError("licence is empty: state the licence of the weights")
        return Options(output=arguments.output, name=name, version=arguments.package_version,
                       description=arguments.description, licence=arguments.licence,
                       dense=getattr(arguments, "dense", "auto"), text_tokens=arguments.text_tokens,
                       force=arguments.force)
