"""XunhaoLai/native-sparse-attention-triton as kernels that attnspec judges: compression, attention to compressed rows
with top-n, attention to selected blocks.

    ATTNSPEC_PUBLIC=/sources ./attnspec check verify/public/xunhaolai_nsa.py:selected

Features are padded with zeros to a power of two. lse is to base 2 inside and converted. Selections are given packed to
the front, a block of other sizes as several blocks. Where every query head has a selection of its own it gets its own
copy of the keys. Rows that see no key are written by hand. Linear compression has weights for each head: where the
heads share them, each head of a sequence is given as a sequence of one head.
"""

import common
import selected_calls
import torch
from common import pad_features, packed, up_to, write

import attnspec

common.need_gpu()
for package in ("native_sparse_attention", "native_sparse_attention.ops", "native_sparse_attention.ops.triton"):
    common.bare_package("xunhaolai", package)
topk_module, compressed_module, linear_module, pool_module = common.load(
    "xunhaolai", *(f"native_sparse_attention.ops.triton.{name}" for name in (
        "topk_sparse_attention", "compressed_attention", "linear_compress", "weighted_pool")))
VERSION = "XunhaoLai " + common.version("xunhaolai", "native-sparse-attention-triton")
for module in (topk_module, compressed_module):  # sizes, and strides of what is no row of features
    common.few_variants(module, "(NUM_|num_|max_|init_|local_)\\w+|TOPK|topk|kernel_size|kernel_stride|block_size|"
                                "block_stride|pad_len|o_len|n_len|stride_[ld]h|stride_b?s[hq]|"
                                "stride_(t|tq|ctq|c|x|y|p)[bhn]")
# Least and greatest selection block. The package allows 256; with more than 64 features its forward then wants 268 KiB
# of shared memory (block 256, 128 features), more than an H200's 227. Such blocks are given as two of 128.
BLOCKS = 32, lambda features: 256 if features <= 64 else 128

# ---- Selected ----


def attend_selected(call, scale):
    out = topk_module.topk_sparse_attention(*call.tensors, call.blocks, call.block, call.offsets, scale)
    return out, common.natural(out.grad_fn.saved_tensors[4])


def selected_backward(**call):
    selected_calls.backward(attend_selected, BLOCKS, **call)


@attnspec.kernel("selected", backward=selected_backward, arithmetic="rounded_head_gradients+scaled_ds",
                 dtypes=["bf16", "fp16"], only_causal=True, only_equal_lengths=True, dk=128, dv=128, block=(0, 32),
                 unordered_backward=True, summary="XunhaoLai: topk_sparse_attention", **common.ON_DEVICE)
def selected(**call):
    selected_calls.forward(attend_selected, BLOCKS, **call)


# ---- Attention to compressed rows ----


def compressed_inputs(q, k, v):
    size = common.power_of_two(max(q.shape[2], v.shape[2]), at_least=16)
    return [pad_features(packed(x), size).requires_grad_() for x in (q, k, v)]


def compressed_offsets(q_offsets, row_offsets):
    lengths = common.longest(q_offsets), common.longest(row_offsets)
    return [common.offsets_on_gpu(x) for x in (q_offsets, row_offsets)], lengths


def compressed_backward(q, k, v, d_o, dq, dk, dv, scale, compress_block, compress_stride, q_offsets, row_offsets, **_):
    if q.shape[0] == 0 or k.shape[0] == 0:
        return common.zero(dq, dk, dv)
    tensors = compressed_inputs(q, k, v)
    offsets, lengths = compressed_offsets(q_offsets, row_offsets)
    out, _ = compressed_module.CompressedAttention.apply(*tensors, int(compress_block), int(compress_stride), *offsets,
                                                         *lengths, scale)
    gradients = torch.autograd.grad(out, tensors, pad_features(packed(d_o), out.shape[2]))
    for target, gradient in zip((dq, dk, dv), gradients):
        write(target, gradient[..., : target.shape[2]])


@attnspec.kernel("nsa_compressed", backward=compressed_backward, arithmetic="rounded_head_gradients+scaled_ds",
                 dtypes=["bf16", "fp16"], only_equal_lengths=True, dk=128, dv=128, compress_block=(0, 2),
                 unordered_backward=True, summary="XunhaoLai: compressed_attention and its top-n", **common.ON_DEVICE)
def compressed(q, k, v, selection, o, lse, scale, compress_block, compress_stride, block, top_n, initial_blocks,
               local_blocks, q_offsets, row_offsets, **_):
    if q.shape[0] == 0:
        return
    tensors = compressed_inputs(q, k, v)
    offsets, lengths = compressed_offsets(q_offsets, row_offsets)
    sizes = int(compress_block), int(compress_stride)
    out, lse_g = compressed_module.CompressedAttention.apply(*tensors, *sizes, *offsets, *lengths, scale)
    write(o, out[..., : v.shape[2]])
    write(lse, common.natural(lse_g).t()[..., None])
    with torch.no_grad():
        _, blocks = compressed_module.compressed_attention(
            *tensors, *sizes, int(block), int(top_n), *offsets, *lengths, scale, int(initial_blocks), int(local_blocks))
    common.write_selection(selection, blocks.transpose(0, 1))


# ---- Compression ----


def compress_call(tokens, phi, phi_kind, k_offsets, compress_block, compress_stride):
    """Rows, and the tensors that they are made of, as attnspec has them: tokens, and of linear phi w and position."""
    f = tokens.shape[2]
    offsets = common.offsets_on_gpu(k_offsets)
    x = packed(tokens).requires_grad_()
    size = up_to(f, 8)
    sizes = offsets, int(compress_block), int(compress_stride)
    if phi_kind == "mean":
        rows, _ = pool_module.avgpool_compress(pad_features(x, size), None, *sizes)
        return rows[..., :f], [x]
    w, position = packed(phi.w).requires_grad_(), packed(phi.position).requires_grad_()
    w_g = w.unflatten(0, (-1, f)).permute(2, 0, 1, 3)  # [sets, block, feature, feature]
    w_g = torch.nn.functional.pad(w_g, (0, size - f, 0, size - f)).flatten(1, 2)
    position_g = torch.nn.functional.pad(position.transpose(0, 1), (0, size - f))
    padded, heads = pad_features(x, size), tokens.shape[1]
    if len(w_g) < heads:  # shared: heads one after the other, as sequences
        padded = padded.transpose(0, 1).flatten(0, 1)[:, None]
        ends = torch.arange(heads)[:, None] * k_offsets[-1] + k_offsets[1:]
        sizes = common.offsets_on_gpu(torch.nn.functional.pad(ends.flatten(), (1, 0))), *sizes[1:]
    rows, _ = linear_module.linear_compress(padded.contiguous(), w_g.contiguous(), *sizes, position_g.contiguous())
    if len(w_g) < heads:
        rows = rows.unflatten(0, (heads, -1))[:, :, 0].transpose(0, 1)
    return rows[..., :f], [x, w, position]


def compress_backward(tokens, phi, phi_kind, d_rows, d_tokens, d_phi, k_offsets, compress_block, compress_stride, **_):
    if d_rows.shape[0] == 0:
        common.zero(d_tokens)
        if phi_kind == "linear":
            common.zero(d_phi.w, d_phi.position)
        return
    rows, tensors = compress_call(tokens, phi, phi_kind, k_offsets, compress_block, compress_stride)
    gradients = torch.autograd.grad(rows, tensors, packed(d_rows))
    targets = [d_tokens] if phi_kind == "mean" else [d_tokens, d_phi.w, d_phi.position]
    for target, gradient in zip(targets, gradients):
        write(target, gradient)


@attnspec.kernel("nsa_compress", backward=compress_backward, arithmetic="position_bias",
                 dtypes=["bf16", "fp16"], phis=["mean", "linear"], dk=128, compress_block=(32, 16),
                 unordered_backward=True, summary="XunhaoLai: avgpool_compress and linear_compress",
                 **common.ON_DEVICE)
def compress(tokens, phi, phi_kind, rows, k_offsets, compress_block, compress_stride, **_):
    if rows.shape[0] == 0:
        return
    result, _ = compress_call(tokens, phi, phi_kind, k_offsets, compress_block, compress_stride)
    write(rows, result)
