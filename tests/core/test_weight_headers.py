"""Headers of safetensors files: what the library writes is read, what it refuses is refused."""

from __future__ import annotations

import json
import subprocess
import sys
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from safetensors import safe_open
from safetensors.numpy import save_file

from edgedistil.core.errors import ModelError
from edgedistil.core.weight_headers import read_header, read_tensors

Header = dict[str, Any]


@pytest.fixture
def file(tmp_path: Path) -> Path:
    path = tmp_path / "model.safetensors"
    arrays = {
        "a.weight": np.ones((3, 5), np.float32),
        "b.bias": np.ones(7, np.float16),
        "empty": np.ones((0, 2), np.float32),
        "one": np.array(1.0),
        "position_ids": np.arange(11)[None],
    }
    save_file(arrays, path, metadata={"format": "pt"})
    return path


def rewrite(path: Path, change: Callable[[Header], object], *, added: bytes = b"") -> None:
    data = path.read_bytes()
    length = int.from_bytes(data[:8], "little")
    header = json.loads(data[8 : 8 + length])
    change(header)
    text = json.dumps(header).encode()
    path.write_bytes(len(text).to_bytes(8, "little") + text + data[8 + length :] + added)


def test_types_and_shapes_are_those_of_the_library(file: Path) -> None:
    with safe_open(file, framework="numpy") as tensors:
        slices = {name: tensors.get_slice(name) for name in tensors.keys()}  # noqa: SIM118
        expected = {name: (s.get_dtype(), tuple(s.get_shape())) for name, s in slices.items()}
    assert {name: (t.dtype, t.shape) for name, t in read_tensors(file).items()} == expected
    assert read_header(file)["a.weight"] == (3, 5)


@pytest.mark.parametrize(
    "change",
    [
        lambda header: header["a.weight"].update(shape=[3, 6]),
        lambda header: header["a.weight"].update(shape=[-3, -5]),
        lambda header: header["a.weight"].update(shape="3"),
        lambda header: header["a.weight"].update(data_offsets=[0, 60.0]),
        lambda header: header["a.weight"].update(data_offsets=[0]),
        lambda header: header["a.weight"].pop("dtype"),
        lambda header: header["b.bias"].update(data_offsets=header["a.weight"]["data_offsets"]),
        lambda header: header.pop("b.bias"),
        lambda header: header.update(c=[1]),
        lambda header: header.update(c=None),
    ],
)
def test_what_the_library_refuses_is_refused(
    file: Path, change: Callable[[Header], object]
) -> None:
    rewrite(file, change)
    with pytest.raises(Exception), safe_open(file, framework="numpy"):  # noqa: B017
        pass
    with pytest.raises(ModelError, match="is truncated or not a safetensors file: "):
        read_tensors(file)


def test_missing_and_further_bytes_are_refused(file: Path) -> None:
    whole = file.read_bytes()
    for data in (whole[:-1], whole + b"x", whole[:20], whole[:4], b"\xff" * 40):
        file.write_bytes(data)
        with pytest.raises(ModelError, match="is truncated or not a safetensors file: "):
            read_tensors(file)


def test_a_pointer_of_git_lfs_is_named(file: Path) -> None:
    file.write_text("version https://git-lfs.github.com/spec/v1\noid sha256:12\nsize 34\n")
    with pytest.raises(ModelError, match="is a pointer of Git LFS") as caught:
        read_tensors(file)
    assert "git lfs pull" in str(caught.value.hint)


def test_a_weight_of_integers_is_named(file: Path) -> None:
    save_file({"x.weight": np.ones((2, 3), np.int8)}, file)
    with pytest.raises(ModelError, match=r"'x.weight' in .* is of type I8"):
        read_header(file)


def test_numpy_is_not_imported(file: Path) -> None:
    code = f"""
import sys
from pathlib import Path
from edgedistil.core.weight_headers import read_header
read_header(Path({str(file)!r}))
print(sorted({{"numpy", "torch", "safetensors"}} & set(sys.modules)))
"""
    command = [sys.executable, "-c", code]
    done = subprocess.run(command, capture_output=True, text=True, check=True)
    assert done.stdout.strip() == "[]"
