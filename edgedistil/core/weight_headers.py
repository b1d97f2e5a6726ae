"""Reads the names and shapes of a model folder's weights from their headers; loads no weight."""

from __future__ import annotations

import math
from collections.abc import Iterable
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from edgedistil.core.echo import echo
from edgedistil.core.errors import ModelError, StorageError
from edgedistil.core.fetch import require_safetensors
from edgedistil.core.regular_file import open_regular
from edgedistil.core.rundir import read_json_object
from edgedistil.core.strict_json import parse_json

WEIGHTS_FILE = "model.safetensors"
INDEX_FILE = "model.safetensors.index.json"
MERGE_HINT = (
    "merge the adapter into the model that it was made for: peft's merge_and_unload, then "
    "save_pretrained"
)
DAMAGED_HINT = "the file may be truncated: copy or download it again"
_FLOAT_TENSORS = ("F64", "F32", "F16", "BF16")
# A safetensors file begins with the length of its header, which the library limits to this.
_LENGTH_BYTES, _LARGEST_HEADER = 8, 100_000_000
# First bytes of the text that Git has in place of a large file.
_LFS_BEGIN = b"version "
_LFS_HINT = "run `git lfs pull` in the clone, or download the file"
# Bits of a number of each type.
_BITS = {
    **dict.fromkeys(("F64", "I64", "U64"), 64),
    **dict.fromkeys(("F32", "I32", "U32"), 32),
    **dict.fromkeys(("F16", "BF16", "I16", "U16"), 16),
    **dict.fromkeys(("I8", "U8", "BOOL", "F8_E4M3", "F8_E5M2"), 8),
}

Shape = tuple[int, ...]


def read_shapes(folder: Path) -> dict[str, Shape]:
    """Reads the shapes of all weights from the headers of the safetensors files.

    Raises:
        ModelError: There are no weights in safetensors, a file is damaged or missing, or a weight
            is not a floating-point number.
    """
    require_safetensors(folder)
    shapes: dict[str, Shape] = {}
    for file in weight_files(folder):
        shapes |= read_header(file)
    return shapes


def weight_files(folder: Path) -> list[Path]:
    """Returns the files that transformers reads a folder's weights from.

    Raises:
        ModelError: There are no such files, or the index is damaged or names other files.
    """
    single, index = folder / WEIGHTS_FILE, folder / INDEX_FILE
    if single.exists():
        return [single]
    if not index.exists():
        names = [file.name for file in sorted(folder.glob("*.safetensors"))]
        others = ", ".join(names)
        if all(name.startswith("adapter_") for name in names):
            raise ModelError(
                f"{folder} has the weights of an adapter only: {others}",
                hint=MERGE_HINT,
            )
        raise ModelError(
            f"{folder} has {others}, and neither {WEIGHTS_FILE} nor {INDEX_FILE}",
            hint=f"rename the file with the weights to {WEIGHTS_FILE}",
        )
    try:
        content = read_json_object(index)
    except StorageError as error:
        raise ModelError(error.message, hint=DAMAGED_HINT) from error
    weight_map = content.get("weight_map")
    if not isinstance(weight_map, dict) or not weight_map:
        raise ModelError(f"{index} has no weight_map; expected the file of each weight")
    files = [_shard(folder, name) for name in sorted({echo(name) for name in weight_map.values()})]
    missing = [file.name for file in files if not file.exists()]
    if missing:
        raise ModelError(
            f"{index} names {', '.join(missing)}, which {folder} does not have",
            hint="copy or download all files of the model",
        )
    # transformers reads it, and fails without it.
    if not isinstance(content.get("metadata"), dict):
        raise ModelError(
            f"{index} has no metadata; expected an object",
            hint='add "metadata": {} to the file, or download it again',
        )
    return files


def _shard(folder: Path, name: str) -> Path:
    """A file of an index; raises ModelError unless it is a safetensors file in the folder."""
    # An index from elsewhere must not make us read files outside the folder.
    if Path(name).name != name or not name.endswith(".safetensors"):
        raise ModelError(
            f"{folder / INDEX_FILE} names the file '{name}'; "
            "expected the name of a .safetensors file in the same folder"
        )
    return folder / name


@dataclass(frozen=True)
class StoredTensor:
    """A weight as the header of its file describes it.

    Attributes:
        dtype: Type of its numbers, such as F32.
        shape: Its shape.
        start: Its first byte behind the header.
        end: The byte behind its last one.
    """

    dtype: str
    shape: Shape
    start: int
    end: int


def read_header(file: Path) -> dict[str, Shape]:
    """Returns the shape of each weight in a safetensors file; raises ModelError if damaged."""
    shapes: dict[str, Shape] = {}
    for name, tensor in read_tensors(file).items():
        _check_float(file, name, tensor.dtype)
        shapes[name] = tensor.shape
    return shapes


def read_tensors(file: Path) -> dict[str, StoredTensor]:
    """Returns type and shape of each weight in a safetensors file.

    Not with the library, which imports numpy: a tenth of the time of `edgedistil inspect`.

    Raises:
        ModelError: The file is not a safetensors file, or its size is not what the header says.
    """
    try:
        with open_regular(file) as stream:
            begin = stream.read(_LENGTH_BYTES)
            if begin == _LFS_BEGIN:
                raise ModelError(f"{file} is a pointer of Git LFS, not the weights", hint=_LFS_HINT)
            length = int.from_bytes(begin, "little")
            room = file.stat().st_size - _LENGTH_BYTES
            if length > min(room, _LARGEST_HEADER):
                raise ValueError(f"a header of {length:,} bytes in a file of {room:,}")
            header = parse_json(stream.read(length).decode("utf-8"))
        if not isinstance(header, dict):
            raise ValueError("the header is not an object")
        header.pop("__metadata__", None)
        tensors = {name: _stored_tensor(name, entry) for name, entry in header.items()}
        _check_extents(tensors.values(), room - length)
    except (OSError, ValueError) as error:
        problem = f"{file} is truncated or not a safetensors file: {echo(error)}"
        raise ModelError(problem, hint=DAMAGED_HINT) from error
    return tensors


def _stored_tensor(name: str, entry: Any) -> StoredTensor:
    """Returns one entry of a header; raises ValueError if it is not one."""
    fields = entry if isinstance(entry, dict) else {}
    dtype = fields.get("dtype")
    shape, extent = _counts(fields.get("shape")), _counts(fields.get("data_offsets"))
    if not isinstance(dtype, str) or shape is None or extent is None or len(extent) != 2:
        raise ValueError(f"the entry of '{echo(name)}' has no type, shape and extent")
    tensor = StoredTensor(dtype, shape, *extent)
    # Newer types of a few bits are refused later, by name.
    bits = _BITS.get(dtype)
    if bits and 8 * (tensor.end - tensor.start) != bits * math.prod(shape):
        raise ValueError(f"'{echo(name)}' has {tensor.end - tensor.start:,} bytes for {shape}")
    return tensor


def _counts(value: Any) -> tuple[int, ...] | None:
    """Returns a list of sizes or places; None if it is not one."""
    if not isinstance(value, list) or not all(type(n) is int and n >= 0 for n in value):
        return None
    return tuple(value)


def _check_extents(tensors: Iterable[StoredTensor], data_bytes: int) -> None:
    """Raises ValueError unless the weights fill the file one after the other."""
    end = 0
    for tensor in sorted(tensors, key=lambda tensor: (tensor.start, tensor.end)):
        if tensor.start != end or tensor.end < end:
            raise ValueError(f"a weight starts at byte {tensor.start:,}; expected {end:,}")
        end = tensor.end
    if end != data_bytes:
        raise ValueError(f"{data_bytes:,} bytes of weights; the header has {end:,}")


def _check_float(file: Path, name: str, dtype: str) -> None:
    """Raises ModelError for a quantized weight."""
    # Position ids, which older versions stored with the weights, are integers.
    if name.endswith(".weight") and dtype not in _FLOAT_TENSORS:
        raise ModelError(
            f"the weight '{name}' in {file} is of type {dtype}; expected floating-point numbers",
            hint="the model is quantized: choose the original",
        )
