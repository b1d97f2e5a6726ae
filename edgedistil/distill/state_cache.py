"""The teacher's token states in a file: computed in the first pass over the text, then read.

Nothing is masked where states are learned, and the teacher has no dropout, so a text has the same
states in every pass.
"""

from __future__ import annotations

import os
import shutil
import zlib
from collections.abc import Mapping
from pathlib import Path

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor

from edgedistil.core import console
from edgedistil.core.rundir import storage_errors
from edgedistil.data.token_store import TokenStore

# Folder of a run with its teacher's states, until its last step.
STATES_FOLDER = "teacher-states"

# Passes over the text from which it pays to keep states.
_MIN_PASSES = 1.5
# Share of the free disk that a file of states may take; everything else has the rest.
_FREE_SHARE = 0.5
_GIB = 2**30
_CHECKSUM_BYTES = 4
# Checksum of a row that is not written yet.
_ABSENT = 0


def pays(passes: float, *, limit_gib: float, device: torch.device) -> bool:
    """Whether a run may gain from kept states.

    Args:
        passes: How often the run reads its text.
        limit_gib: Recipe key train.state_cache_gib.
        device: Device of the loop; a GPU may compute states faster than a disk delivers them.
    """
    return passes >= _MIN_PASSES and limit_gib > 0 and device.type == "cpu"


def open_state_cache(
    folder: Path, store: TokenStore, like: Mapping[int, Tensor], *, limit_gib: float
) -> StateCache | None:
    """Opens the states of a store's rows; says how large it is, or why it is not used.

    Args:
        folder: Folder of the file; created.
        store: Rows whose states are cached.
        like: States of one token for each layer, (1, 1, D).
        limit_gib: Recipe key train.state_cache_gib.
    Returns:
        None if the file would be larger than the limit, or than half of the free disk.
    Raises:
        StorageError: The folder cannot be created.
    """
    with storage_errors(folder):
        folder.mkdir(exist_ok=True)
    cache = StateCache(folder, store, like)
    size = f"{cache.size_bytes / _GIB:.1f} GiB"
    # What an interrupted session wrote is no longer free.
    free = shutil.disk_usage(folder).free + cache.written_bytes
    if cache.size_bytes > limit_gib * _GIB:
        console.say(
            f"the teacher reads the text in each pass: its states take {size}, and "
            f"train.state_cache_gib is {limit_gib:g}"
        )
        return None
    if cache.size_bytes > _FREE_SHARE * free:
        console.say(
            f"the teacher reads the text in each pass: its states take {size}, more than half of "
            f"the {free / _GIB:.1f} GiB that are free"
        )
        return None
    console.say(f"the teacher reads the text once: its states are kept in a file of {size}")
    return cache


class StateCache:
    """States of some layers for the rows of a store, in a folder of two files.

    Processes of one machine share the files: each writes the rows that it computes. A row is read
    only if its checksum fits, so a half-written one is computed again.
    """

    def __init__(self, folder: Path, store: TokenStore, like: Mapping[int, Tensor]) -> None:
        """Finds the places of the rows; files are created by the first `write`.

        Args:
            folder: Existing folder of the files.
            store: Rows whose states are cached.
            like: States of one token for each layer, (1, 1, D): layers, widths and types to keep.
        """
        self._paths = folder / "states", folder / "checksums"
        self._like, self._is_full = dict(like), False
        self._lengths = store.row_lengths(np.arange(len(store)))
        self._token_bytes = sum(state_11D.nbytes for state_11D in like.values())
        self._starts = (np.cumsum(self._lengths) - self._lengths) * self._token_bytes

    @property
    def size_bytes(self) -> int:
        """Size of the states of all rows."""
        return int(self._lengths.sum()) * self._token_bytes

    @property
    def written_bytes(self) -> int:
        """Bytes on the disk that the files take now."""
        # Blocks of 512 bytes: the file has holes.
        return sum(path.stat().st_blocks * 512 for path in self._paths if path.exists())

    def read(self, rows_B: NDArray[np.int64]) -> dict[int, Tensor] | None:
        """Returns the states of rows by their layer, (B, L, D), 0 at padding.

        Returns:
            None if a row is not written yet, or not completely.
        """
        try:
            with self._paths[0].open("rb") as states, self._paths[1].open("rb") as checksums:
                rows = [
                    self._read_row(states.fileno(), checksums.fileno(), row)
                    for row in rows_B.tolist()
                ]
        except FileNotFoundError:
            return None
        complete = [row for row in rows if row is not None]
        return self._padded(complete) if len(complete) == len(rows) else None

    def write(self, rows_B: NDArray[np.int64], states: Mapping[int, Tensor]) -> None:
        """Keeps the states of rows; on a full disk it warns once and keeps no more.

        Args:
            rows_B: The rows.
            states: Their states by layer, (B, L, D), padded at the ends.
        """
        if self._is_full:
            return
        try:
            self._write(rows_B, states)
        except OSError as error:
            self._is_full = True
            console.warn(
                f"the teacher's states are not kept any longer ({error.strerror}); the run goes on "
                "and computes them in each pass over the text"
            )

    def _read_row(self, states: int, checksums: int, row: int) -> bytearray | None:
        stored = os.pread(checksums, _CHECKSUM_BYTES, _CHECKSUM_BYTES * row)
        expected = int.from_bytes(stored, "little")
        if expected == _ABSENT:
            return None
        size = int(self._lengths[row]) * self._token_bytes
        # PyTorch wants memory that it may write to.
        data = bytearray(os.pread(states, size, int(self._starts[row])))
        return data if _checksum(data) == expected else None

    def _padded(self, rows: list[bytearray]) -> dict[int, Tensor]:
        lengths = [len(row) // self._token_bytes for row in rows]
        padded, start = {}, 0
        for layer, like_11D in self._like.items():
            width, dtype = like_11D.shape[-1], like_11D.dtype
            states_BLD = torch.zeros(len(rows), max(lengths), width, dtype=dtype)
            for index, (row, length) in enumerate(zip(rows, lengths, strict=True)):
                # In a row one layer follows the other.
                values = torch.frombuffer(
                    row, dtype=dtype, count=length * width, offset=start * length
                )
                states_BLD[index, :length] = values.view(length, width)
            padded[layer] = states_BLD
            start += like_11D.nbytes
        return padded

    def _write(self, rows_B: NDArray[np.int64], states: Mapping[int, Tensor]) -> None:
        layers_BLD = [states[layer] for layer in self._like]
        # Not mapped: on a full disk a memory map would kill the process.
        states_file, checksums_file = (
            os.open(path, os.O_RDWR | os.O_CREAT) for path in self._paths
        )
        try:
            for index, row in enumerate(rows_B.tolist()):
                length = int(self._lengths[row])
                # As bytes, because NumPy has no bfloat16.
                parts = [states_BLD[index, :length].contiguous() for states_BLD in layers_BLD]
                data = b"".join(part.view(torch.uint8).numpy().tobytes() for part in parts)
                _write_all(states_file, data, int(self._starts[row]))
                checksum = _checksum(data).to_bytes(_CHECKSUM_BYTES, "little")
                _write_all(checksums_file, checksum, _CHECKSUM_BYTES * row)
        finally:
            os.close(states_file)
            os.close(checksums_file)


def _checksum(data: bytes | bytearray) -> int:
    return zlib.crc32(data) or _ABSENT + 1


def _write_all(file: int, data: bytes, place: int) -> None:
    # A nearly full disk takes a part before it reports an error.
    rest = memoryview(data)
    while rest:
        written = os.pwrite(file, rest, place)
        rest, place = rest[written:], place + written
