"""A complete kernel in Python: the forward of MoBA with NumPy, in fp32.

./attnspec check verify/examples/python/numpy_moba.py:moba
"""

import numpy as np

import attnspec


@attnspec.kernel("moba", arithmetic="fp32_weights", gates=["top_k"], summary="one query row after the other")
def moba(q, k, v, selection, o, lse, block, top_k, scale, causal, q_offsets, k_offsets, **_):
    q, k, v = map(attnspec.to_float32, (q, k, v))
    heads, group = q.shape[1], q.shape[1] // k.shape[1]
    o_rows, lse_rows = np.zeros(o.shape, np.float32), np.full(lse.shape, -np.inf, np.float32)
    selection[...] = -1
    for s in range(len(q_offsets) - 1):
        queries = range(q_offsets[s], q_offsets[s + 1])
        keys, values = (x[k_offsets[s] : k_offsets[s + 1]] for x in (k, v))
        for h in range(heads):
            means = pool(keys[:, h // group], block)
            for i, token in enumerate(queries):
                position = i + len(keys) - len(queries)  # the last query stands at the last key
                chosen = choose(means @ q[token, h], position // block if causal else None, top_k)
                selection[token, h, : len(chosen)] = chosen
                seen = np.isin(np.arange(len(keys)) // block, chosen)
                if causal:
                    seen &= np.arange(len(keys)) <= position
                if seen.any():
                    scores = np.float32(scale) * (keys[seen, h // group] @ q[token, h])
                    weights = np.exp(scores - scores.max())
                    o_rows[token, h] = weights @ values[seen, h // group] / weights.sum()
                    lse_rows[token, h] = scores.max() + np.log(weights.sum())
    attnspec.store(o, o_rows)
    attnspec.store(lse, lse_rows)


def pool(keys, block):
    """The mean key of every block, [blocks, dk]; the last block may be short."""
    return np.array([keys[b : b + block].mean(axis=0) for b in range(0, len(keys), block)]).reshape(-1, keys.shape[1])


def choose(scores, own, top_k):
    """The query's own block and the best of those before it; the best of all where no block is its own (None)."""
    if own is None:
        return np.argsort(-scores, kind="stable")[:top_k]
    if own < 0:  # it sees no key
        return np.array([], int)
    return np.append(np.argsort(-scores[:own], kind="stable")[: top_k - 1], own)
