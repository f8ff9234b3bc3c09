"""Tensors as PyTorch tensors. Only kernels with tensors="torch" import this module."""

from __future__ import annotations

import ctypes
from typing import Any

import numpy as np
import numpy.typing as npt
import torch  # type: ignore[import-not-found, unused-ignore]

from .abi import DLTensor
from .arrays import as_array

GUARD = 64  # elements before and after every tensor, the judge's kGuardElements

DTYPES = {"uint16": torch.bfloat16, "float16": torch.float16, "float32": torch.float32, "int32": torch.int32}


def as_tensor(array: npt.NDArray[Any]) -> torch.Tensor:
    """A tensor over an array's memory, with its strides; uint16 holds bf16."""
    if array.dtype == np.uint16:
        return torch.from_numpy(array.view(np.int16)).view(torch.bfloat16)
    return torch.from_numpy(array)


class TensorMemory:
    """The tensors of a call as PyTorch tensors over the judge's memory."""

    def tensor(self, tensor: DLTensor) -> torch.Tensor | None:
        array = as_array(tensor)
        return None if array is None else as_tensor(array)

    def offsets(self, values: list[int]) -> torch.Tensor:
        return torch.tensor(values, dtype=torch.int64)

    def collect(self) -> None:
        """The tensors are the memory."""


class DeviceMemory(TensorMemory):
    """The tensors of a call as copies on a device, for the time of the call. They have the strides of the judge's
    tensors, and what is between the rows, before the first and after the last is copied too, both ways and as bytes: a
    stray write is found as it is on the CPU. Tensors that share memory share the copy."""

    def __init__(self, device: str):
        self.device = device
        self.spans: dict[tuple[int, int], tuple[torch.Tensor, torch.Tensor]] = {}  # first byte, bytes: memory, copy

    def tensor(self, tensor: DLTensor) -> torch.Tensor | None:
        array = as_array(tensor)
        if array is None or array.size == 0:
            return None if array is None else as_tensor(array).to(self.device)
        item = array.itemsize
        inner = sum((n - 1) * stride for n, stride in zip(array.shape, array.strides)) + item
        begin, size = array.ctypes.data - GUARD * item, inner + 2 * GUARD * item
        if (begin, size) not in self.spans:
            memory = torch.frombuffer((ctypes.c_char * size).from_address(begin), dtype=torch.uint8)
            self.spans[begin, size] = memory, memory.to(self.device, copy=True)
        copy = self.spans[begin, size][1][GUARD * item : GUARD * item + inner].view(DTYPES[array.dtype.name])
        return copy.as_strided(array.shape, [stride // item for stride in array.strides], copy.storage_offset())

    def collect(self) -> None:
        """Waits for the work, and copies everything back."""
        for memory, copy in self.spans.values():
            memory.copy_(copy)


def require(device: str) -> None:
    """Raises ValueError in one line where PyTorch has no such device."""
    if device == "cuda" and not torch.cuda.is_available():
        raise ValueError("device 'cuda': PyTorch sees no CUDA GPU (torch.cuda.is_available() is false)")
