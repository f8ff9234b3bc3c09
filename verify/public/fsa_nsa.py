"""Relaxed-System-Lab/Flash-Sparse-Attention: attention to selected blocks, as a kernel that attnspec judges.

    ATTNSPEC_PUBLIC=/sources ./attnspec check verify/public/fsa_nsa.py:selected

As published a stray comma (`lse_ptrs = (lse_ptr + ...,)`) keeps its reduce_kernel from compiling on Triton 3.6:
`selected` is the published code, and `selected_fixed` the same without that comma, changed in memory. The rest is
bridged as for XunhaoLai, of which it is a descendant: see selected_calls.py. Not bridged: it raises an error for a
sequence of one token (FSA_topk_sparse_attention.py:1047 copies a tensor onto a part of itself).
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
for module in (published, fixed):  # sizes, and strides of what is no row of features
    common.few_variants(module, "(NUM_|N_|num_|max_|min_|cur_|compute_|start_)\\w+|N|K|TOPK|total_len|head_tile|"
                                "[tr]s_[hbn]|stride_(lse|m_ij|m_i_tiles|m_ij_tiles|tim|im|acc|acc_o|l_ij)_[fro]?[hbn]|"
                                "stride_(l|d|t|tq|ctq)[hn]")
VERSION = "FSA " + common.version("fsa", "flash-sparse-attention")
BLOCKS = 32, lambda features: 256 if features <= 64 else 128  # as for XunhaoLai
DECLARED = {
    "arithmetic": "rounded_partials+rounded_head_gradients+rounded_block_gradients+bf16_partials+scaled_ds",
    "dtypes": ["bf16", "fp16"], "only_causal": True, "only_equal_lengths": True, "dk": 128, "dv": 128, "block": (0, 32),
    "unordered_backward": True, **common.ON_DEVICE,
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


@attnspec.kernel("selected", backward=selected_fixed_backward,
                 summary="FSA without the comma that keeps it from compiling", **DECLARED)
def selected_fixed(**call):
    selected_calls.forward(attend_fixed, BLOCKS, **call)
