"""The fields of a call as keywords: their names, what they are, and their values."""

from __future__ import annotations

import types
from ctypes import Structure
from typing import Any

from .abi import BACKWARD, FORWARD, NAMES, DLTensor
from .field_table import EVERYWHERE, OF_OPERATOR, PARTS
from .memory import CallMemory

NOT_FOR_FUNCTIONS = ("struct_size", "reserved", "stream", "workspace", "workspace_bytes", "forward")
OFFSETS = ("q_offsets", "k_offsets", "row_offsets")


def names_of(struct_type: type[Structure]) -> list[str]:
    """The names that fields_of gives to the fields of a struct, in their order."""
    names = []
    for name, field_type, *_ in struct_type._fields_:
        if name in ("call", "sizes"):
            names += names_of(field_type)  # type: ignore[arg-type]
        elif name not in NOT_FOR_FUNCTIONS:
            names.append(name)
    return names


def keywords(operator: str, backward: bool = False) -> list[str]:
    """The keywords that a function of an operator is called with. Those of a backward begin with the forward's."""
    return names_of(FORWARD[operator]) + (names_of(BACKWARD[operator]) if backward else [])


def describe(operator: str, backward: bool = False) -> dict[str, str]:
    """What each keyword is, one line each: shape, format, who writes it. Parts of a namespace are named with a dot,
    `phi.w`. In a backward, what the forward wrote is to be read."""
    lines = {}
    for name in keywords(operator, backward):
        lines[name] = OF_OPERATOR.get(operator, {}).get(name) or EVERYWHERE[name]
        for part, line in PARTS.get(name, {}).items():
            lines[f"{name}.{part}"] = line
    return lines


def fields_of(params: Structure, memory: CallMemory) -> dict[str, Any]:
    """The fields of a struct as a function gets them: tensors as those of the memory, sub-structs as namespaces, bits
    as names; those of call and sizes beside the others."""
    fields = raw_fields(params, memory)
    for name in OFFSETS:
        if name in fields:
            fields[name] = memory.offsets(fields[name][: fields["num_sequences"] + 1])
    return fields


def raw_fields(params: Structure, memory: CallMemory) -> dict[str, Any]:
    """The same, with offsets as pointers."""
    fields: dict[str, Any] = {}
    for name, *_ in params._fields_:
        value = getattr(params, name)
        if name in ("call", "sizes"):
            fields.update(raw_fields(value, memory))
        elif isinstance(value, DLTensor):
            fields[name] = memory.tensor(value)
        elif isinstance(value, Structure):
            fields[name] = types.SimpleNamespace(**raw_fields(value, memory))
        elif name in NAMES:
            fields[name] = NAMES[name][value.bit_length() - 1]
        elif name == "causal":
            fields[name] = bool(value)
        elif name not in NOT_FOR_FUNCTIONS:
            fields[name] = value
    return fields
