"""How a function sees the tensors of a call: as NumPy arrays, or as PyTorch tensors on the CPU or on a GPU."""

from __future__ import annotations

import importlib
from typing import Any, Callable, Protocol

from .abi import DLTensor

TENSORS = ["numpy", "torch"]
DEVICES = ["cpu", "cuda"]


class CallMemory(Protocol):
    """The tensors of one call."""

    def tensor(self, tensor: DLTensor) -> Any:
        """A tensor, or None where it is absent."""

    def offsets(self, values: list[int]) -> Any:
        """Offsets, on the CPU."""

    def collect(self) -> None:
        """The function has returned: its outputs go to the judge."""


def memory_of_calls(tensors: str, device: str) -> Callable[[], CallMemory]:
    """What makes the memory of a call. Raises ValueError in one line where a library or a device is missing."""
    module = "arrays" if tensors == "numpy" else "torch_tensors"
    try:
        library = importlib.import_module(f".{module}", __package__)
        if tensors == "numpy":
            importlib.import_module("numpy")
            make: Callable[[], CallMemory] = library.ArrayMemory
            return make
    except ImportError as error:
        raise ValueError(f"tensors '{tensors}': {error}") from error
    library.require(device)
    return library.TensorMemory if device == "cpu" else lambda: library.DeviceMemory(device)
