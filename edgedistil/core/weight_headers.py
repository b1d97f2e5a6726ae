"""Reads the names and shapes of a model folder's weights from their headers; loads no weight."""

from __future__ import annotations

from pathlib import Path

from edgedistil.core.echo import echo
from edgedistil.core.errors import ModelError, StorageError
from edgedistil.core.fetch import require_safetensors
from edgedistil.core.library_errors import library_errors
from edgedistil.core.regular_file import check_regular
from edgedistil.core.rundir import read_json_object

WEIGHTS_FILE = "model.safetensors"
INDEX_FILE = "model.safetensors.index.json"
DAMAGED_HINT = "the file may be truncated: copy or download it again"
_FLOAT_TENSORS = ("F64", "F32", "F16", "BF16")

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
                hint="merge them into the model that they were made for: peft's merge_and_unload, "
                "then save_pretrained",
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


def read_header(file: Path) -> dict[str, Shape]:
    """Returns the shape of each weight in a safetensors file; raises ModelError if damaged."""
    from safetensors import safe_open

    problem = f"{file} is truncated or not a safetensors file"
    shapes: dict[str, Shape] = {}
    with library_errors(problem, hint=DAMAGED_HINT):
        check_regular(file)
        # numpy's loader: torch is not needed to read a header.
        with safe_open(file, framework="numpy") as tensors:
            for name in tensors.keys():  # noqa: SIM118 - not a mapping
                tensor = tensors.get_slice(name)
                shapes[name] = tuple(tensor.get_shape())
                _check_float(file, name, tensor.get_dtype())
    return shapes


def read_dtypes(file: Path) -> dict[str, str]:
    """Returns the type of each weight in a safetensors file that `read_header` has read."""
    from safetensors import safe_open

    with safe_open(file, framework="numpy") as tensors:
        names = tensors.keys()
        return {name: str(tensors.get_slice(name).get_dtype()) for name in names}


def _check_float(file: Path, name: str, dtype: str) -> None:
    """Raises ModelError for a quantized weight."""
    # Position ids, which older versions stored with the weights, are integers.
    if name.endswith(".weight") and dtype not in _FLOAT_TENSORS:
        raise ModelError(
            f"the weight '{name}' in {file} is of type {dtype}; expected floating-point numbers",
            hint="the model is quantized: choose the original",
        )
