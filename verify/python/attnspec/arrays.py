"""Tensors as NumPy arrays. NumPy has no bf16: uint16 holds it."""

from __future__ import annotations

import ctypes
from typing import TYPE_CHECKING, Any

from .abi import DLTensor

if TYPE_CHECKING:
    import numpy as np
    import numpy.typing as npt


def to_float32(array: npt.NDArray[Any]) -> npt.NDArray[np.float32]:
    """The values as float32, copied; uint16 holds bf16."""
    import numpy as np
    if array.dtype == np.uint16:
        return (array.astype(np.uint32) << 16).view(np.float32)
    return array.astype(np.float32)


def store(array: npt.NDArray[Any], values: npt.ArrayLike) -> None:
    """Writes values into an output, rounded once to its format, to nearest with ties to even; uint16 holds bf16. What
    is too large becomes infinite."""
    import numpy as np
    values = np.asarray(values)
    with np.errstate(over="ignore", under="ignore"):
        if array.dtype != np.uint16:
            array[...] = values
            return
        if values.dtype.kind != "f":
            values = values.astype(np.float64)
        # First to float32, to odd: towards zero, and with a last bit of 1 where that is not exact. No such number lies
        # halfway between two bf16 numbers that the value itself is not halfway between, so that the second rounding
        # gives what one alone would.
        single = np.ascontiguousarray(values, np.float32)
        back = single.astype(values.dtype)
        bits = single.view(np.uint32) - (np.abs(back) > np.abs(values))
        bits = (bits | (back != values)).astype(np.uint32)
    rounded = (bits + (np.uint32(0x7FFF) + (bits >> 16 & 1))) >> 16
    array[...] = np.where(np.isnan(values), 0x7FC0, rounded).astype(np.uint16).reshape(values.shape)


def as_array(tensor: DLTensor) -> npt.NDArray[Any] | None:
    """A NumPy array over a tensor's memory, also where it has no tokens; None where it is absent."""
    import numpy as np
    if not tensor.data:
        return None
    dtype = {(0, 32): np.int32, (2, 32): np.float32, (2, 16): np.float16, (4, 16): np.uint16}[tensor.code, tensor.bits]
    shape, size = tensor.shape[:3], tensor.bits // 8
    if 0 in shape:
        return np.empty(shape, dtype)
    strides = [size * stride for stride in tensor.strides[:3]]
    span = sum((n - 1) * stride for n, stride in zip(shape, strides)) + size
    memory = (ctypes.c_char * span).from_address(tensor.data)
    return np.ndarray(shape, dtype, memory, strides=strides)


class ArrayMemory:
    """The tensors of a call as NumPy arrays over the judge's memory."""

    tensor = staticmethod(as_array)

    def offsets(self, values: list[int]) -> npt.NDArray[np.int64]:
        import numpy as np
        return np.array(values, np.int64)

    def collect(self) -> None:
        """The arrays are the memory."""
