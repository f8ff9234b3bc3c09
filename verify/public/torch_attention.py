"""PyTorch's own attention kernels, as kernels that attnspec judges: FlashAttention-2, cuDNN, memory-efficient,
FlexAttention.

    ./attnspec check verify/public/torch_attention.py:flash2_dense

They are called through torch.ops.aten, one call for all sequences or one for each. Features are padded with zeros to
what a kernel takes, which changes no number. FlashAttention-2 and cuDNN take a scale above 0 alone: cuDNN masks with
-infinity and multiplies by the scale afterwards. Other scales are given as a query of -q or 0, which is exact.
"""

import common
import torch
from common import pad_features, packed, sequences, up_to, write

import attnspec

common.need_gpu()
VERSION = f"PyTorch {torch.__version__}"
aten = torch.ops.aten

# ---- FlashAttention-2: one call for all sequences ----
# Where no sequence has more than one query it takes the heads of a group as rows, and refuses a call with a sequence
# without queries. A longest length of 2, which is an upper bound too, avoids that.


def flash2_padded(q, k, v):
    """The inputs with the number of features that the kernel takes: one for all, a multiple of 8."""
    size = up_to(max(q.shape[2], v.shape[2]), 8)
    return [pad_features(packed(x), size) for x in (q, k, v)]


def flash2_window(causal, window_size):
    """Keys to the left and to the right of a query; -1: all."""
    if window_size is not None:
        return {"window_size_left": int(window_size) - 1, "window_size_right": 0}
    return {"window_size_left": -1, "window_size_right": 0 if causal else -1}


def flash2_lengths(q_offsets, k_offsets):
    """The longest lengths, of queries and of keys."""
    queries = q_offsets.diff().tolist()
    return [2 if max(queries) == 1 and min(queries) == 0 else max(queries), common.longest(k_offsets)]


def flash2(q, k, v, o, lse, scale, causal, q_offsets, k_offsets, window_size=None, **_):
    if q.shape[0] == 0:
        return
    q_g, k_g, v_g = flash2_padded(q, k, v)
    q_g, positive = common.positive_scale(q_g, scale)
    offsets = [common.offsets_on_gpu(x) for x in (q_offsets, k_offsets)]
    lengths = flash2_lengths(q_offsets, k_offsets)
    out, lse_g, *_ = aten._flash_attention_forward(q_g, k_g, v_g, *offsets, *lengths, 0.0, causal, False,
                                                   scale=positive, **flash2_window(causal, window_size))
    write(o, out[..., : v.shape[2]])
    write(lse, common.lse_from_kernel(flash2_lse(lse_g, q_offsets)))


def flash2_lse(lse, offsets):
    """The kernel's lse [heads, tokens], or [sequences, heads, longest] in older versions, as [tokens, heads, 1]."""
    if lse.dim() == 3:
        lse = torch.cat([lse[s, :, : offsets[s + 1] - offsets[s]] for s in range(len(offsets) - 1)], 1)
    return lse.t()[..., None]


def flash2_backward(q, k, v, o, lse, d_o, dq, dk, dv, scale, causal, q_offsets, k_offsets, window_size=None, **_):
    if q.shape[0] == 0 or k.shape[0] == 0:
        return common.zero(dq, dk, dv)
    q_g, k_g, v_g = flash2_padded(q, k, v)
    q_g, positive = common.positive_scale(q_g, scale)
    d_o_g, o_g = (pad_features(packed(x), q_g.shape[2]) for x in (d_o, o))
    lse_g = common.lse_to_kernel(packed(lse)[..., 0].t().contiguous())
    offsets = [common.offsets_on_gpu(x) for x in (q_offsets, k_offsets)]
    lengths = flash2_lengths(q_offsets, k_offsets)
    no_dropout = torch.zeros(2, dtype=torch.uint64, device=common.DEVICE), torch.zeros((), device=common.DEVICE)
    gradients = aten._flash_attention_backward(d_o_g, q_g, k_g, v_g, o_g, lse_g, *offsets, *lengths, 0.0, causal,
                                               *no_dropout, scale=positive, **flash2_window(causal, window_size))
    write(dq, common.positive_scale_gradient(gradients[0], scale)[..., : q.shape[2]])
    write(dk, gradients[1][..., : k.shape[2]])
    write(dv, gradients[2][..., : v.shape[2]])


FLASH2 = {"backward": flash2_backward, "arithmetic": "rounded_head_gradients", "dtypes": ["bf16", "fp16"], "dk": 256,
          "dv": 256, "unordered_backward": True, "summary": "PyTorch's copy of FlashAttention-2, variable lengths",
          **common.ON_DEVICE}


@attnspec.kernel("dense", **FLASH2)
def flash2_dense(**call):
    flash2(**call)


def flash2_windowed_backward(window_size, **call):
    flash2_backward(window_size=window_size, **call)


@attnspec.kernel("window", **{**FLASH2, "backward": flash2_windowed_backward})
def flash2_windowed(window_size, **call):
    flash2(window_size=window_size, **call)


# ---- cuDNN: a call for each sequence ----
# Its causal mask is aligned to the first key. Queries of zeros in front align it to the last one.


def heads_first(x):
    """[tokens, heads, dim] as [1, heads, tokens, dim]."""
    return x.transpose(0, 1)[None]


def tokens_first(x):
    """The inverse."""
    return x[0].transpose(0, 1)


def cudnn_sequence(sequence, causal):
    """The rows of a sequence that cuDNN is given, and how many of zeros before them. A call with one query and one key
    is refused: it gets a second query."""
    rows = common.rows_with_keys(sequence, causal)
    num_rows = rows.stop - rows.start
    extra = sequence.num_keys - num_rows if causal else 0
    if sequence.num_keys == 1 and num_rows == 1:
        return rows, 1, False
    return rows, extra, causal


def cudnn_inputs(rows, keys, extra, *tensors):
    """Queries, keys and values, [1, heads, tokens, dim], with features that are multiples of 8."""
    inputs = []
    for tensor, is_query in tensors:
        x = pad_features(packed(tensor[rows if is_query else keys]), up_to(tensor.shape[2], 8))
        inputs.append(heads_first(common.pad_front(x, extra) if is_query else x))
    return inputs


def cudnn(q, k, v, o, lse, scale, causal, q_offsets, k_offsets, **_):
    common.no_keys(o, lse)
    for sequence in sequences(q_offsets, k_offsets):
        rows, extra, mask = cudnn_sequence(sequence, causal)
        if rows.start == rows.stop:
            continue
        q_g, *inputs = cudnn_inputs(rows, sequence.keys, extra, (q, True), (k, False), (v, False))
        q_g, positive = common.positive_scale(q_g, scale)
        out, lse_g, *_ = aten._scaled_dot_product_cudnn_attention(q_g, *inputs, None, True, 0.0, mask, False,
                                                                  scale=positive)
        write(o[rows], tokens_first(out)[extra:, :, : v.shape[2]])
        write(lse[rows], lse_g.reshape(q.shape[1], -1).t()[extra:, :, None])


def cudnn_backward(q, k, v, d_o, dq, dk, dv, scale, causal, q_offsets, k_offsets, **_):
    """The forward again, which makes the same o and lse, and autograd: cuDNN's backward takes what its forward gave."""
    common.zero(dq, dk, dv)
    for sequence in sequences(q_offsets, k_offsets):
        rows, extra, mask = cudnn_sequence(sequence, causal)
        if rows.start == rows.stop:
            continue
        *inputs, d_out = cudnn_inputs(rows, sequence.keys, extra, (q, True), (k, False), (v, False), (d_o, True))
        inputs[0], positive = common.positive_scale(inputs[0], scale)
        inputs = [x.requires_grad_() for x in inputs]
        out, *_ = aten._scaled_dot_product_cudnn_attention(*inputs, None, True, 0.0, mask, False, scale=positive)
        dq_g, dk_g, dv_g = (tokens_first(x) for x in torch.autograd.grad(out, inputs, d_out))
        dq_g = common.positive_scale_gradient(dq_g, scale)
        write(dq[rows], dq_g[extra:, :, : q.shape[2]])
        write(dk[sequence.keys], dk_g[..., : k.shape[2]])
        write(dv[sequence.keys], dv_g[..., : v.shape[2]])


@attnspec.kernel("dense", backward=cudnn_backward, arithmetic="rounded_head_gradients+scaled_ds",
                 dtypes=["bf16", "fp16"], dk=128, dv=128, unordered_backward=True, summary="cuDNN through PyTorch",
                 **common.ON_DEVICE)
def cudnn_dense(**call):
    cudnn(**call)


# ---- Memory-efficient attention: a call for each sequence ----
# It has no groups: keys are repeated, and their gradients summed in fp32. Rows that see no key are NaN by PyTorch's own
# documentation (torch.nn.attention.bias.causal_lower_right), so that they are left out.

NO_MASK, LAST_TO_LAST = 0, 2


def efficient_inputs(sequence, rows, group, q, k, v, *others):
    return ([pad_features(packed(x[rows]), up_to(x.shape[2], 8))[None] for x in (q, *others)] +
            [common.repeat_heads(pad_features(packed(x[sequence.keys]), up_to(x.shape[2], 8)), group)[None]
             for x in (k, v)])


def efficient(q, k, v, o, lse, scale, causal, q_offsets, k_offsets, **_):
    common.no_keys(o, lse)
    for sequence in sequences(q_offsets, k_offsets):
        rows = common.rows_with_keys(sequence, causal)
        num_rows = rows.stop - rows.start
        if num_rows == 0:
            continue
        inputs = efficient_inputs(sequence, rows, q.shape[1] // k.shape[1], q, k, v)
        out, lse_g, *_ = aten._efficient_attention_forward(*inputs, None, None, None, num_rows, sequence.num_keys, 0.0,
                                                           LAST_TO_LAST if causal else NO_MASK, True, scale=scale)
        write(o[rows], out[0, :, :, : v.shape[2]])
        write(lse[rows], lse_g[0, :, :num_rows].t()[..., None])


def efficient_backward(q, k, v, o, lse, d_o, dq, dk, dv, scale, causal, q_offsets, k_offsets, **_):
    common.zero(dq, dk, dv)
    group = q.shape[1] // k.shape[1]
    for sequence in sequences(q_offsets, k_offsets):
        rows = common.rows_with_keys(sequence, causal)
        num_rows = rows.stop - rows.start
        if num_rows == 0:
            continue
        q_g, o_g, d_o_g, k_g, v_g = efficient_inputs(sequence, rows, group, q, k, v, o, d_o)
        lse_g = torch.full((1, q.shape[1], up_to(num_rows, 32)), torch.inf, device=common.DEVICE)
        lse_g[0, :, :num_rows] = packed(lse[rows])[..., 0].t()
        seed = torch.zeros((), dtype=torch.int64, device=common.DEVICE)
        gradients = aten._efficient_attention_backward(d_o_g, q_g, k_g, v_g, None, o_g, None, None, num_rows,
                                                       sequence.num_keys, lse_g, 0.0, seed, seed,
                                                       LAST_TO_LAST if causal else NO_MASK, False, scale=scale)
        write(dq[rows], gradients[0][0, :, :, : q.shape[2]])
        write(dk[sequence.keys], common.sum_group(gradients[1][0], group)[..., : k.shape[2]])
        write(dv[sequence.keys], common.sum_group(gradients[2][0], group)[..., : v.shape[2]])


@attnspec.kernel("dense", backward=efficient_backward,
                 arithmetic="rounded_head_gradients+scaled_ds+rounded_p_in_ds+tf32x3", unordered_backward=True,
                 summary="PyTorch's memory-efficient attention; keys repeated for groups", **common.ON_DEVICE)
def efficient_dense(**call):
    efficient(**call)


# ---- FlexAttention ----
# torch.compile costs about a minute for each class of shapes. All calls are therefore of one class for each format: a
# key head and its group, padded to GROUP heads; FEATURES features; tokens padded to multiples of TILE. The mask is a
# table that mask_mod reads, and scale a tensor that score_mod reads, so that neither is compiled in. With scale in
# score_mod it is scale times dS that is rounded. On the CPU, for the tests, FlexAttention is not compiled.

GROUP, FEATURES, TILE = 4, 128, 128
_compiled = []


def flex_kernel():
    from torch.nn.attention.flex_attention import flex_attention
    if common.DEVICE == "cpu":
        return flex_attention
    if not _compiled:
        torch._dynamo.config.recompile_limit = 64
        _compiled.append(torch.compile(flex_attention, dynamic=True))
    return _compiled[0]


def padded(x, tokens, heads):
    """[tokens, heads, dim] with zeros, as [1, heads, tokens, dim]."""
    x = torch.nn.functional.pad(x, (0, FEATURES - x.shape[2], 0, heads - x.shape[1], 0, tokens - x.shape[0]))
    return heads_first(x).contiguous()


def flex_masks(sequence, causal, window_size, selection, block, group, kv_heads):
    """Which keys every query of each key head's group sees: for each key head [GROUP, queries, keys], padded."""
    position = torch.arange(sequence.num_keys - sequence.num_queries, sequence.num_keys, device=common.DEVICE)[:, None]
    key = torch.arange(sequence.num_keys, device=common.DEVICE)
    sees = torch.ones(sequence.num_queries, sequence.num_keys, dtype=torch.bool, device=common.DEVICE)
    if causal:
        sees = key <= position
    if window_size is not None:
        sees = sees & (key > position - window_size)
    padding = (0, up_to(sequence.num_keys, TILE) - sequence.num_keys, 0,
               up_to(sequence.num_queries, TILE) - sequence.num_queries)
    for head in range(kv_heads):
        seen = sees.expand(group, -1, -1)
        if selection is not None:
            by_head = selection[sequence.queries]
            size = by_head.shape[1] // kv_heads  # 1 or group
            own = by_head[:, head * size:(head + 1) * size]
            blocks = common.selection_mask(own, -(-sequence.num_keys // block)).transpose(0, 1)
            seen = seen & blocks[:, :, key // block]
        seen = torch.nn.functional.pad(seen, padding)
        yield torch.cat([seen, seen.new_zeros(GROUP - group, *seen.shape[1:])]).contiguous()


def flex_call(q, k, v, mask, scale):
    """o and lse, [1, GROUP, queries, FEATURES] and [1, GROUP, queries]."""
    from torch.nn.attention.flex_attention import create_block_mask
    scales = torch.full((GROUP,), scale, device=common.DEVICE)

    def mask_mod(b, h, i, j):
        return mask[h, i, j]

    def score_mod(score, b, h, i, j):
        return score * scales[h]

    block_mask = create_block_mask(mask_mod, 1, GROUP, q.shape[2], k.shape[2], device=common.DEVICE)
    return flex_kernel()(q, k, v, score_mod=score_mod, block_mask=block_mask, scale=1.0, enable_gqa=True,
                         return_lse=True)


def flex_groups(q, k, v, q_offsets, k_offsets, causal, window_size, selection, block):
    """For each sequence and key head: the sequence, its query heads, its key head, padded inputs and mask."""
    group, kv_heads = q.shape[1] // k.shape[1], k.shape[1]
    for sequence in sequences(q_offsets, k_offsets):
        if sequence.num_queries == 0 or sequence.num_keys == 0:
            continue
        tokens = up_to(sequence.num_queries, TILE), up_to(sequence.num_keys, TILE)
        q_s, k_s, v_s = packed(q[sequence.queries]), packed(k[sequence.keys]), packed(v[sequence.keys])
        for head, mask in enumerate(flex_masks(sequence, causal, window_size, selection, block, group, kv_heads)):
            heads = slice(head * group, (head + 1) * group)
            yield (sequence, heads, slice(head, head + 1), padded(q_s[:, heads], tokens[0], GROUP),
                   padded(k_s[:, head:head + 1], tokens[1], 1), padded(v_s[:, head:head + 1], tokens[1], 1), mask)


def flex(q, k, v, o, lse, scale, causal, q_offsets, k_offsets, window_size=None, selection=None, block=1, **_):
    common.no_keys(o, lse)
    for sequence, heads, _, q_g, k_g, v_g, mask in flex_groups(q, k, v, q_offsets, k_offsets, causal, window_size,
                                                              selection, block):
        group = heads.stop - heads.start
        if common.DEVICE != "cpu":  # where it has no gradients; elsewhere the code is that of the backward
            q_g, k_g, v_g = (x.requires_grad_() for x in (q_g, k_g, v_g))
        out, lse_g = flex_call(q_g, k_g, v_g, mask, scale)
        write(o[sequence.queries, heads], tokens_first(out)[: sequence.num_queries, :group, : v.shape[2]])
        write(lse[sequence.queries, heads], lse_g[0, :group, : sequence.num_queries].t()[..., None])


def flex_backward(q, k, v, o, lse, d_o, dq, dk, dv, scale, causal, q_offsets, k_offsets, window_size=None,
                  selection=None, block=1, **_):
    """The forward again, which makes the same o and lse, and autograd."""
    common.zero(dq, dk, dv)
    for sequence, heads, kv_head, q_g, k_g, v_g, mask in flex_groups(q, k, v, q_offsets, k_offsets, causal,
                                                                    window_size, selection, block):
        group = heads.stop - heads.start
        inputs = [x.requires_grad_() for x in (q_g, k_g, v_g)]
        out, _ = flex_call(*inputs, mask, scale)
        d_out = padded(packed(d_o[sequence.queries])[:, heads], q_g.shape[2], GROUP)
        dq_g, dk_g, dv_g = (tokens_first(x) for x in torch.autograd.grad(out, inputs, d_out))
        write(dq[sequence.queries, heads], dq_g[: sequence.num_queries, :group, : q.shape[2]])
        write(dk[sequence.keys, kv_head], dk_g[: sequence.num_keys, :, : k.shape[2]])
        write(dv[sequence.keys, kv_head], dv_g[: sequence.num_keys, :, : v.shape[2]])


FLEX = {"backward": flex_backward, "arithmetic": "scaled_ds", "dk": FEATURES, "dv": FEATURES, "group": GROUP,
        "summary": "FlexAttention, compiled once for each format; its mask is a table", **common.ON_DEVICE}


@attnspec.kernel("dense", **FLEX)
def flex_dense(**call):
    flex(**call)


def flex_windowed_backward(window_size, **call):
    flex_backward(window_size=window_size, **call)


@attnspec.kernel("window", **{**FLEX, "backward": flex_windowed_backward})
def flex_windowed(window_size, **call):
    flex(window_size=window_size, **call)


def flex_selected_backward(selection, block, **call):
    flex_backward(selection=selection, block=block, **call)


@attnspec.kernel("selected", **{**FLEX, "backward": flex_selected_backward})
def flex_selected(selection, block, **call):
    flex(selection=selection, block=block, **call)
