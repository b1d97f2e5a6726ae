"""Scratch memory is used again for the same name and dtype, and never shrinks."""

from __future__ import annotations

import torch

from edgedistil.models.fast.scratch import Scratch


def _scratch() -> Scratch:
    return Scratch(torch.device("cpu"))


def test_a_device_has_one_scratch_memory() -> None:
    assert Scratch.of(torch.device("cpu")) is Scratch.of(torch.device("cpu"))


def test_a_smaller_buffer_uses_the_memory_of_a_larger_one() -> None:
    scratch = _scratch()
    large = scratch.take("x", (7, 11), torch.float32)
    small = scratch.take("x", (3, 5), torch.float32)
    assert small.shape == (3, 5)
    assert small.data_ptr() == large.data_ptr()
    assert scratch.take("x", (7, 11), torch.float32).data_ptr() == large.data_ptr()


def test_names_and_dtypes_have_memory_of_their_own() -> None:
    scratch = _scratch()
    buffers = [
        scratch.take("x", (5,), torch.float32),
        scratch.take("y", (5,), torch.float32),
        scratch.take("x", (5,), torch.bfloat16),
    ]
    assert len({buffer.data_ptr() for buffer in buffers}) == 3


def test_cast_copies_only_where_the_dtype_differs() -> None:
    scratch, values = _scratch(), torch.randn(3, 5)
    assert scratch.cast("w", values, torch.float32) is values
    narrow = scratch.cast("w", values, torch.bfloat16)
    assert narrow.dtype == torch.bfloat16
    assert torch.equal(narrow, values.bfloat16())
