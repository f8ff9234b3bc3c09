"""fla-org/flash-linear-attention: ops.moba and the operators of ops.nsa, as kernels that attnspec judges.

    ATTNSPEC_PUBLIC=/sources ./attnspec check verify/public/fla_ops.py:nsa_selected

The package is imported without its __init__, which would load all of its operators. NSA's kernels want groups of 16
query heads or more: the adapter adds heads of zeros, which change nothing. Where every query head has a selection of
its own it gets its own copy of the keys, and the stored gradients of the copies are summed in fp32. Rows that see no
key are written by hand. A block that is no power of two is given as several blocks.
"""

import common
import flash_attn_shim
import moba_calls
import torch
from common import pad_features, packed, write

import attnspec

common.need_gpu()
flash_attn_shim.install("2.7")
for package in ("fla", "fla.ops"):
    common.bare_package("fla", package)
parallel, compression = common.load("fla", "fla.ops.nsa.parallel", "fla.ops.nsa.compression")
gates = moba_calls.Gates()
moba_module = common.load_changed("fla", "fla.ops.moba.parallel", {  # which does not return its selection
    "gate_mask = torch.logical_and(gate_mask, gate_idx_mask)":
    "gate_mask = torch.logical_and(gate_mask, gate_idx_mask); "
    "ADAPTER_GATES.add(gate_mask.permute(1, 2, 0), 0, cu_chunks[target_chunks])"})
moba_module.ADAPTER_GATES = gates
VERSION = "flash-linear-attention " + common.version("fla", "flash-linear-attention")
common.one_config(parallel.parallel_nsa_fwd_kernel, parallel.parallel_nsa_bwd_kernel_dq,
                  parallel.parallel_nsa_bwd_kernel_dkv, parallel.parallel_nsa_kernel_topk,
                  compression.parallel_nsa_compression_fwd_kernel, compression.parallel_nsa_compression_bwd_kernel_dq,
                  compression.parallel_nsa_compression_bwd_kernel_dkv)

GROUP = 16  # the least that the kernels take

# ---- MoBA ----


def attend(q, k, v, cu_seqlens, longest, block, top_k, scale):
    flash_attn_shim.scale = scale
    out = moba_module.parallel_moba(q[None], k[None], v[None], cu_seqlens, longest, block, top_k)[0]
    made_by = out.grad_fn
    while not hasattr(made_by, "saved_tensors") or len(made_by.saved_tensors) < 5:
        made_by = made_by.next_functions[0][0]
    return out, made_by.saved_tensors[1]


def moba_backward(**call):
    moba_calls.backward(attend, **call)


@attnspec.kernel("moba", backward=moba_backward, **moba_calls.EFFICIENT, **common.ON_DEVICE,
                 summary="fla.ops.moba over PyTorch's FlashAttention-2; a changed line hands its selection out")
def moba(**call):
    moba_calls.forward(attend, gates, **call)


# ---- NSA's selected attention ----


def heads_padded(x, kv_heads):
    """Query heads in groups of GROUP at least."""
    return common.pad_group(x, kv_heads, max(GROUP, common.power_of_two(x.shape[1] // kv_heads)))


class Selected:
    """The inputs of a call, as the kernels take them: [1, tokens, heads, features]."""

    def __init__(self, q, k, v, selection, block, q_offsets):
        self.heads, self.group = q.shape[1], q.shape[1] // k.shape[1]
        self.copies = self.group if selection.shape[1] != k.shape[1] else 1
        self.kv_heads, self.size = k.shape[1] * self.copies, 64 if max(q.shape[2], v.shape[2]) <= 64 else 128
        self.block = common.kernel_block(int(block), 16, 64)
        self.q = self.queries(q)
        self.k, self.v = (common.repeat_heads(pad_features(packed(x), self.size), self.copies)[None] for x in (k, v))
        blocks, sees = common.packed_selection(selection, q_offsets, q_offsets, int(block), self.block)
        self.slots = common.power_of_two(max(blocks.shape[2], 1))
        self.blocks = torch.nn.functional.pad(blocks, (0, self.slots - blocks.shape[2]), value=-1)[None]
        self.sees = sees.repeat_interleave(self.heads // sees.shape[1], 1)
        self.offsets = common.without_empty(q_offsets).to(common.DEVICE)
        self.tokens = parallel.prepare_token_indices(self.offsets)

    def queries(self, x):
        return heads_padded(pad_features(packed(x), self.size), self.kv_heads)[None]

    def cut(self, x):
        """What a kernel wrote for queries, without the added heads."""
        return common.cut_group(x[0], self.kv_heads, self.heads // self.kv_heads)


def nsa_selected_backward(q, k, v, selection, o, lse, d_o, dq, dk, dv, block, scale, q_offsets, **_):
    if q.shape[0] == 0:
        return
    call = Selected(q, k, v, selection, block, q_offsets)
    lse_g = packed(lse)
    lse_g = heads_padded(torch.where(lse_g == -torch.inf, 0, lse_g), call.kv_heads)[None, ..., 0].contiguous()
    dq_g, dk_g, dv_g = parallel.parallel_nsa_bwd(
        q=call.q, k=call.k, v=call.v, o=call.queries(o), lse=lse_g, do=call.queries(d_o), block_indices=call.blocks,
        block_counts=call.slots, block_size=call.block, scale=scale, cu_seqlens=call.offsets, token_indices=call.tokens)
    write(dq, call.cut(dq_g)[..., : q.shape[2]])
    write(dk, common.sum_group(dk_g[0], call.copies)[..., : k.shape[2]])
    write(dv, common.sum_group(dv_g[0], call.copies)[..., : v.shape[2]])


@attnspec.kernel("selected", backward=nsa_selected_backward, arithmetic="scaled_q+rounded_head_gradients",
                 dtypes=["bf16", "fp16"], only_causal=True, only_equal_lengths=True, dk=128, dv=128, group=16,
                 block=(0, 16), unordered_backward=True, summary="fla.ops.nsa: attention to selected blocks",
                 **common.ON_DEVICE)
def nsa_selected(q, k, v, selection, o, lse, block, scale, q_offsets, **_):
    if q.shape[0] == 0:
        return
    call = Selected(q, k, v, selection, block, q_offsets)
    out, lse_g = parallel.parallel_nsa_fwd(
        q=call.q, k=call.k, v=call.v, block_indices=call.blocks, block_counts=call.slots, block_size=call.block,
        scale=scale, cu_seqlens_q=call.offsets, cu_seqlens_k=call.offsets, token_indices_q=call.tokens)
    write(o, call.cut(out)[..., : v.shape[2]])
    write(lse, call.cut(lse_g[..., None]))
    o[~call.sees] = 0
    lse[~call.sees] = -torch.inf


# ---- NSA's attention to compressed rows ----
# Compression block, its stride and selection block are one size; one initial and two local blocks are forced; the
# number of blocks is a power of two, at most half a block's tokens.


class Compressed:
    """The inputs of a call. The last block of a sequence, which may be short, has a row of its own in fla: of zeros."""

    def __init__(self, q, k, v, q_offsets, row_offsets, compress_block, compress_stride, block, initial_blocks,
                 local_blocks, top_n):
        if not (compress_block == compress_stride == block and initial_blocks == 1 and local_blocks == 2):
            raise ValueError("fla's nsa has compress_block = compress_stride = block, one initial and two local blocks")
        if top_n & (top_n - 1) or block < 2 * top_n:
            raise ValueError("fla's nsa selects a power of two of blocks, at most block / 2")
        self.kv_heads, self.group = k.shape[1], q.shape[1] // k.shape[1]
        self.size, self.block = 64 if max(q.shape[2], v.shape[2]) <= 64 else 128, int(block)
        self.q_offsets, self.row_offsets = q_offsets, row_offsets
        self.q = self.queries(q)
        self.k, self.v = (self.rows(x) for x in (k, v))
        self.offsets = common.without_empty(q_offsets).to(common.DEVICE)

    def queries(self, x):
        return heads_padded(pad_features(packed(x), self.size), self.kv_heads)[None]

    def lengths(self):
        """Rows of every sequence here, and in fla."""
        return self.row_offsets.diff().tolist(), (-(-self.q_offsets.diff() // self.block)).tolist()

    def rows(self, x):
        x = pad_features(packed(x), self.size)
        parts = []
        for begin, here, there in zip(self.row_offsets, *self.lengths()):
            parts.append(torch.nn.functional.pad(x[begin:begin + here], (0, 0, 0, 0, 0, there - here)))
        return torch.cat(parts)[None].contiguous()

    def cut_rows(self, x):
        parts, begin = [], 0
        for here, there in zip(*self.lengths()):
            parts.append(x[0, begin:begin + here])
            begin += there
        return torch.cat(parts)

    def cut(self, x):
        return common.cut_group(x[0], self.kv_heads, self.group)

    def attend(self, scale):
        return compression.parallel_nsa_compression(q=self.q, k=self.k, v=self.v, TK=self.q.shape[1],
                                                    block_size=self.block, scale=scale, cu_seqlens=self.offsets)


def nsa_compressed_backward(q, k, v, o, lse, d_o, dq, dk, dv, scale, q_offsets, row_offsets, compress_block,
                            compress_stride, block, initial_blocks, local_blocks, top_n, **_):
    if q.shape[0] == 0:
        return common.zero(dq, dk, dv)
    call = Compressed(q, k, v, q_offsets, row_offsets, compress_block, compress_stride, block, initial_blocks,
                      local_blocks, top_n)
    tensors = [x.requires_grad_() for x in (call.q, call.k, call.v)]
    out, _ = call.attend(scale)
    dq_g, dk_g, dv_g = torch.autograd.grad(out, tensors, call.queries(d_o))
    write(dq, call.cut(dq_g)[..., : q.shape[2]])
    write(dk, call.cut_rows(dk_g)[..., : k.shape[2]])
    write(dv, call.cut_rows(dv_g)[..., : v.shape[2]])


@attnspec.kernel("nsa_compressed", backward=nsa_compressed_backward, arithmetic="scaled_q", dtypes=["bf16", "fp16"],
                 only_equal_lengths=True, dk=128, dv=128, group={1, 2, 4, 8, 16}, block={16, 32, 64},
                 only_equal_blocks=True, forced_blocks=(1, 2), top_k={4, 8},
                 summary="fla.ops.nsa: attention to compressed rows, and top-n",
                 **common.ON_DEVICE)
def nsa_compressed(q, k, v, selection, o, lse, scale, q_offsets, row_offsets, compress_block, compress_stride, block,
                   initial_blocks, local_blocks, top_n, **_):
    if q.shape[0] == 0:
        return
    call = Compressed(q, k, v, q_offsets, row_offsets, compress_block, compress_stride, block, initial_blocks,
                      local_blocks, top_n)
    out, lse_g = call.attend(scale)
    write(o, call.cut(out)[..., : v.shape[2]])
    write(lse, call.cut(lse_g[..., None]))
    for begin, end in zip(q_offsets[:-1], q_offsets[1:]):  # fla has lse = 0 where no row is visible
        lse[begin:min(end, begin + block - 1)] = -torch.inf
    # Heads of zeros would change the importance of blocks: here every head is there several times, which scales it.
    if GROUP % call.group:
        raise ValueError("the adapter of fla's top-n takes groups that divide 16")
    copies = GROUP // call.group
    q_copies, lse_copies = (x.repeat_interleave(copies, 2).contiguous() for x in (
        call.cut(call.q)[None], call.cut(lse_g[..., None])[None]))
    blocks = parallel.parallel_nsa_topk(q=q_copies, k=call.k, TK=q.shape[0], lse=lse_copies[..., 0].contiguous(),
                                        block_counts=int(top_n), block_size=call.block, scale=scale,
                                        cu_seqlens=call.offsets)
    common.write_selection(selection, blocks[0])
