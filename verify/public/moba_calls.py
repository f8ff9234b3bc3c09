"""Calls of `moba` for implementations with the interface of MoonshotAI's: q, k, v [tokens, heads, features] with equal
heads and features, offsets, the longest length, block, top_k. Used by moonshot_moba.py and fla_ops.py."""

import common
import torch
from common import pad_features, packed, up_to, write

# What the efficient implementations round: own chunk and other chunks apart, all parts stored in the input format and
# added in it by autograd; the means of keys too. index_add makes no sum in a fixed order.
EFFICIENT = {
    "arithmetic": "rounded_means+rounded_partials+rounded_head_gradients+rounded_block_gradients+own_block_apart+"
                  "rounded_gradient_sums",
    "dtypes": ["bf16", "fp16"], "gates": ["top_k"], "only_causal": True,
    "only_equal_lengths": True, "dk": 256, "dv": 256, "equal_bits": "none",
}


def inputs(q, k, v):
    """Tensors with as many heads of keys as of queries, and features of one size, a multiple of 8."""
    group, size = q.shape[1] // k.shape[1], up_to(max(q.shape[2], v.shape[2]), 8)
    q_g, k_g, v_g = (pad_features(packed(x), size) for x in (q, k, v))
    return [x.requires_grad_() for x in (q_g, common.repeat_heads(k_g, group), common.repeat_heads(v_g, group))]


def call(attend, tensors, q_offsets, block, top_k, scale):
    offsets = common.without_empty(q_offsets)
    return attend(*tensors, common.offsets_on_gpu(offsets), common.longest(offsets), int(block), int(top_k), scale)


class Gates:
    """What an implementation selected in a call: the adapter changes a line of its source in memory to learn it."""

    def __init__(self):
        self.parts = []

    def add(self, mask, first_token, block_starts):
        """Which heads' queries attend to which blocks, bool [heads, queries, blocks]; the first query, and the first
        tokens of the blocks, as tokens of the call."""
        self.parts.append((mask.detach().clone(), int(first_token), block_starts))

    def write(self, selection, q_offsets, block):
        """The queries' own blocks and what was added, as a selection. Blocks of the future are masked: left out."""
        offsets, token = q_offsets.to(selection.device), torch.arange(len(selection), device=selection.device)
        begin = offsets[torch.searchsorted(offsets, token, right=True) - 1]
        own = (token - begin) // block
        width = int(own.max()) + 1
        selected = torch.zeros(*selection.shape[:2], width, dtype=torch.bool, device=selection.device)
        selected[token, :, own] = True
        for mask, first, starts in self.parts:
            head, query, column = mask.nonzero(as_tuple=True)
            query, start = query + first, starts.to(mask.device)[column]
            visible = (start <= query) & (start >= begin[query])
            selected[query[visible], head[visible], ((start - begin[query]) // block)[visible]] = True
        blocks = torch.where(selected, torch.arange(width, device=selection.device), width).sort(2).values
        common.write_selection(selection, torch.where(blocks < width, blocks, -1))


def forward(attend, gates, q, k, v, selection, o, lse, block, top_k, scale, q_offsets, **_):
    if q.shape[0] == 0:
        return
    gates.parts.clear()
    out, lse_g = call(attend, inputs(q, k, v), q_offsets, block, top_k, scale)
    write(o, out[..., : v.shape[2]])
    write(lse, lse_g[..., None])
    gates.write(selection, q_offsets, int(block))


def backward(attend, q, k, v, d_o, dq, dk, dv, block, top_k, scale, q_offsets, **_):
    """The forward again, which selects the same, and autograd. The parts of a group's heads are summed in fp32."""
    if q.shape[0] == 0:
        return
    group, tensors = q.shape[1] // k.shape[1], inputs(q, k, v)
    out, _ = call(attend, tensors, q_offsets, block, top_k, scale)
    dq_g, dk_g, dv_g = torch.autograd.grad(out, tensors, pad_features(packed(d_o), out.shape[2]))
    write(dq, dq_g[..., : q.shape[2]])
    write(dk, common.sum_group(dk_g, group)[..., : k.shape[2]])
    write(dv, common.sum_group(dv_g, group)[..., : v.shape[2]])
