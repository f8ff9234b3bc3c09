"""Calls of `selected` for implementations that take blocks [kv heads, tokens, slots], packed to the front, and the
offsets of sequences that are as long in queries as in keys. Used by xunhaolai_nsa.py, fsa_nsa.py and mdy666_nsa.py."""

import common
import torch
from common import pad_features, packed, up_to, write


class Selected:
    """The inputs of a call, as such kernels take them."""

    def __init__(self, q, k, v, selection, block, q_offsets, blocks, sizes=None, filler=-1):
        """blocks: the kernel's least and greatest block, the latter a number or a function of the features; sizes: its
        features, if it does not take every multiple of 8; filler: what it has in unused slots, -1 or a function of the
        longest sequence and the block."""
        self.group = q.shape[1] // k.shape[1]
        self.copies = self.group if selection.shape[1] != k.shape[1] else 1
        self.offsets = common.offsets_on_gpu(common.without_empty(q_offsets))
        widths = [max(16, up_to(max(q.shape[2], v.shape[2]), 8))] * 2
        if sizes is not None:
            widths = [next(size for size in sizes if size >= x.shape[2]) for x in (q, v)]
        self.widths = widths
        least, greatest = blocks
        self.block = common.kernel_block(int(block), least, greatest(widths[0]) if callable(greatest) else greatest)
        k_g, v_g = (common.repeat_heads(pad_features(packed(x), width), self.copies)
                    for x, width in zip((k, v), widths))
        self.tensors = [x.contiguous().requires_grad_() for x in (pad_features(packed(q), widths[0]), k_g, v_g)]
        filler = filler if isinstance(filler, int) else filler(common.longest(q_offsets), self.block)
        selected, sees = common.packed_selection(selection, q_offsets, q_offsets, int(block), self.block, filler)
        self.blocks = selected.transpose(0, 1).contiguous()
        self.sees = sees.repeat_interleave(q.shape[1] // sees.shape[1], 1)


def forward(attend, blocks, q, k, v, selection, o, lse, block, scale, q_offsets, sizes=None, filler=-1, **_):
    """attend: a function of a Selected and the scale, which returns o, and lse [heads, tokens]."""
    if q.shape[0] == 0:
        return
    call = Selected(q, k, v, selection, block, q_offsets, blocks, sizes, filler)
    out, lse_g = attend(call, scale)
    write(o, out[..., : v.shape[2]])
    write(lse, lse_g.t()[..., None])
    o[~call.sees] = 0
    lse[~call.sees] = -torch.inf


def backward(attend, blocks, q, k, v, selection, d_o, dq, dk, dv, block, scale, q_offsets, sizes=None, filler=-1,
             blind_dq=True, **_):
    """The forward again, and autograd; the stored parts of copied keys are summed in fp32. Rows that see no key have a
    gradient of 0: the kernel's own, or written by hand if blind_dq is false."""
    if q.shape[0] == 0:
        return
    call = Selected(q, k, v, selection, block, q_offsets, blocks, sizes, filler)
    out, _ = attend(call, scale)
    d_out = pad_features(packed(d_o), out.shape[2]).contiguous()
    dq_g, dk_g, dv_g = torch.autograd.grad(out, call.tensors, d_out)
    write(dq, dq_g[..., : q.shape[2]])
    if not blind_dq:
        dq[~call.sees] = 0
    write(dk, common.sum_group(dk_g, call.copies)[..., : k.shape[2]])
    write(dv, common.sum_group(dv_g, call.copies)[..., : v.shape[2]])
