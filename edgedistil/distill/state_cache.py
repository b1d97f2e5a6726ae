"""The teacher's token states in a file: computed in the first pass over the text, then read.

Nothing is masked where states are learned, and the teacher has no dropout, so a text has the same
states in every pass, within rounding: a MatMul of other rows may add in another order.
"""

from __future__ import annotations

import os
import shutil
import zlib
from collections.abc import Callable, Mapping
from contextlib import ExitStack
from pathlib import Path

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor

from edgedistil.core import console
from edgedistil.core.format import gibibytes
from edgedistil.data.token_store import TokenStore

GIB = 2**30
# Passes over the text from which the teacher's share of later passes is worth a file.
_MIN_PASSES = 1.5
# Share of the free disk that a file of states may take.
_FREE_SHARE = 0.5
_CHECKSUM_BYTES = 4
# Checksum of a row that is not written yet.
_ABSENT = 0

# States by the number of their layer, (B, L, D); 0: the embeddings.
States = dict[int, Tensor]


def is_worth_caching(passes: float, *, limit_gib: float, device: torch.device) -> bool:
    """Whether a run may gain from cached states.

    Args:
        passes: How often the run reads its text.
        limit_gib: Recipe key train.state_cache_gib.
        device: Device of the loop; a GPU may compute states faster than a disk delivers them.
    """
    return passes >= _MIN_PASSES and limit_gib > 0 and device.type == "cpu"


def claim_folder(folder: Path, size_bytes: int, *, limit_gib: float) -> bool:
    """Creates the folder of a cache, or removes it and says why; the main process calls this.

    Args:
        folder: Folder of the files; may have those of an interrupted session.
        size_bytes: Size of the states of all rows.
        limit_gib: Recipe key train.state_cache_gib.
    """
    size = f"{gibibytes(size_bytes)} GiB"
    problem = f"train.state_cache_gib is {limit_gib:g}"
    is_allowed = size_bytes <= limit_gib * GIB
    try:
        if is_allowed:
            folder.mkdir(exist_ok=True)
            # What an interrupted session wrote is free for this one.
            free = shutil.disk_usage(folder).free + _written_bytes(folder)
            is_allowed = size_bytes <= _FREE_SHARE * free
            problem = f"the disk has {gibibytes(free)} GiB for them, of which half may be used"
    except OSError as error:
        is_allowed, problem = False, f"{folder}: {error.strerror}"
    if is_allowed:
        console.say(
            f"the teacher's states of the first pass over the text are cached: {size} in {folder}, "
            "until the last step"
        )
        return True
    remove_folder(folder)
    console.say(
        f"the teacher computes its states in each pass over the text: they would take {size}, and "
        f"{problem}"
    )
    return False


def remove_folder(folder: Path) -> None:
    """Removes the folder of a cache, if there is one; warns if that fails."""
    try:
        shutil.rmtree(folder)
    except FileNotFoundError:
        return
    except OSError as error:
        console.warn(f"{folder} cannot be removed ({error.strerror}); nothing needs it any longer")


def _written_bytes(folder: Path) -> int:
    # Blocks of 512 bytes: the files have holes.
    return sum(path.stat().st_blocks * 512 for path in folder.iterdir())


def states_bytes(tokens: int, token: Mapping[int, Tensor]) -> int:
    """Returns the size of a file of states.

    Args:
        tokens: Tokens of the text.
        token: States of one token for each layer, (1, 1, D).
    """
    return tokens * sum(state_11D.nbytes for state_11D in token.values())


class StateCache:
    """States of some layers for the rows of a store, in a folder of two files.

    Processes of one machine share the files. A row is read if its checksum fits, and written once:
    a resumed run reads what the interrupted one learned from. After an error of the disk nothing
    is cached any longer.
    """

    def __init__(self, folder: Path, store: TokenStore, token: Mapping[int, Tensor]) -> None:
        """Finds the places of the rows; the files are created with the first row.

        Args:
            folder: Existing folder of the files.
            store: Rows whose states are cached.
            token: States of one token for each layer, (1, 1, D): layers, widths and types.
        """
        self._folder, self._token = folder, dict(token)
        self._token_bytes = states_bytes(1, token)
        self._lengths = store.row_lengths(np.arange(len(store)))
        self._starts = (np.cumsum(self._lengths) - self._lengths) * self._token_bytes
        self._has_failed = False

    def states(self, rows_B: NDArray[np.int64], compute: Callable[[], States]) -> States:
        """Returns the states of rows, computed if one of them is not in the files yet.

        Args:
            rows_B: The rows; none for rows of no store.
            compute: Returns the states of these rows, padded at their ends.
        Returns:
            States, 0 at padding if nothing was computed.
        """
        if self._has_failed or len(rows_B) == 0:
            return compute()
        try:
            stored = self._read(rows_B)
        except OSError as error:
            self._fail(error)
            return compute()
        complete = [data for data in stored if data is not None]
        if len(complete) == len(stored):
            return self._padded(complete)
        states = compute()
        try:
            self._write(rows_B, states, stored)
        except OSError as error:
            self._fail(error)
        return states

    def _fail(self, error: OSError) -> None:
        """Stops caching and deletes the files; checkpoints may need the space."""
        self._has_failed = True
        remove_folder(self._folder)
        console.warn(
            f"the teacher's states are not cached any longer ({error.strerror}); the run goes on, "
            "and computes them in each pass over the text"
        )

    # --- files -----------------------------------------------------------------------------------

    def _open(self, stack: ExitStack, flags: int) -> tuple[int, int]:
        """Opens the files of states and of checksums."""
        files = []
        for name in ("states", "checksums"):
            file = os.open(self._folder / name, flags, 0o666)
            stack.callback(os.close, file)
            files.append(file)
        return files[0], files[1]

    def _read(self, rows_B: NDArray[np.int64]) -> list[bytearray | None]:
        """States of rows as they are stored; None for a row that is not, or not completely."""
        with ExitStack() as stack:
            try:
                states_file, checksums_file = self._open(stack, os.O_RDONLY)
            except FileNotFoundError:
                return [None] * len(rows_B)
            return [self._read_row(states_file, checksums_file, row) for row in rows_B.tolist()]

    def _read_row(self, states_file: int, checksums_file: int, row: int) -> bytearray | None:
        checksum = os.pread(checksums_file, _CHECKSUM_BYTES, _CHECKSUM_BYTES * row)
        expected = int.from_bytes(checksum, "little")
        if expected == _ABSENT:
            return None
        size = int(self._lengths[row]) * self._token_bytes
        # PyTorch wants memory that it may write to.
        data = bytearray(os.pread(states_file, size, int(self._starts[row])))
        return data if _checksum(data) == expected else None

    def _write(
        self, rows_B: NDArray[np.int64], states: States, stored: list[bytearray | None]
    ) -> None:
        """Writes the rows that are not stored, and puts the stored ones into `states`."""
        # A small text may have a row twice in a batch.
        by_row = {row: data for row, data in zip(rows_B.tolist(), stored, strict=True) if data}
        with ExitStack() as stack:
            # Not mapped: on a full disk a memory map would kill the process.
            states_file, checksums_file = self._open(stack, os.O_WRONLY | os.O_CREAT)
            for index, row in enumerate(rows_B.tolist()):
                if row in by_row:
                    for layer, values_LD in self._layers_of(by_row[row]).items():
                        states[layer][index, : len(values_LD)] = values_LD
                    continue
                data = by_row[row] = self._packed(states, index, int(self._lengths[row]))
                _write_all(states_file, data, int(self._starts[row]))
                checksum = _checksum(data).to_bytes(_CHECKSUM_BYTES, "little")
                _write_all(checksums_file, checksum, _CHECKSUM_BYTES * row)

    # --- rows ------------------------------------------------------------------------------------

    def _packed(self, states: States, index: int, length: int) -> bytearray:
        """States of one row as bytes, layer by layer."""
        data = bytearray()
        for layer, token_11D in self._token.items():
            values_LD = states[layer][index, :length].cpu()
            if values_LD.dtype != token_11D.dtype:
                raise TypeError(f"states are {values_LD.dtype}; expected {token_11D.dtype}")
            # As bytes, because NumPy has no bfloat16.
            data += values_LD.contiguous().view(torch.uint8).numpy().tobytes()
        return data

    def _layers_of(self, data: bytearray) -> States:
        """States of one row, (L, D) for each layer."""
        length, start = len(data) // self._token_bytes, 0
        layers = {}
        for layer, token_11D in self._token.items():
            width, dtype = token_11D.shape[-1], token_11D.dtype
            values = torch.frombuffer(data, dtype=dtype, count=length * width, offset=start)
            layers[layer] = values.view(length, width)
            start += length * token_11D.nbytes
        return layers

    def _padded(self, rows: list[bytearray]) -> States:
        longest = max(len(row) for row in rows) // self._token_bytes
        padded = {
            layer: torch.zeros(len(rows), longest, token_11D.shape[-1], dtype=token_11D.dtype)
            for layer, token_11D in self._token.items()
        }
        for index, row in enumerate(rows):
            for layer, values_LD in self._layers_of(row).items():
                padded[layer][index, : len(values_LD)] = values_LD
        return padded


def _checksum(data: bytearray) -> int:
    return zlib.crc32(data) or _ABSENT + 1


def _write_all(file: int, data: bytes | bytearray, place: int) -> None:
    # A nearly full disk takes a part before it reports an error.
    view = memoryview(data)
    while view:
        written = os.pwrite(file, view, place)
        view, place = view[written:], place + written
