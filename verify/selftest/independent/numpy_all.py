"""All eleven operators in NumPy, with their backwards: a second opinion that shares no code with the reference.

Read this if you doubt the reference or the judge, or if you want to see each operator as a few plain lines. It was
written from docs/specification.md and verify/abi/kernel_abi.h alone (and from the two pages on declaring a kernel and
the module attnspec): its author had not seen the reference, the judge, the model kernel, or any other kernel of this
project. So where this file and the judge agree, the specification said the same to two readers.

    ./attnspec check verify/selftest/independent/numpy_all.py:nsa

Everything is computed in float64, one query row after the other, and rounded once when it is stored. Hence the weights
stay unrounded, which is the option fp32_weights. Whatever the specification hands on as a stored tensor is read back
as it was stored. No matrix product of BLAS is used: each row is computed from arrays that hold exactly what the row
reads, in ascending order, so that its bits depend on nothing else. Letters in brackets, [M4], name the equations.
"""

import functools
import math
from types import SimpleNamespace

import attnspec
import numpy as np

PHI_PARTS = ("position", "w", "w1", "b1", "w2", "b2")
BRANCHES = ("compressed", "selected", "window")


# ---- Tensors ----


def read(array):
    """The values as float64. An array of float64 is one of our own, and stays as it is."""
    return array if array.dtype == np.float64 else attnspec.to_float32(array).astype(np.float64)


def as_stored(values, like):
    """The values as they would read after they were stored in the format of another array."""
    stored = np.empty(values.shape, like.dtype)
    attnspec.store(stored, values)
    return read(stored)


# ---- Layout ----


def heads_of(q, k):
    """Pairs of a query head and its key head [L2]."""
    group = q.shape[1] // k.shape[1]
    return [(h, h // group) for h in range(q.shape[1])]


def num_queries(call, s):
    return int(call.q_offsets[s + 1] - call.q_offsets[s])


def num_keys(call, s):
    return int(call.k_offsets[s + 1] - call.k_offsets[s])


def position(call, s, i):
    """Where query i of sequence s stands; below 0 if there are more queries than keys [L1]."""
    return i + num_keys(call, s) - num_queries(call, s)


def reach(call, s, i):
    """How many keys the query may see at most: those up to its position, or all of them."""
    return max(0, position(call, s, i) + 1) if call.causal else num_keys(call, s)


def rows_of(call):
    """Sequence, query of the sequence, and its row in the packed tensors."""
    return [(s, i, int(call.q_offsets[s]) + i) for s in range(call.num_sequences) for i in range(num_queries(call, s))]


# ---- What a query sees: functions of sequence, query and head that give keys of the sequence, in ascending order ----


def see_all(call):
    """[D1]"""
    return lambda s, i, h: np.arange(reach(call, s, i))


def see_window(call):
    """[W1]"""

    def visible(s, i, h):
        t = position(call, s, i)
        return np.arange(max(0, t - call.window_size + 1), t + 1)

    return visible


def see_blocks(call, selection, num_heads):
    """[M6]. The selection has a row for each query head, or for each key head."""

    def visible(s, i, h):
        blocks = selection[int(call.q_offsets[s]) + i, h * selection.shape[1] // num_heads]
        keys = np.arange(reach(call, s, i))
        return keys[np.isin(keys // call.block, blocks[blocks >= 0])]

    return visible


def num_visible_compressed(call, t):
    """[C2]"""
    return max(0, (t + 1 - call.compress_block) // call.compress_stride + 1)


def see_compressed(call):
    """[C9]. The keys are compressed rows."""
    return lambda s, i, h: np.arange(num_visible_compressed(call, position(call, s, i)))


# ---- Attention ----


def scores_of(query, keys, scale):
    return scale * (keys * query).sum(axis=1)


def attend(call, q, k, v, key_offsets, visible, o, lse):
    """[M7]: writes o and lse."""
    heads = heads_of(q, k)
    q, k, v = read(q), read(k), read(v)
    outputs, sums = np.zeros(o.shape), np.full(lse.shape, -np.inf)
    for s, i, row in rows_of(call):
        for h, g in heads:
            seen = visible(s, i, h) + int(key_offsets[s])
            if len(seen) == 0:
                continue
            scores = scores_of(q[row, h], k[seen, g], call.scale)
            largest = scores.max()
            weights = np.exp(scores - largest)
            total = weights.sum()
            outputs[row, h] = (weights[:, None] * v[seen, g]).sum(axis=0) / total
            sums[row, h, 0] = largest + np.log(total)
    attnspec.store(o, outputs)
    attnspec.store(lse, sums)


def attend_backward(call, q, k, v, o, lse, d_o, key_offsets, visible):
    """[B1] to [B7]: dq, dk and dv in float64, from the stored o and lse."""
    heads = heads_of(q, k)
    q, k, v, o, lse, d_o = read(q), read(k), read(v), read(o), read(lse), read(d_o)
    dq, dk, dv = np.zeros(q.shape), np.zeros(k.shape), np.zeros(v.shape)
    for s, i, row in rows_of(call):
        for h, g in heads:
            seen = visible(s, i, h) + int(key_offsets[s])
            if len(seen) == 0 or lse[row, h, 0] == -np.inf:
                continue
            keys, do = k[seen, g], d_o[row, h]
            weights = np.exp(scores_of(q[row, h], keys, call.scale) - lse[row, h, 0])
            d_weights = (v[seen, g] * do).sum(axis=1)
            delta = (do * o[row, h]).sum()
            d_scores = weights * (d_weights - delta)
            dq[row, h] = call.scale * (d_scores[:, None] * keys).sum(axis=0)
            dk[seen, g] += call.scale * (d_scores[:, None] * q[row, h])
            dv[seen, g] += weights[:, None] * do
    return dq, dk, dv


def store_all(call, gradients):
    for array, values in zip((call.dq, call.dk, call.dv), gradients):
        attnspec.store(array, values)


# ---- Selection ----


def best(scores, count):
    """The indices of the largest scores; among equal ones the lowest index."""
    return np.argsort(-scores, kind="stable")[:count]


def moba_blocks(call, i, s, query, means):
    """The blocks of one query of MoBA [M4, M5]."""
    if not call.causal:
        return best(scores_of(query, means, 1.0), call.top_k)
    t = position(call, s, i)
    if t < 0:
        return np.arange(0)
    own = t // call.block
    if call.gate == "window":
        return np.arange(max(0, own - call.top_k + 1), own + 1)
    if call.gate == "sink":
        return np.union1d([0], np.arange(max(0, own - call.top_k + 2), own + 1))
    return np.append(best(scores_of(query, means[:own], 1.0), call.top_k - 1), own)


def select_moba(call, q, k, selection):
    """[M2] to [M5]: writes the selection."""
    heads = heads_of(q, k)
    q, k = read(q), read(k)
    selection[...] = -1
    means = []  # of each sequence: [blocks, key heads, features]
    for s in range(call.num_sequences):
        keys = k[int(call.k_offsets[s]) : int(call.k_offsets[s + 1])]
        blocks = [keys[at : at + call.block] for at in range(0, len(keys), call.block)]
        means.append(np.array([block.sum(axis=0) / len(block) for block in blocks]).reshape(-1, *k.shape[1:]))
    for s, i, row in rows_of(call):
        for h, g in heads:
            blocks = moba_blocks(call, i, s, q[row, h], np.ascontiguousarray(means[s][:, g]))
            selection[row, h, : len(blocks)] = blocks


def overlaps(call, num_rows, num_blocks):
    """[I2] as [blocks, compressed rows]."""
    row_start = np.arange(num_rows) * call.compress_stride
    block_start = np.arange(num_blocks)[:, None] * call.block
    end = np.minimum(row_start + call.compress_block, block_start + call.block)
    return np.maximum(0, end - np.maximum(row_start, block_start)) / call.compress_stride


def select_nsa(call, q, k, selection):
    """[I1] to [I7]: writes the selection. k holds compressed rows."""
    num_kv_heads = k.shape[1]
    group = q.shape[1] // num_kv_heads
    q, k = read(q), read(k)
    selection[...] = -1
    for s, i, row in rows_of(call):
        t = position(call, s, i)
        if t < 0:
            continue
        own = t // call.block
        first = int(call.row_offsets[s])
        num_rows = num_visible_compressed(call, t)
        weight_of = overlaps(call, num_rows, own + 1)
        every = np.arange(own + 1)
        forced = (every < call.initial_blocks) | (every > own - call.local_blocks)
        others = every[~forced]
        for g in range(num_kv_heads):
            importance = np.zeros(own + 1)
            for h in range(g * group, (g + 1) * group) if num_rows > 0 else ():
                scores = scores_of(q[row, h], k[first : first + num_rows, g], call.scale)
                weights = np.exp(scores - scores.max())
                importance += (weight_of * (weights / weights.sum())).sum(axis=1)
            room = min(call.top_n, own + 1) - np.count_nonzero(forced)
            blocks = np.concatenate((every[forced], others[best(importance[others], room)]))
            selection[row, g, : len(blocks)] = blocks


def select_msa(call, qi, ki, selection):
    """[Y1] to [Y4]: writes the selection. Past blocks are complete, and the score of the own block is not read."""
    num_heads = qi.shape[1]
    qi, ki = read(qi), read(ki)
    selection[...] = -1
    for s, i, row in rows_of(call):
        t = position(call, s, i)
        if t < 0:
            continue
        own = t // call.block
        first = int(call.k_offsets[s])
        keys = np.ascontiguousarray(ki[first : first + own * call.block, 0])
        for h in range(num_heads):
            scores = scores_of(qi[row, h], keys, 1.0)
            worth = scores.reshape(own, call.block).max(axis=1)
            blocks = np.append(best(worth, call.top_k - 1), own)
            selection[row, h, : len(blocks)] = blocks


def indexer_scores(queries, keys, weights):
    """[V1] for each key: the sum over the index heads."""
    scores = np.zeros(len(keys))
    for query, weight in zip(queries, weights):
        scores += weight * np.maximum(0, scores_of(query, keys, 1.0))
    return scores


def select_dsa(call, qi, ki, w, selection):
    """[V1] to [V3]: writes the selection. A block is a token."""
    qi, ki, w = read(qi), read(ki), read(w)
    selection[...] = -1
    for s, i, row in rows_of(call):
        t = position(call, s, i)
        if t < 0:
            continue
        first = int(call.k_offsets[s])
        keys = np.ascontiguousarray(ki[first : first + t + 1, 0])
        tokens = best(indexer_scores(qi[row], keys, w[row, 0]), call.top_k)
        selection[row, 0, : len(tokens)] = tokens


def first_complete_blocks(call):
    """For each sequence the row of kbar where its own rows begin [Q1]."""
    return [sum(num_keys(call, before) // call.block for before in range(s)) for s in range(call.num_sequences)]


def select_qsa(call, qi, kbar, selection):
    """[Q1] to [Q4]: writes the selection."""
    qi, kbar = read(qi), read(kbar)
    weights = np.ones(qi.shape[1])
    firsts = first_complete_blocks(call)
    selection[...] = -1
    for s, i, row in rows_of(call):
        t = position(call, s, i)
        if t < 0:
            continue
        num_complete = (t + 1) // call.block
        keys = np.ascontiguousarray(kbar[firsts[s] : firsts[s] + num_complete, 0])
        blocks = best(indexer_scores(qi[row], keys, weights), call.top_k)  # [Q2]
        if (t + 1) % call.block != 0:  # the tail is beside the top_k blocks
            blocks = np.append(blocks, num_complete)
        selection[row, 0, : len(blocks)] = blocks


# ---- Compression ----


def activate(kind, x):
    """[C3]. erfc keeps the digits of the tail that 1 + erf would lose."""
    if kind == "relu":
        return np.maximum(0, x)
    if kind == "silu":
        return x / (1 + np.exp(-x))
    return x * normal_cdf(x)


def activation_slope(kind, x):
    """[C4]"""
    if kind == "relu":
        return (x > 0).astype(np.float64)
    if kind == "silu":
        sigmoid = 1 / (1 + np.exp(-x))
        return sigmoid * (1 + x * (1 - sigmoid))
    return normal_cdf(x) + x * np.exp(-x * x / 2) / math.sqrt(2 * math.pi)


def normal_cdf(x):
    return np.array([math.erfc(-value / math.sqrt(2)) / 2 for value in x])


def parameters(phi):
    """The parameters of phi as float64, or None where it has none."""
    return {part: None if getattr(phi, part) is None else read(getattr(phi, part)) for part in PHI_PARTS}


def of_set(parameters, g):
    """The parameters that key head g uses: its own, or those that all heads share. They are views."""
    return SimpleNamespace(**{part: None if value is None else value[:, g if value.shape[1] > 1 else 0]
                              for part, value in parameters.items()})


def blocks_of(call, num_heads):
    """Every compression block [C1]: its key head, its row in the packed rows, and its packed tokens."""
    for s in range(call.num_sequences):
        for g in range(num_heads):
            for i in range(int(call.row_offsets[s + 1] - call.row_offsets[s])):
                start = int(call.k_offsets[s]) + i * call.compress_stride
                yield g, int(call.row_offsets[s]) + i, slice(start, start + call.compress_block)


def compress(call, tokens, phi, rows):
    """[C5] to [C8]: writes the rows."""
    x, phi = read(tokens), parameters(phi)
    values = np.zeros(rows.shape)
    for g, row, at in blocks_of(call, tokens.shape[1]):
        own = of_set(phi, g)
        block = np.ascontiguousarray(x[at, g])
        if call.phi_kind == "mean":
            values[row, g] = block.sum(axis=0) / call.compress_block
            continue
        given = (block + own.position).reshape(-1, 1)
        if call.phi_kind == "linear":
            values[row, g] = (given * own.w).sum(axis=0)
        else:
            hidden = own.b1[0] + (given * own.w1).sum(axis=0)
            values[row, g] = own.b2[0] + (activate(call.activation, hidden)[:, None] * own.w2).sum(axis=0)
    attnspec.store(rows, values)


def compress_backward(call, tokens, phi, d_rows, d_tokens, d_phi):
    """[C12] to [C15]: writes d_tokens and d_phi."""
    x, d_rows, phi = read(tokens), read(d_rows), parameters(phi)
    dx = np.zeros(d_tokens.shape)
    gradients = {part: None if value is None else np.zeros(value.shape) for part, value in phi.items()}
    for g, row, at in blocks_of(call, tokens.shape[1]):
        own, grad = of_set(phi, g), of_set(gradients, g)
        dr = np.ascontiguousarray(d_rows[row, g])
        if call.phi_kind == "mean":
            dx[at, g] += dr / call.compress_block
            continue
        given = (x[at, g] + own.position).reshape(-1, 1)
        if call.phi_kind == "linear":
            grad.w[...] += given * dr
            d_given = (own.w * dr).sum(axis=1)
        else:
            hidden = own.b1[0] + (given * own.w1).sum(axis=0)
            grad.w2[...] += activate(call.activation, hidden)[:, None] * dr
            grad.b2[...] += dr
            d_hidden = (own.w2 * dr).sum(axis=1) * activation_slope(call.activation, hidden)
            grad.w1[...] += given * d_hidden
            grad.b1[...] += d_hidden
            d_given = (own.w1 * d_hidden).sum(axis=1)
        d_given = d_given.reshape(own.position.shape)
        grad.position[...] += d_given
        dx[at, g] += d_given
    attnspec.store(d_tokens, dx)
    for part, values in gradients.items():
        if values is not None:
            attnspec.store(getattr(d_phi, part), values)


# ---- The whole of NSA ----


def branches_of_nsa(call):
    """Each branch: its index among the gates, name, keys, values, offsets of its keys, what a query sees of them."""
    compressed, selected, window = (getattr(call, name) for name in BRANCHES)
    return [
        (0, "compressed", call.k_compressed, call.v_compressed, call.row_offsets, see_compressed(call)),
        (1, "selected", selected.k, selected.v, call.k_offsets, see_blocks(call, call.selection, call.q.shape[1])),
        (2, "window", window.k, window.v, call.k_offsets, see_window(call)),
    ]


def attend_nsa(call):
    """[N3]. Each step reads what the steps before it stored."""
    compress(call, call.compressed.k, call.phi_k, call.k_compressed)
    compress(call, call.compressed.v, call.phi_v, call.v_compressed)
    select_nsa(call, call.q, call.k_compressed, call.selection)
    gates, o = read(call.gates), np.zeros(call.o.shape)
    for b, name, k, v, key_offsets, visible in branches_of_nsa(call):
        branch = getattr(call, name)
        attend(call, call.q, k, v, key_offsets, visible, branch.o, branch.lse)
        o += gates[:, :, b : b + 1] * read(branch.o)
    attnspec.store(call.o, o)


def attend_nsa_backward(call):
    """[N7]. The gradient of a branch's output is rounded before the branch reads it [N4]."""
    gates, d_o = read(call.gates), read(call.d_o)
    dq, d_gates = np.zeros(call.q.shape), np.zeros(call.gates.shape)
    targets = {"compressed": (call.dk_compressed, call.dv_compressed),
               "selected": (call.d_selected.dk, call.d_selected.dv), "window": (call.d_window.dk, call.d_window.dv)}
    for b, name, k, v, key_offsets, visible in branches_of_nsa(call):
        branch = getattr(call, name)
        d_gates[:, :, b] = (d_o * read(branch.o)).sum(axis=2)
        d_branch = as_stored(gates[:, :, b : b + 1] * d_o, call.q)
        part, dk, dv = attend_backward(call, call.q, k, v, branch.o, branch.lse, d_branch, key_offsets, visible)
        dq += part
        attnspec.store(targets[name][0], dk)
        attnspec.store(targets[name][1], dv)
    attnspec.store(call.dq, dq)
    attnspec.store(call.d_gates, d_gates)
    compress_backward(call, call.compressed.k, call.phi_k, call.dk_compressed, call.d_compressed.dk, call.d_phi_k)
    compress_backward(call, call.compressed.v, call.phi_v, call.dv_compressed, call.d_compressed.dv, call.d_phi_v)


# ---- The kernels ----


def quietly(fn):
    """The function with its keywords as one namespace. Overflow and underflow are expected, and print nothing."""

    @functools.wraps(fn)
    def called(**fields):
        with np.errstate(all="ignore"):
            fn(SimpleNamespace(**fields))

    return called


def operator(name, backward=None):
    return lambda fn: attnspec.kernel(name, backward=backward, arithmetic="fp32_weights", equal_bits="batch-invariant",
                                      summary="written from the specification alone; float64, row by row")(quietly(fn))


def backward_of(see, key_offsets="k_offsets"):
    """The backward of an operator that is attention to what see(call) shows."""

    def backward(call):
        store_all(call, attend_backward(call, call.q, call.k, call.v, call.o, call.lse, call.d_o,
                                        getattr(call, key_offsets), see(call)))

    return quietly(backward)


def see_selection(call):
    return see_blocks(call, call.selection, call.q.shape[1])


@operator("dense", backward_of(see_all))
def dense(call):
    attend(call, call.q, call.k, call.v, call.k_offsets, see_all(call), call.o, call.lse)


@operator("selected", backward_of(see_selection))
def selected(call):
    attend(call, call.q, call.k, call.v, call.k_offsets, see_selection(call), call.o, call.lse)


@operator("moba_select")
def moba_select(call):
    select_moba(call, call.q, call.k, call.selection)


@operator("moba", backward_of(see_selection))
def moba(call):
    select_moba(call, call.q, call.k, call.selection)
    attend(call, call.q, call.k, call.v, call.k_offsets, see_selection(call), call.o, call.lse)


@quietly
def nsa_compress_backward(call):
    compress_backward(call, call.tokens, call.phi, call.d_rows, call.d_tokens, call.d_phi)


@operator("nsa_compress", nsa_compress_backward)
def nsa_compress(call):
    compress(call, call.tokens, call.phi, call.rows)


@operator("nsa_compressed", backward_of(see_compressed, "row_offsets"))
def nsa_compressed(call):
    select_nsa(call, call.q, call.k, call.selection)
    attend(call, call.q, call.k, call.v, call.row_offsets, see_compressed(call), call.o, call.lse)


@operator("window", backward_of(see_window))
def window(call):
    attend(call, call.q, call.k, call.v, call.k_offsets, see_window(call), call.o, call.lse)


@operator("nsa", quietly(attend_nsa_backward))
def nsa(call):
    attend_nsa(call)


@operator("msa_select")
def msa_select(call):
    select_msa(call, call.qi, call.ki, call.selection)


@operator("dsa_select")
def dsa_select(call):
    select_dsa(call, call.qi, call.ki, call.w, call.selection)


@operator("qsa_select")
def qsa_select(call):
    select_qsa(call, call.qi, call.kbar, call.selection)
