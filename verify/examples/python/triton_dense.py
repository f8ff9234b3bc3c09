"""A complete kernel in Triton: the forward of dense attention, a tile of queries in a program.

./attnspec check verify/examples/python/triton_dense.py:dense
"""

import os

import torch

HAS_GPU = torch.cuda.is_available()
if not HAS_GPU:
    os.environ["TRITON_INTERPRET"] = "1"  # read when triton is imported

import triton
import triton.language as tl

import attnspec

DEVICE = "cuda" if HAS_GPU else "cpu"
TILE = 32  # queries, and keys


# The interpreter multiplies the bits of bf16.
@attnspec.kernel("dense", dtypes=[] if HAS_GPU else ["fp16", "fp32"], dk=128, dv=128, tensors="torch", device=DEVICE,
                 summary="online softmax over tiles of keys")
def dense(q, k, v, o, lse, scale, causal, q_offsets, k_offsets, **_):
    q_packed, k_packed, v_packed = (x.contiguous() for x in (q, k, v))
    o_packed, lse_packed = (torch.empty(x.shape, dtype=x.dtype, device=DEVICE) for x in (o, lse))
    offsets = [x.to(DEVICE) for x in (q_offsets, k_offsets)]
    max_queries = int(q_offsets.diff().max()) if len(q_offsets) > 1 else 0
    if max_queries > 0:
        grid = (triton.cdiv(max_queries, TILE), len(q_offsets) - 1, q.shape[1])
        widths = [max(16, triton.next_power_of_2(x.shape[2])) for x in (q, v)]
        attend[grid](q_packed, k_packed, v_packed, o_packed, lse_packed, *offsets, scale, q.shape[1], k.shape[1],
                     q.shape[2], v.shape[2], causal, TILE, *widths)
    o.copy_(o_packed)
    lse.copy_(lse_packed)


@triton.jit
def attend(q, k, v, o, lse, q_offsets, k_offsets, scale, heads, kv_heads, dk, dv, causal: tl.constexpr,
           TILE: tl.constexpr, DK: tl.constexpr, DV: tl.constexpr):
    # One tile of queries of a sequence and head. Tensors are packed [tokens, heads, dim].
    sequence, h = tl.program_id(1), tl.program_id(2)
    q_begin, k_begin = tl.load(q_offsets + sequence), tl.load(k_offsets + sequence)
    num_queries, num_keys = tl.load(q_offsets + sequence + 1) - q_begin, tl.load(k_offsets + sequence + 1) - k_begin
    i = tl.program_id(0) * TILE + tl.arange(0, TILE)
    q_rows, is_query = (q_begin + i) * heads + h, i < num_queries
    position = i + num_keys - num_queries  # the last query stands at the last key
    d, e = tl.arange(0, DK), tl.arange(0, DV)
    q_tile = tl.load(q + q_rows[:, None] * dk + d[None, :], mask=is_query[:, None] & (d < dk)[None, :], other=0.0)
    top = tl.full([TILE], float("-inf"), tl.float32)
    total = tl.zeros([TILE], tl.float32)
    sums = tl.zeros([TILE, DV], tl.float32)
    for start in range(0, num_keys, TILE):
        j = start + tl.arange(0, TILE)
        k_rows, is_key = (k_begin + j) * kv_heads + h // (heads // kv_heads), j < num_keys
        k_tile = tl.load(k + k_rows[:, None] * dk + d[None, :], mask=is_key[:, None] & (d < dk)[None, :], other=0.0)
        v_tile = tl.load(v + k_rows[:, None] * dv + e[None, :], mask=is_key[:, None] & (e < dv)[None, :], other=0.0)
        scores = scale * tl.dot(q_tile, tl.trans(k_tile), input_precision="ieee")
        sees = is_key[None, :] & is_query[:, None]
        if causal:
            sees &= j[None, :] <= position[:, None]
        scores = tl.where(sees, scores, float("-inf"))
        new_top = tl.maximum(top, tl.max(scores, 1))
        shift = tl.where(new_top == float("-inf"), 0.0, new_top)  # of a query that has seen no key
        weights = tl.exp(scores - shift[:, None])
        kept = tl.exp(top - shift)
        total = total * kept + tl.sum(weights, 1)
        sums = sums * kept[:, None] + tl.dot(weights.to(v_tile.dtype), v_tile, input_precision="ieee")
        top = new_top
    result = tl.where(total[:, None] > 0, sums / tl.where(total > 0, total, 1.0)[:, None], 0.0)
    tl.store(o + q_rows[:, None] * dv + e[None, :], result.to(o.dtype.element_ty),
             mask=is_query[:, None] & (e < dv)[None, :])
    log_sum = tl.where(total > 0, top + tl.log(tl.where(total > 0, total, 1.0)), float("-inf"))
    tl.store(lse + q_rows, log_sum, mask=is_query)
