"""Judges a Python function as an attention kernel.

    import attnspec

    @attnspec.kernel("moba", arithmetic="fp32_weights", dtypes=["bf16", "fp32"])
    def attend(q, k, v, selection, o, lse, block, top_k, scale, causal, q_offsets, k_offsets, **_):
        ...                             # writes into selection, o and lse

    attnspec.check(attend)              # prints findings and a table; returns the exit code
    attnspec.assert_correct(attend)     # raises AssertionError; for tests

The function is called with keywords: the fields of the operator's struct in kernel_abi.h. describe("moba") explains
each of them. Tensors are [tokens, heads, dim], with strides, over the judge's memory; the function writes into those of
its outputs. They are NumPy arrays, in which uint16 holds bf16: to_float32 reads it and store writes it. With
tensors="torch" they are PyTorch tensors, and bf16 is torch.bfloat16. A tensor without tokens has the shape (0, heads,
dim); an absent tensor is None. gate, phi_kind and activation are names, "top_k". Structs within a struct (the branches
of nsa, the parameters of phi) are namespaces: compressed.k, phi_k.position. A backward gets the forward's fields and
its own. An exception that the function raises is a finding: call-failed.

check and assert_correct call the function in this process, which a crash ends. The program holds a decorated function
in a process of its own: python -m attnspec check mine.py:attend.
"""

from .abi import DTYPES, EQUAL_BITS, LIMITS, OPERATORS
from .arrays import store, to_float32
from .declaration import Declaration, kernel
from .fields import describe, keywords
from .judging import assert_correct, check
from .loading import find_function

__all__ = ["DTYPES", "EQUAL_BITS", "LIMITS", "OPERATORS", "Declaration", "assert_correct", "check", "describe",
           "find_function", "kernel", "keywords", "store", "to_float32"]
