"""MoonshotAI/MoBA, the efficient and the naive implementation, as kernels that attnspec judges.

    ATTNSPEC_PUBLIC=/sources ./attnspec check verify/public/moonshot_moba.py:efficient

Both have one head of keys for each head of queries, a fixed scale and as many features of keys as of values. The
adapter repeats keys, sets the scale and pads features with zeros. Empty sequences are left out. Neither returns its
selection: a changed line hands the mask of selected blocks out. lse is the one that the efficient implementation saves
for its backward; the naive one has none, so that the adapter computes lse in fp32 from the scores of the selection that
it made. The naive one masks with -infinity before it multiplies by its positive scale: the adapter multiplies first,
which is the same for a positive scale and lets the others be judged.
"""

import common
import flash_attn_shim
import moba_calls
import torch

import attnspec

common.need_gpu()
flash_attn_shim.install("2.6")
common.bare_package("moba", "moba")
gates = moba_calls.Gates()
efficient_module = common.load_changed("moba", "moba.moba_efficient", {
    "gate_mask = torch.logical_and(gate_mask, gate_idx_mask)":
    "gate_mask = torch.logical_and(gate_mask, gate_idx_mask); "
    "ADAPTER_GATES.add(gate_mask.permute(1, 2, 0), 0, cu_chunk[filtered_chunk_indices])"})
efficient_module.ADAPTER_GATES = gates
VERSION = "MoonshotAI/MoBA " + common.version("moba")


def attend(q, k, v, cu_seqlens, longest, block, top_k, scale):
    flash_attn_shim.scale = scale
    out = efficient_module.moba_attn_varlen(q, k, v, cu_seqlens, longest, block, top_k)
    return out, out.grad_fn.saved_tensors[1]


def efficient_backward(**call):
    moba_calls.backward(attend, **call)


@attnspec.kernel("moba", backward=efficient_backward, **moba_calls.EFFICIENT, **common.ON_DEVICE,
                 summary="MoBA's efficient implementation over PyTorch's FlashAttention-2; a changed line hands its "
                         "selection out")
def efficient(**call):
    moba_calls.forward(attend, gates, **call)


# The naive one fixes its scale too, in a line that the adapter replaces in memory. Its scores are multiplied by the
# scale before the mask of 0 and -infinity is added, not after: for a positive scale that is the same to the bit.
_scale, _lse = [None], [None]
naive_module = common.load_changed("moba", "moba.moba_naive", {
    "softmax_scale = q.shape[-1] ** (-0.5)": "softmax_scale = ADAPTER_SCALE[0]",
    "qk *= softmax_scale": "pass  # done before the mask",
    "qk += gate": "qk *= softmax_scale; qk += gate",
    "gate[need_attend] = 0": "ADAPTER_GATES.add(need_attend, batch_start, batch_start + moba_chunk_size * "
                             "torch.arange(num_block)); gate[need_attend] = 0",
    "p = qk.softmax(dim=-1)": "ADAPTER_LSE[0].append(qk.detach().logsumexp(-1)); p = qk.softmax(dim=-1)",
})
naive_module.ADAPTER_SCALE, naive_module.ADAPTER_LSE, naive_module.ADAPTER_GATES = _scale, _lse, gates


def attend_naive(q, k, v, cu_seqlens, longest, block, top_k, scale):
    _scale[0], _lse[0] = scale, []
    out = naive_module.moba_attn_varlen_naive(q, k, v, cu_seqlens, longest, block, top_k)
    return out, torch.cat([lse.t() for lse in _lse[0]])


def naive_backward(**call):
    moba_calls.backward(attend_naive, **call)


@attnspec.kernel("moba", backward=naive_backward,
                 arithmetic="fp32_weights+rounded_means+softmax_delta+rounded_head_gradients", gates=["top_k"],
                 only_causal=True, only_equal_lengths=True, equal_bits="none", **common.ON_DEVICE,
                 summary="MoBA's naive implementation; changed lines set its scale and hand out lse and selection")
def naive(**call):
    moba_calls.forward(attend_naive, gates, **call)
