"""quern-export: turns a trained dual encoder into a Quern model package."""

import argparse
import sys

from quern_export import blip, clip, generic, openclip, siglip
from quern_export.options import Options
from quern_export.package import ExportError, write_package

EXPORTERS = {
    "openclip": (openclip, "an OpenCLIP model"),
    "clip": (clip, "a CLIP checkpoint of transformers"),
    "siglip": (siglip, "a SigLIP or SigLIP2 checkpoint of transformers"),
    "blip-itm": (blip, "a BLIP image-text matching checkpoint of transformers"),
    "generic": (generic, "any pair of modules"),
}


def parse(arguments: list[str] | None) -> argparse.Namespace:
    parser = argparse.ArgumentParser(prog="quern-export", description=__doc__)
    commands = parser.add_subparsers(dest="exporter", required=True)
    for name, (module, text) in EXPORTERS.items():
        module.add_arguments(commands.add_parser(name, help=text, description=f"Exports {text}."))
    return parser.parse_args(arguments)


def main(arguments: list[str] | None = None) -> int:
    parsed = parse(arguments)
    try:
        options = Options.of(parsed)
        model = EXPORTERS[parsed.exporter][0].build(parsed, options)
        report = write_package(model, options.output, force=options.force)
    except (ExportError, OSError, ValueError, RuntimeError) as error:
        print(f"quern-export: {error}", file=sys.stderr)
        return 1
    print(f"{options.output}: written; {report}")
    return 0


if __name__ == "__main__":
    sys.exit(main())
