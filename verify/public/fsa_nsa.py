"""Relaxed-System-Lab/Flash-Sparse-Attention: attention to selected blocks, as a kernel that attnspec judges.

    ATTNSPEC_PUBLIC=/sources ./attnspec check verify/public/fsa_nsa.py:selected

As published a stray comma (`lse_ptrs = (lse_ptr + ...,)`) keeps its reduce_kernel from compiling on Triton 3.6:
`selected` is the published code, and `selected_fixed` the same without that comma, changed in memory. The rest is bridged
as for XunhaoLai, of which it is a descendant: see selected_calls.py.
"""

import common
import selected_calls

import attnspec

common.need_gpu()
for package in ("fsa", "fsa.ops", "nsa_ref", "nsa_ref.ops"):
    common.bare_package("fsa", package)
NAME = "fsa.ops.FSA_topk_sparse_attention"
(published,) = common.load("fsa", NAME)
fixed = common.load_changed("fsa", NAME, {
    "lse_ptrs = (lse_ptr + pid_q_j * stride_lse_n,)": "lse_ptrs = lse_ptr + pid_q_j * stride_lse_n"})
VERSION = "FSA " + common.version("fsa", "flash-sparse-attention")
BLOCKS = 32, 256  # least and greatest selection block
DECLARED = {
    "arithmetic": "rounded_partials+rounded_head_gradients+rounded_block_gradients+bf16_partials+scaled_ds",
    "dtypes": ["bf16", "fp16"], "only_causal": True, "only_equal_lengths": True, "dk": 128, "dv": 128, "block": (0, 32),
    "unordered_backward": True,
}


def attend(module, call, scale):
    out = module.FSA_topk_sparse_attention(*call.tensors, call.blocks, call.block, call.offsets, scale)
    return out, common.natural(out.grad_fn.saved_tensors[4])


def attend_published(call, scale):
    return attend(published, call, scale)


def attend_fixed(call, scale):
    return attend(fixed, call, scale)


def selected_backward(**call):
    selected_calls.backward(attend_published, BLOCKS, **call)


def selected_fixed_backward(**call):
    selected_calls.backward(attend_fixed, BLOCKS, **call)


@attnspec.kernel("selected", backward=selected_backward, summary="FSA as published", **DECLARED)
def selected(**call):
    selected_calls.forward(attend_published, BLOCKS, **call)


@attnspec.kernel("selected", backward=selected_fixed_backward, summary="FSA without the comma that keeps it from compiling",
                 **DECLARED)
def selected_fixed(**call):
    selected_calls.forward(attend_fixed, BLOCKS, **call)
