"""mit-han-lab/flash-moba as kernels that attnspec judges: its top-k, its attention to given blocks, and both.

    ATTNSPEC_PUBLIC=/sources ./attnspec check verify/public/mit_flash_moba.py:moba

Needs the installed package, or its folder with what `build_flash_moba.py` builds there: bf16, causal, 64 and 128
features. Features are padded with zeros to one of these. The scale of its attention has to be above 0: -q, or 0, stands
for others. lse is +infinity in rows without keys, and converted.
"""

import common
import torch
from common import pad_features, packed, write

import attnspec

common.need_gpu()
if common.source_folder("flash_moba") is not None:
    import build_flash_moba
    build_flash_moba.load(common.source_folder("flash_moba"))
(flash_moba,) = common.load("flash_moba", "flash_moba.flash_moba_interface")
VERSION = "flash-moba " + common.version("flash_moba", "flash-moba")
LIMITS = {"dtypes": ["bf16"], "only_causal": True, "dk": 128, "dv": 128, "block": (0, 64), "top_k": 64,
          **common.ON_DEVICE}


def inputs(*tensors):
    size = 64 if max(x.shape[2] for x in tensors) <= 64 else 128
    return [pad_features(packed(x), size) for x in tensors]


def offsets_of(q_offsets, k_offsets):
    return ([common.offsets_on_gpu(x) for x in (q_offsets, k_offsets)],
            [common.longest(x) for x in (q_offsets, k_offsets)])


# ---- Its lists: for each sequence, head and block the queries that attend to the block ----


def lists_of(selection, heads, block, q_offsets, k_offsets):
    """A selection as the kernel's lists; blocks that the causal row does not see are left out."""
    blocks, _ = common.packed_selection(selection.cpu(), q_offsets, k_offsets, int(block), int(block))
    blocks = blocks.repeat_interleave(heads // blocks.shape[1], 1)
    columns = max(1, -(-common.longest(k_offsets) // int(block)))
    token, head, slot = (blocks >= 0).nonzero(as_tuple=True)
    sequence = torch.searchsorted(q_offsets, token, right=True) - 1
    place = (sequence * heads + head) * columns + blocks[token, head, slot]
    shape = len(q_offsets) - 1, heads, columns
    counts = place.bincount(minlength=shape[0] * heads * columns)
    begins = counts.cumsum(0) - counts
    rows = (token - q_offsets[sequence])[place.argsort(stable=True)]
    return [x.to(common.DEVICE) for x in (begins.view(shape), counts.view(shape).int(), rows.int())]


def write_lists(selection, lists, q_offsets):
    """The kernel's lists as a selection."""
    begins, counts, rows = (x.cpu() for x in lists)
    _, heads, columns = counts.shape
    begins, counts = begins.flatten(), counts.flatten().long()
    place = torch.arange(len(counts)).repeat_interleave(counts)
    within = torch.arange(len(place)) - (counts.cumsum(0) - counts).repeat_interleave(counts)
    row = rows[begins.repeat_interleave(counts) + within].long()
    sequence, head, column = place // (heads * columns), place // columns % heads, place % columns
    if ((row < 0) | (row >= q_offsets.diff()[sequence])).any():
        raise ValueError("the kernel's lists have a query that its sequence has not")
    key = (q_offsets[sequence] + row) * heads + head
    order = (key * columns + column).argsort()
    key, column = key[order], column[order]
    slot = torch.arange(len(key)) - torch.searchsorted(key, key)
    if len(slot) and slot.max() >= selection.shape[2]:
        raise ValueError(f"the kernel selected {slot.max() + 1} blocks for a row of {selection.shape[2]} slots")
    blocks = torch.full(selection.shape, -1, dtype=torch.int32)
    blocks[key // heads, key % heads, slot] = column.int()
    selection.copy_(blocks)


# ---- Calls ----


def top_k_lists(q, k, q_offsets, k_offsets, block, top_k):
    offsets, lengths = offsets_of(q_offsets, k_offsets)
    return flash_moba.flash_topk_varlen_func(q, k, *offsets, *lengths, int(top_k), int(block), causal=True)


def attend(tensors, lists, q_offsets, k_offsets, block, top_k, scale):
    """o and lse [heads, tokens]."""
    offsets, lengths = offsets_of(q_offsets, k_offsets)
    q, positive = common.positive_scale(tensors[0], scale)
    rows_at_once = flash_moba.decide_lg_block_m(int(top_k), int(block), lengths[1], True)
    out, lse, _ = flash_moba.flash_moba_attn_varlen_func(
        q, *tensors[1:], *offsets, *lengths, *lists, lg_block_m=rows_at_once, lg_block_n=int(block),
        softmax_scale=positive, causal=True, return_attn_probs=True)
    return out, common.lse_from_kernel(lse)


def write_outputs(out, lse_g, v, o, lse):
    write(o, out[..., : v.shape[2]])
    write(lse, lse_g.t()[..., None])


def attention_backward(q, k, v, selection, d_o, dq, dk, dv, block, scale, q_offsets, k_offsets, top_k=None, **_):
    """The forward again on the selection, and autograd."""
    if q.shape[0] == 0 or k.shape[0] == 0:
        return common.zero(dq, dk, dv)
    tensors = [x.requires_grad_() for x in inputs(q, k, v)]
    lists = lists_of(selection, q.shape[1], block, q_offsets, k_offsets)
    out, _ = attend(tensors, lists, q_offsets, k_offsets, block, top_k or selection.shape[2], scale)
    gradients = torch.autograd.grad(out, tensors, pad_features(packed(d_o), out.shape[2]), materialize_grads=True)
    for target, gradient in zip((dq, dk, dv), gradients):
        write(target, gradient[..., : target.shape[2]])


@attnspec.kernel("moba_select", arithmetic="rounded_means", gates=["top_k"], only_equal_lengths=True,
                 summary="FlashMoBA: mean pooling and fused top-k", **LIMITS)
def moba_select(q, k, selection, block, top_k, q_offsets, k_offsets, **_):
    if q.shape[0] == 0:
        return
    write_lists(selection, top_k_lists(*inputs(q, k), q_offsets, k_offsets, block, top_k), q_offsets)


@attnspec.kernel("moba", backward=attention_backward, arithmetic="rounded_means+rounded_head_gradients",
                 gates=["top_k"], only_equal_lengths=True, unordered_backward=True, summary="FlashMoBA", **LIMITS)
def moba(q, k, v, selection, o, lse, block, top_k, scale, q_offsets, k_offsets, **_):
    if q.shape[0] == 0:
        return
    tensors = inputs(q, k, v)
    lists = top_k_lists(*tensors[:2], q_offsets, k_offsets, block, top_k)
    write_lists(selection, lists, q_offsets)
    write_outputs(*attend(tensors, lists, q_offsets, k_offsets, block, top_k, scale), v, o, lse)


@attnspec.kernel("selected", backward=attention_backward, arithmetic="rounded_head_gradients", unordered_backward=True,
                 summary="FlashMoBA: attention to given blocks", **LIMITS)
def selected(q, k, v, selection, o, lse, block, scale, q_offsets, k_offsets, **_):
    if q.shape[0] == 0:
        return
    if k.shape[0] == 0:
        return common.no_keys(o, lse)
    lists = lists_of(selection, q.shape[1], block, q_offsets, k_offsets)
    write_outputs(*attend(inputs(q, k, v), lists, q_offsets, k_offsets, block, selection.shape[2], scale), v, o, lse)
