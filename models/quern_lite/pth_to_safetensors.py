#!/usr/bin/env python3
"""Converts a state dict in torch's pre-1.6 file format to safetensors, without torch.

    pth_to_safetensors.py INPUT.pth OUTPUT.safetensors

The old format is five pickles (magic number, protocol, system facts, the state
dict, the storage keys) and then each storage: an int64 count and its raw numbers,
little-endian. The unpickler knows only the few names a state dict needs and
refuses all others, so a forged file cannot run code. Equal inputs give equal
bytes: tensors are written in the order of their names.
"""

import json
import os
import pickle
import struct
import sys
from collections import OrderedDict
from pathlib import Path
from typing import Any, BinaryIO, NamedTuple

MAGIC = 0x1950A86A20F9469CFC6C
PROTOCOL = 1001
HEADER_ALIGNMENT = 8  # Bytes; the header is padded with spaces to a multiple of it.


class StorageType(NamedTuple):
    name: str  # As safetensors spells it.
    code: str  # As the struct module spells it.
    item_bytes: int


STORAGES = {"FloatStorage": StorageType("F32", "f", 4),
            "HalfStorage": StorageType("F16", "e", 2),
            "LongStorage": StorageType("I64", "q", 8)}


class Storage(NamedTuple):
    type: StorageType
    key: str
    count: int


class Tensor(NamedTuple):
    storage: Storage
    offset: int  # In items, as are the strides.
    shape: tuple[int, ...]
    strides: tuple[int, ...]


def rebuild_tensor(storage: Storage, offset: int, shape: tuple[int, ...],
                   strides: tuple[int, ...], *_: Any) -> Tensor:
    return Tensor(storage, offset, tuple(shape), tuple(strides))


class StateDictUnpickler(pickle.Unpickler):
    def find_class(self, module: str, name: str) -> Any:
        if (module, name) == ("collections", "OrderedDict"):
            return OrderedDict
        if (module, name) == ("torch._utils", "_rebuild_tensor_v2"):
            return rebuild_tensor
        if module == "torch" and name in STORAGES:
            return STORAGES[name]
        raise pickle.UnpicklingError(f"{module}.{name} has no place in a state dict")

    def persistent_load(self, pid: Any) -> Storage:
        kind, storage_type, key, _, count, view = pid
        if kind != "storage" or view is not None:
            raise pickle.UnpicklingError("not a plain storage")
        return Storage(storage_type, key, count)


def read_storages(stream: BinaryIO, keys: list[str], types: dict[str, StorageType]) -> dict[str, bytes]:
    storages = {}
    for key in keys:
        (count,) = struct.unpack("<q", stream.read(8))
        size = count * types[key].item_bytes
        storages[key] = stream.read(size)
        if len(storages[key]) != size:
            raise ValueError("file is truncated")
    return storages


def read_state_dict(path: Path) -> dict[str, tuple[Tensor, bytes]]:
    """Returns each tensor of the file with its raw little-endian numbers."""
    with path.open("rb") as stream:
        if StateDictUnpickler(stream).load() != MAGIC or StateDictUnpickler(stream).load() != PROTOCOL:
            raise ValueError(f"{path}: not in torch's pre-1.6 format")
        facts = StateDictUnpickler(stream).load()
        if not facts["little_endian"]:
            raise ValueError(f"{path}: written by a big-endian machine")
        state = StateDictUnpickler(stream).load()
        keys = StateDictUnpickler(stream).load()
        storages = read_storages(stream, keys, {t.storage.key: t.storage.type for t in state.values()})
    return {name: (tensor, data_of(tensor, storages)) for name, tensor in state.items()}


def data_of(tensor: Tensor, storages: dict[str, bytes]) -> bytes:
    """The numbers of a tensor in row-major order, whatever its strides."""
    items = memoryview(storages[tensor.storage.key]).cast(tensor.storage.type.code)
    last = tensor.offset + sum((side - 1) * step for side, step in zip(tensor.shape, tensor.strides))
    if not 0 <= last < len(items):
        raise ValueError("tensor reaches beyond its storage")
    axes = [axis for axis in zip(tensor.shape, tensor.strides) if axis[0] > 1]
    if not axes:
        return items[tensor.offset:tensor.offset + 1].tobytes()
    side, step = axes.pop()
    starts = [tensor.offset]
    for outer, stride in axes:
        starts = [start + i * stride for start in starts for i in range(outer)]
    return b"".join(items[start:start + (side - 1) * step + 1:step].tobytes() for start in starts)


def write_safetensors(path: Path, tensors: dict[str, tuple[Tensor, bytes]]) -> None:
    header = {}
    offset = 0
    for name in sorted(tensors):
        tensor, data = tensors[name]
        header[name] = {"dtype": tensor.storage.type.name, "shape": list(tensor.shape),
                        "data_offsets": [offset, offset + len(data)]}
        offset += len(data)
    text = json.dumps(header, separators=(",", ":")).encode()
    text += b" " * (-len(text) % HEADER_ALIGNMENT)
    part = path.with_name(path.name + ".part")
    with part.open("wb") as stream:
        stream.write(struct.pack("<Q", len(text)) + text)
        for name in sorted(tensors):
            stream.write(tensors[name][1])
    os.replace(part, path)


def main() -> int:
    if len(sys.argv) != 3:
        print("usage: pth_to_safetensors.py INPUT.pth OUTPUT.safetensors", file=sys.stderr)
        return 2
    write_safetensors(Path(sys.argv[2]), read_state_dict(Path(sys.argv[1])))
    return 0


if __name__ == "__main__":
    sys.exit(main())
