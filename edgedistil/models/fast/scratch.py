"""Scratch memory that persists between calls."""

from __future__ import annotations

import math
from typing import ClassVar

import torch
from torch import Tensor


class Scratch:
    """Reusable buffers of one device, by name and dtype; their content is undefined.

    A fresh buffer of 62 MB costs 4 to 10 times what the arithmetic on it costs, because the system
    hands out its pages one by one (docs/log.md#float32-temporaries-of-a-chunk). Two buffers of the
    same name and dtype share memory, so a name is for one purpose.
    """

    _by_device: ClassVar[dict[torch.device, Scratch]] = {}

    def __init__(self, device: torch.device) -> None:
        self._device = device
        self._buffers: dict[tuple[str, torch.dtype], Tensor] = {}

    @classmethod
    def of(cls, device: torch.device) -> Scratch:
        """Returns the scratch memory of a device."""
        return cls._by_device.setdefault(device, cls(device))

    def take(self, name: str, shape: torch.Size | tuple[int, ...], dtype: torch.dtype) -> Tensor:
        """Returns a buffer of this shape, from an earlier call if it is large enough."""
        # Grow only: micro-batches differ in size, and the largest one decides.
        size = math.prod(shape)
        buffer = self._buffers.get((name, dtype))
        if buffer is None or len(buffer) < size:
            buffer = torch.empty(size, dtype=dtype, device=self._device)
            self._buffers[name, dtype] = buffer
        return buffer[:size].view(shape)

    def cast(self, name: str, values: Tensor, dtype: torch.dtype) -> Tensor:
        """Returns `values` in `dtype`, cast into a buffer if they have another one."""
        if values.dtype == dtype:
            return values
        return self.take(name, values.shape, dtype).copy_(values)
