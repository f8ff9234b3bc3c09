"""mdy666/Scalable-Flash-Native-Sparse-Attention: attention to compressed rows with top-n, and to selected blocks, as
kernels that attnspec judges.

    ATTNSPEC_PUBLIC=/sources ./attnspec check verify/public/mdy666_nsa.py:selected

Features are padded with zeros to 64, 128 or 192. A row of a selection is packed to the front, with a block of the
future in its unused slots, as the package's own top-n has it; the mask hides those. The published code runs on Triton
3.6, unchanged. lse is to base 2 inside and converted. Rows that see no key are written by hand, forward and dq: the
package's own top-n always selects the row's own block, so that it has no such rows. Importances are stored in fp16
unless fp32=True is asked for: `compressed` asks, `compressed_fp16` is the package's default.
"""

import sys
import types

import common
import selected_calls
import torch
from common import pad_features, packed, write

import attnspec

common.need_gpu()
try:
    import pkg_resources  # noqa: F401
except ImportError:  # setuptools has it no longer: the one function that is needed
    from packaging.version import parse
    sys.modules["pkg_resources"] = types.SimpleNamespace(parse_version=parse)
for package in ("flash_nsa", "flash_nsa.ops"):
    common.bare_package("mdy666", package)
utils, select_attn, compress_attn, topk = common.load("mdy666", "flash_nsa.utils", *(
    f"flash_nsa.ops.{name}" for name in ("select_attn", "compress_attn", "topk")))
for module in (select_attn, compress_attn, topk):  # sizes, and strides of what is no row of features
    common.few_variants(module, "T|N|G|KH|kernel_size|stride|block_size|top_n|max_slc_blocks|"
                                "(lse|delta|ind|cnt|find|bind)_stride_[hn]")
VERSION = "mdy666 " + common.version("mdy666", "flash-nsa")
BLOCKS = 16, 64  # least and greatest selection block
SIZES = 64, 128, 192


def beyond_the_last(longest, block):
    """What the package's top-n has in unused slots: the number of blocks of the longest sequence."""
    return -(-longest // block)


def tell_sizes(offsets, **sizes):
    """Sets the sizes of a call, which the package keeps in a class."""
    utils.NSAHelper.set_hyperparameters(**{name: int(size) for name, size in sizes.items()})
    utils.NSAHelper._init_xyk_cu_seqlens(offsets)


# ---- Selected ----


def attend(call, scale):
    tell_sizes(call.offsets, block_size=call.block, top_n=call.blocks.shape[2])
    out = select_attn.select_attn(*call.tensors, call.blocks, scale)
    return out, common.natural(out.grad_fn.saved_tensors[4]).t()


def selected_backward(**call):
    selected_calls.backward(attend, BLOCKS, sizes=SIZES, filler=beyond_the_last, blind_dq=False, **call)


@attnspec.kernel("selected", backward=selected_backward, arithmetic="rounded_head_gradients", dtypes=["bf16", "fp16"],
                 only_causal=True, only_equal_lengths=True, dk=192, dv=128, block=(0, 16), unordered_backward=True,
                 summary="mdy666: select_attn", **common.ON_DEVICE)
def selected(**call):
    selected_calls.forward(attend, BLOCKS, sizes=SIZES, filler=beyond_the_last, **call)


# ---- Attention to compressed rows ----


class Compressed:
    """The inputs of a call."""

    def __init__(self, q, k, v, q_offsets, compress_block, compress_stride, block, top_n, initial_blocks, local_blocks):
        widths = [next(size for size in SIZES if size >= x.shape[2]) for x in (q, v)]
        self.tensors = [pad_features(packed(x), width).requires_grad_() for x, width in (
            (q, widths[0]), (k, widths[0]), (v, widths[1]))]
        self.widths = widths
        tell_sizes(common.offsets_on_gpu(common.without_empty(q_offsets)), kernel_size=compress_block,
                   stride=compress_stride, block_size=block, top_n=top_n, num_init_blocks=initial_blocks,
                   num_local_blocks=local_blocks)


def compressed_backward(q, k, v, d_o, dq, dk, dv, scale, compress_block, compress_stride, block, top_n, initial_blocks,
                        local_blocks, q_offsets, **_):
    if q.shape[0] == 0 or k.shape[0] == 0:
        return common.zero(dq, dk, dv)
    call = Compressed(q, k, v, q_offsets, compress_block, compress_stride, block, top_n, initial_blocks, local_blocks)
    out, _ = compress_attn.compress_attn(*call.tensors, scale)
    gradients = torch.autograd.grad(out, call.tensors, pad_features(packed(d_o), call.widths[1]).contiguous())
    for target, gradient in zip((dq, dk, dv), gradients):
        write(target, gradient[..., : target.shape[2]])


def attend_compressed(fp32, q, k, v, selection, o, lse, scale, compress_block, compress_stride, block, top_n,
                      initial_blocks, local_blocks, q_offsets, **_):
    if q.shape[0] == 0:
        return
    call = Compressed(q, k, v, q_offsets, compress_block, compress_stride, block, top_n, initial_blocks, local_blocks)
    with torch.no_grad():
        out, lse_g = compress_attn.compress_attn(*call.tensors, scale)
        blocks, _ = topk.slc_topk_indices(call.tensors[0], call.tensors[1], lse_g, sm_scale=scale, fp32=fp32,
                                          maybe_efficient_version=not fp32)
    write(o, out[..., : v.shape[2]])
    write(lse, common.natural(lse_g).t()[..., None])
    for begin, end in zip(q_offsets[:-1], q_offsets[1:]):  # rows that see no compressed row
        blind = slice(begin, min(end, begin + compress_block - 1))
        common.no_keys(o[blind], lse[blind])
    unused = beyond_the_last(common.longest(q_offsets), int(block))
    common.write_selection(selection, torch.where(blocks == unused, -1, blocks).transpose(0, 1))


COMPRESSED = {"backward": compressed_backward, "arithmetic": "", "dtypes": ["bf16", "fp16"], "only_equal_lengths": True,
              "dk": 192, "dv": 128, "unordered_backward": True, **common.ON_DEVICE}


@attnspec.kernel("nsa_compressed", summary="mdy666: compress_attn, and top-n with importances in fp32", **COMPRESSED)
def compressed(**call):
    attend_compressed(True, **call)


@attnspec.kernel("nsa_compressed", summary="mdy666: compress_attn, and its default top-n with importances in fp16",
                 **COMPRESSED)
def compressed_fp16(**call):
    attend_compressed(False, **call)
