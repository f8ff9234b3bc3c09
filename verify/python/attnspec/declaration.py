"""What a kernel declares beside its functions, and the decorator that declares it."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any, Callable, Iterable, TypedDict, TypeVar, Union

from .abi import BACKWARD, DTYPES, EQUAL_BITS, EQUAL_LENGTHS, LIMITS, MAX_SET, NAMES, OPERATORS, SCALES
from .abi import SELECTION_ORDERS, SELECTION_PER, Limit, Limits
from .memory import DEVICES, TENSORS

if TYPE_CHECKING:
    from typing_extensions import Unpack

Function = TypeVar("Function", bound=Callable[..., Any])


class Sizes(TypedDict, total=False):
    """The values of a size that a kernel can do, where neither the largest nor a set says it."""

    smallest: int
    largest: int
    multiple_of: int
    power_of_two: bool


Size = Union[int, "tuple[int, int]", "set[int]", Sizes]


class Options(TypedDict, total=False):
    """The options of Declaration, which explains them."""

    backward: Callable[..., Any] | None
    arithmetic: str
    exports_selection: bool
    exports_lse: bool
    equal_bits: str
    unordered_backward: bool
    summary: str
    dtypes: Iterable[str]
    gates: Iterable[str]
    phis: Iterable[str]
    only_causal: bool
    only_equal_dims: bool
    only_equal_lengths: bool | str
    only_equal_blocks: bool
    no_empty_sequences: bool
    no_rows_without_keys: bool
    scale: str
    selection_per: str
    selection_order: str
    forced_blocks: tuple[int, int] | None
    tensors: str
    device: str
    dk: Size
    dv: Size
    group: Size
    block: Size
    top_k: Size
    compress_block: Size
    window_size: Size
    queries: Size
    keys: Size
    sequences: Size


class Declaration:
    """What a kernel declares beside its functions."""

    def __init__(self, operator: str, backward: Callable[..., Any] | None = None, arithmetic: str = "",
                 exports_selection: bool = True, exports_lse: bool = True, equal_bits: str = "deterministic",
                 unordered_backward: bool = False, summary: str = "", dtypes: Iterable[str] = (),
                 gates: Iterable[str] = (), phis: Iterable[str] = (),
                 only_causal: bool = False, only_equal_dims: bool = False, only_equal_lengths: bool | str = False,
                 only_equal_blocks: bool = False, no_empty_sequences: bool = False, no_rows_without_keys: bool = False,
                 scale: str = "any", selection_per: str = "any", selection_order: str = "any",
                 forced_blocks: tuple[int, int] | None = None,
                 tensors: str = "numpy", device: str = "cpu", **limits: Size):
        """operator: one of OPERATORS. backward: a function, or None. arithmetic: what it rounds, such as
        "rounded_sum+fp32_out" (list arithmetic). exports_selection: moba writes the selection that it used.
        exports_lse: False: the kernel keeps lse to itself; lse is None in all calls, and is not judged. equal_bits:
        one of EQUAL_BITS, each of which includes those before it; unordered_backward: it holds for the forward alone.
        summary: one line.

        Limits: attnspec draws its cases inside them. dtypes, gates, phis: names, those that it can do; none: all.
        only_causal; only_equal_dims: dk = dv; only_equal_lengths: as many queries as keys in every sequence, True or
        "all" in every call, "causal" in causal ones, "backward" in backwards; only_equal_blocks: compress_block =
        compress_stride = block. no_empty_sequences: each has a query and a key; no_rows_without_keys: never queries
        without keys, nor more queries than keys in causal calls. scale: one of SCALES. selection_per: of `selected`,
        one of SELECTION_PER; selection_order: one of SELECTION_ORDERS. forced_blocks: of NSA, the only (initial,
        local). Each size of LIMITS: the largest, or (largest, multiple of), or a set of values, or Sizes, such as
        {"smallest": 16, "power_of_two": True}; 0: any. queries and keys are those of a sequence that has some.

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
        self.promises += 32 * (not exports_lse)
        self.operator, self.backward, self.arithmetic = operator, backward, arithmetic
        self.summary, self.tensors, self.device = summary, tensors, device
        equal_lengths = "none" if only_equal_lengths is False else "all"
        if isinstance(only_equal_lengths, str):
            equal_lengths = only_equal_lengths
        self.limits = Limits(
            bits("dtype", dtypes, DTYPES), bits("gate", gates, NAMES["gate"]), bits("phi", phis, NAMES["phi_kind"]),
            only_causal, only_equal_dims, number("only_equal_lengths", equal_lengths, EQUAL_LENGTHS), only_equal_blocks,
            no_empty_sequences, no_rows_without_keys, number("scale", scale, SCALES),
            number("selection_per", selection_per, SELECTION_PER),
            number("selection_order", selection_order, SELECTION_ORDERS), forced_blocks is not None, 0,
            *(forced_blocks or (0, 0)))
        for name, limit in limits.items():
            require("limit", name, LIMITS)
            setattr(self.limits, name, limit_of(name, limit))


def require(field: str, value: str, values: Iterable[str]) -> None:
    """Raises ValueError where a value is none of those."""
    if value not in values:
        raise ValueError(f"{field} '{value}': is none of {', '.join(values)}")


def number(field: str, value: object, names: list[str]) -> int:
    """The number of a name."""
    require(field, str(value), names)
    return names.index(str(value))


def limit_of(name: str, size: Size) -> Any:
    """The values of a size as a struct. Raises ValueError that names field and value."""
    if isinstance(size, dict):
        for field in size:
            require(f"{name}: limit", field, Sizes.__annotations__)
        return Limit(**size)
    if isinstance(size, (set, frozenset)):
        if not 0 < len(size) <= MAX_SET or min(size) < 1:
            raise ValueError(f"{name} {sorted(size)}: is no set of 1 to {MAX_SET} numbers above 0")
        return Limit(set=tuple(sorted(size)))
    largest, multiple_of = size if isinstance(size, tuple) else (size, 0)
    return Limit(largest=largest, multiple_of=multiple_of)


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
