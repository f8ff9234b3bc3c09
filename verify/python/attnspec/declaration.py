"""What a kernel declares beside its functions, and the decorator that declares it."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any, Callable, Iterable, TypedDict, TypeVar, Union

from .abi import BACKWARD, DTYPES, EQUAL_BITS, LIMITS, NAMES, OPERATORS, Limit, Limits
from .memory import DEVICES, TENSORS

if TYPE_CHECKING:
    from typing_extensions import Unpack

Function = TypeVar("Function", bound=Callable[..., Any])
Size = Union[int, "tuple[int, int]"]


class Options(TypedDict, total=False):
    """The options of Declaration, which explains them."""

    backward: Callable[..., Any] | None
    arithmetic: str
    exports_selection: bool
    equal_bits: str
    unordered_backward: bool
    summary: str
    dtypes: Iterable[str]
    gates: Iterable[str]
    phis: Iterable[str]
    only_causal: bool
    only_equal_dims: bool
    only_equal_lengths: bool
    tensors: str
    device: str
    dk: Size
    dv: Size
    group: Size
    block: Size
    top_k: Size
    compress_block: Size
    window_size: Size


class Declaration:
    """What a kernel declares beside its functions."""

    def __init__(self, operator: str, backward: Callable[..., Any] | None = None, arithmetic: str = "",
                 exports_selection: bool = True, equal_bits: str = "deterministic", unordered_backward: bool = False,
                 summary: str = "", dtypes: Iterable[str] = (), gates: Iterable[str] = (), phis: Iterable[str] = (),
                 only_causal: bool = False, only_equal_dims: bool = False, only_equal_lengths: bool = False,
                 tensors: str = "numpy", device: str = "cpu", **limits: Size):
        """operator: one of OPERATORS. backward: a function, or None. arithmetic: what it rounds, such as
        "rounded_sum+fp32_out" (list arithmetic). exports_selection: moba writes the selection that it used. equal_bits:
        one of EQUAL_BITS, each of which includes those before it; unordered_backward: it holds for the forward alone.
        summary: one line.

        Limits, all of which exclude cases before there are inputs. dtypes, gates, phis: names, those that it can do;
        none: all. only_causal; only_equal_dims: dk = dv; only_equal_lengths: as many queries as keys. Each size of
        LIMITS: the largest, or (largest, multiple of); 0: any.

        tensors: "numpy", or "torch" for PyTorch tensors. device: "cpu" gives tensors over the judge's memory; "cuda",
        with "torch" alone, copies on the GPU with the same strides, which are copied back after the call.

        Raises ValueError that names field and value."""
        require("operator", operator, OPERATORS)
        require("equal_bits", equal_bits, EQUAL_BITS)
        require("tensors", tensors, TENSORS)
        require("device", device, DEVICES)
        if device != "cpu" and tensors != "torch":
            raise ValueError(f"device '{device}': needs tensors='torch'")
        if backward is not None and operator not in BACKWARD:
            raise ValueError(f"backward: {operator} has none")
        self.promises = exports_selection + (2 << EQUAL_BITS.index(equal_bits)) - 2 + 16 * unordered_backward
        self.operator, self.backward, self.arithmetic = operator, backward, arithmetic
        self.summary, self.tensors, self.device = summary, tensors, device
        self.limits = Limits(bits("dtype", dtypes, DTYPES), bits("gate", gates, NAMES["gate"]),
                             bits("phi", phis, NAMES["phi_kind"]), only_causal, only_equal_dims, only_equal_lengths)
        for name, limit in limits.items():
            require("limit", name, LIMITS)
            setattr(self.limits, name, Limit(*(limit if isinstance(limit, tuple) else (limit, 0))))


def require(field: str, value: str, values: Iterable[str]) -> None:
    """Raises ValueError where a value is none of those."""
    if value not in values:
        raise ValueError(f"{field} '{value}': is none of {', '.join(values)}")


def bits(field: str, chosen: Iterable[str], names: list[str]) -> int:
    """The bits of names; 0, which is all of them, for none."""
    chosen = list(chosen)
    for name in chosen:
        require(field, name, names)
    return sum(1 << names.index(name) for name in chosen)


def kernel(operator: str, **options: Unpack[Options]) -> Callable[[Function], Function]:
    """Declares a function to be a kernel, for check, for tests and for the program. Options as of Declaration."""
    declared = Declaration(operator, **options)

    def declare(fn: Function) -> Function:
        setattr(fn, "attnspec", declared)
        return fn

    return declare


def declaration_of(fn: object) -> Declaration | None:
    """What a decorated function declares."""
    declared = getattr(fn, "attnspec", None)
    return declared if isinstance(declared, Declaration) else None
