"""The structs of verify/abi/kernel_abi.h and of DLPack, and what names their bits have."""

from __future__ import annotations

import ctypes
from ctypes import CFUNCTYPE, POINTER, Structure, c_char_p, c_double, c_int32, c_int64, c_uint8, c_uint16
from ctypes import c_uint32, c_uint64, c_void_p
from typing import Any

ABI_VERSION = 4

DTYPES = ["bf16", "fp16", "fp32"]
EQUAL_BITS = ["none", "deterministic", "row-independent", "batch-invariant"]  # each with those before it
NAMES = {  # of fields that hold one bit
    "gate": ["top_k", "window", "sink"],
    "phi_kind": ["mean", "linear", "mlp"],
    "activation": ["relu", "silu", "gelu"],
}


class DLTensor(Structure):
    """A tensor of DLPack: here always [tokens, heads, dim]."""

    _fields_ = [
        ("data", c_void_p),
        ("device_type", c_int32),
        ("device_id", c_int32),
        ("ndim", c_int32),
        ("code", c_uint8),
        ("bits", c_uint8),
        ("lanes", c_uint16),
        ("shape", POINTER(c_int64)),
        ("strides", POINTER(c_int64)),
        ("byte_offset", c_uint64),
    ]


def struct(name: str, *fields: Any) -> type[Structure]:
    """A struct of (name, type) fields; those given by name alone are tensors."""
    return type(name, (Structure,), {"_fields_": [(f, DLTensor) if isinstance(f, str) else f for f in fields]})


Call = struct("Call", ("struct_size", c_uint64), ("num_sequences", c_int64), ("q_offsets", POINTER(c_int64)),
              ("k_offsets", POINTER(c_int64)), ("scale", c_double), ("causal", c_int32), ("reserved", c_int32),
              ("stream", c_void_p), ("workspace", c_void_p), ("workspace_bytes", c_int64))
Phi = struct("Phi", "position", "w", "w1", "b1", "w2", "b2")
Sizes = struct("Sizes", ("row_offsets", POINTER(c_int64)), *[(size, c_int64) for size in (
    "compress_block", "compress_stride", "block", "top_n", "initial_blocks", "local_blocks", "window_size")],
    ("phi_kind", c_int32), ("activation", c_int32))
Branch = struct("Branch", "k", "v", "o", "lse")
BranchGradients = struct("BranchGradients", "dk", "dv")

CALL, SIZES, BLOCK, TOP_K = ("call", Call), ("sizes", Sizes), ("block", c_int64), ("top_k", c_int64)
MOBA = (BLOCK, TOP_K, ("gate", c_int32), ("reserved", c_int32))
BRANCHES = ("compressed", "selected", "window")
FORWARD: dict[str, type[Structure]] = {  # in the order of their bits
    "dense": struct("Dense", CALL, "q", "k", "v", "o", "lse"),
    "selected": struct("Selected", CALL, BLOCK, "q", "k", "v", "selection", "o", "lse"),
    "moba_select": struct("MobaSelect", CALL, *MOBA, "q", "k", "selection"),
    "moba": struct("Moba", CALL, *MOBA, "q", "k", "v", "selection", "o", "lse"),
    "nsa_compress": struct("NsaCompress", CALL, SIZES, "tokens", ("phi", Phi), "rows"),
    "nsa_compressed": struct("NsaCompressed", CALL, SIZES, "q", "k", "v", "selection", "o", "lse"),
    "window": struct("Window", CALL, ("window_size", c_int64), "q", "k", "v", "o", "lse"),
    "nsa": struct("Nsa", CALL, SIZES, "q", *[(b, Branch) for b in BRANCHES], "gates", ("phi_k", Phi), ("phi_v", Phi),
                  "k_compressed", "v_compressed", "selection", "o"),
    "msa_select": struct("MsaSelect", CALL, BLOCK, TOP_K, "qi", "ki", "selection"),
    "dsa_select": struct("DsaSelect", CALL, TOP_K, "qi", "ki", "w", "selection"),
    "qsa_select": struct("QsaSelect", CALL, BLOCK, TOP_K, "qi", "kbar", "selection"),
}
OPERATORS = list(FORWARD)
GRADIENTS: dict[str, tuple[Any, ...]] = {
    op: ("d_o", "dq", "dk", "dv") for op, forward in FORWARD.items() if hasattr(forward, "v")}
GRADIENTS["nsa_compress"] = ("d_rows", "d_tokens", ("d_phi", Phi))
GRADIENTS["nsa"] = ("d_o", "dq", *[("d_" + b, BranchGradients) for b in BRANCHES], "d_gates", "dk_compressed",
                    "dv_compressed", ("d_phi_k", Phi), ("d_phi_v", Phi))
BACKWARD = {op: struct(op + "_backward", ("struct_size", c_uint64), ("forward", POINTER(FORWARD[op])), *fields)
            for op, fields in GRADIENTS.items()}

# name -> (operator, function pointer type, struct), in the order of the header
FUNCTIONS: dict[str, tuple[str, Any, type[Structure]]] = {}
for op in OPERATORS:
    FUNCTIONS[op] = (op, CFUNCTYPE(c_void_p, POINTER(FORWARD[op])), FORWARD[op])
    if op in BACKWARD:
        FUNCTIONS[op + "_backward"] = (op, CFUNCTYPE(c_void_p, POINTER(BACKWARD[op])), BACKWARD[op])

LIMITS = ("dk", "dv", "group", "block", "top_k", "compress_block", "window_size", "queries", "keys", "sequences")
SCALES = ["any", "positive", "default"]  # numbers from 0 on; so are the next two
EQUAL_LENGTHS = ["none", "all", "causal", "backward"]
SELECTION_PER = ["any", "head", "kv_head"]
SELECTION_ORDERS = ["any", "packed", "ascending", "own_last"]
MAX_SET = 8
Limit = struct("Limit", ("smallest", c_int64), ("largest", c_int64), ("multiple_of", c_int64),
               ("set", c_int64 * MAX_SET), ("power_of_two", c_int32), ("reserved", c_int32))
Limits = struct("Limits", ("dtypes", c_uint32), ("gates", c_uint32), ("phis", c_uint32),
                *[(number, c_int32) for number in (
                    "only_causal", "only_equal_dims", "only_equal_lengths", "only_equal_blocks", "no_empty_sequences",
                    "no_rows_without_keys", "scale", "selection_per", "selection_order", "only_forced_blocks",
                    "reserved")],
                ("initial_blocks", c_int64), ("local_blocks", c_int64), *[(size, Limit) for size in LIMITS])
Kernel = struct("Kernel", ("struct_size", c_uint64), ("abi_version", c_int32), ("device_type", c_int32),
                ("name", c_char_p), ("summary", c_char_p), ("arithmetic", c_char_p), ("operators", c_uint32),
                ("promises", c_uint32), ("workspace_bytes", c_void_p),
                *[(name, pointer) for name, (_, pointer, _) in FUNCTIONS.items()], ("limits", Limits))
Print = CFUNCTYPE(None, c_char_p, c_void_p)
