"""Calls of `selected` for implementations that take blocks [kv heads, tokens, slots], packed to the front, and the
offsets of sequences that are as long in queries as in keys. Used by xunhaolai_nsa.py, fsa_nsa.py and mdy666_nsa.py."""

import common
import numpy as np
import torch
from common import from_gpu, pad_features, to_gpu, up_to


class Selected:
    """The inputs of a call, as such kernels take them."""

    def __init__(self, q, k, v, selection, block, q_offsets, blocks, sizes=None, filler=-1):
        """blocks: the kernel's least and greatest block, the latter a number or a function of the features; sizes: its features, if it does not take every multiple of 8;
        filler: what it has in unused slots, -1 or a function of the longest sequence and the block."""
        self.group = q.shape[1] // k.shape[1]
        self.copies = self.group if selection.shape[1] != k.shape[1] else 1
        self.offsets_on_host = common.without_empty(q_offsets)
        self.offsets = common.offsets_on_gpu(self.offsets_on_host)
        self.longest = common.longest(self.offsets_on_host)
        widths = [max(16, up_to(max(q.shape[2], v.shape[2]), 8))] * 2
        if sizes is not None:
            widths = [next(size for size in sizes if size >= x.shape[2]) for x in (q, v)]
        self.widths = widths
        least, greatest = blocks
        self.block = common.kernel_block(int(block), least, greatest(widths[0]) if callable(greatest) else greatest)
        k_g, v_g = (common.repeat_heads(pad_features(to_gpu(x), width), self.copies) for x, width in zip((k, v), widths))
        self.tensors = [x.contiguous().requires_grad_() for x in (pad_features(to_gpu(q), widths[0]), k_g, v_g)]
        filler = filler if isinstance(filler, int) else filler(self.longest, self.block)
        packed, sees = common.packed_selection(selection, q_offsets, q_offsets, int(block), self.block, filler)
        self.blocks = torch.from_numpy(np.ascontiguousarray(packed.transpose(1, 0, 2))).to(common.DEVICE)
        self.sees = np.repeat(sees, q.shape[1] // sees.shape[1], axis=1)


def forward(attend, blocks, q, k, v, selection, o, lse, block, scale, q_offsets, sizes=None, filler=-1, **_):
    """attend: a function of a Selected and the scale, which returns o, and lse [heads, tokens]."""
    if q.shape[0] == 0:
        return
    call = Selected(q, k, v, selection, block, q_offsets, blocks, sizes, filler)
    out, lse_g = attend(call, scale)
    from_gpu(o, out[..., : v.shape[2]])
    from_gpu(lse, lse_g.t()[..., None])
    o[~call.sees] = 0
    lse[~call.sees] = -np.inf


def backward(attend, blocks, q, k, v, selection, d_o, dq, dk, dv, block, scale, q_offsets, sizes=None, filler=-1,
             blind_dq=True, **_):
    """The forward again, and autograd; the stored parts of copied keys are summed in fp32. Rows that see no key have a
    gradient of 0: the kernel's own, or written by hand if blind_dq is false."""
    if q.shape[0] == 0:
        return
    call = Selected(q, k, v, selection, block, q_offsets, blocks, sizes, filler)
    out, _ = attend(call, scale)
    d_out = pad_features(to_gpu(d_o), out.shape[2]).contiguous()
    dq_g, dk_g, dv_g = torch.autograd.grad(out, call.tensors, d_out)
    from_gpu(dq, dq_g[..., : q.shape[2]])
    if not blind_dq:
        dq[~call.sees] = 0
    from_gpu(dk, common.sum_group(dk_g, call.copies)[..., : k.shape[2]])
    from_gpu(dv, common.sum_group(dv_g, call.copies)[..., : v.shape[2]])
