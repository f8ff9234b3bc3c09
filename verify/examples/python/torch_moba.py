"""A complete kernel in PyTorch: MoBA with its gradients, in fp32, on the GPU where there is one.

./attnspec check verify/examples/python/torch_moba.py:moba
"""

import torch

import attnspec

DEVICE = "cuda" if torch.cuda.is_available() else "cpu"


def read(tensor):
    """The values of an input, [heads, tokens, dim], in fp32."""
    return tensor.float().transpose(0, 1)


def write(output, values):
    """Writes the values of an output, [heads, tokens, dim], rounded once to its format."""
    output.copy_(values.transpose(0, 1))


def moba_backward(q, k, v, selection, o, lse, d_o, dq, dk, dv, scale, causal, block, q_offsets, k_offsets, **_):
    group = q.shape[1] // k.shape[1]
    for queries, keys in sequences(q_offsets, k_offsets):
        q_s, o_s, lse_s, d_o_s = (read(x[queries]) for x in (q, o, lse, d_o))
        k_s, v_s = (read(x[keys]).repeat_interleave(group, 0) for x in (k, v))
        sees = visible(attended(selection[queries], k_s.shape[1], block), k_s.shape[1], block, causal)
        weights = torch.exp(scale * q_s @ k_s.mT - lse_s).masked_fill(~sees, 0)
        d_scores = weights * (d_o_s @ v_s.mT - (d_o_s * o_s).sum(-1, keepdim=True))
        write(dq[queries], scale * d_scores @ k_s)
        write(dk[keys], sum_over_group(scale * d_scores.mT @ q_s, group))
        write(dv[keys], sum_over_group(weights.mT @ d_o_s, group))


@attnspec.kernel("moba", backward=moba_backward, arithmetic="fp32_weights", gates=["top_k"], tensors="torch",
                 device=DEVICE, summary="one sequence after the other")
def moba(q, k, v, selection, o, lse, block, top_k, scale, causal, q_offsets, k_offsets, **_):
    group = q.shape[1] // k.shape[1]
    selection[...] = -1
    for queries, keys in sequences(q_offsets, k_offsets):
        q_s = read(q[queries])
        k_s, v_s = (read(x[keys]).repeat_interleave(group, 0) for x in (k, v))
        blocks = chosen(q_s @ mean_keys(k_s, block).mT, k_s.shape[1], block, top_k, causal)
        heads, tokens, indices = blocks.nonzero(as_tuple=True)
        slots = blocks.cumsum(-1)[heads, tokens, indices] - 1
        selection[queries][tokens, heads, slots] = indices.int()
        scores = (scale * q_s @ k_s.mT).masked_fill(~visible(blocks, k_s.shape[1], block, causal), -torch.inf)
        lse_s = scores.logsumexp(-1, keepdim=True)
        weights = torch.exp(scores - lse_s).masked_fill(lse_s == -torch.inf, 0)
        write(o[queries], weights @ v_s)
        write(lse[queries], lse_s)


def sequences(q_offsets, k_offsets):
    """The rows of every sequence: its queries, its keys."""
    return [(slice(*q_offsets[s : s + 2]), slice(*k_offsets[s : s + 2])) for s in range(len(q_offsets) - 1)]


def positions(num_queries, num_keys):
    """Where the queries stand among the keys: the last one at the last key. [queries, 1]."""
    return torch.arange(num_keys - num_queries, num_keys, device=DEVICE)[:, None]


def mean_keys(k, block):
    """The mean key of every block, [heads, blocks, dk]; the last block may be short."""
    return torch.stack([part.mean(1) for part in k.split(block, 1)], 1) if k.shape[1] else k


def chosen(scores, num_keys, block, top_k, causal):
    """Which blocks each query attends to, from their scores [heads, queries, blocks]: its own and the best of those
    before it; the best of all where no block is its own."""
    blocks = torch.arange(scores.shape[2], device=DEVICE)
    own = positions(scores.shape[1], num_keys) // block if causal else scores.shape[2]
    scores = scores.masked_fill(blocks >= own, -torch.inf)
    best = scores.sort(dim=-1, descending=True, stable=True).indices[..., : top_k - 1 if causal else top_k]
    return torch.zeros_like(scores, dtype=torch.bool).scatter_(-1, best, True) & (blocks < own) | (blocks == own)


def attended(selection, num_keys, block):
    """The blocks of a selection [queries, heads, slots] as a mask [heads, queries, blocks]."""
    blocks = torch.arange(-(-num_keys // block), device=DEVICE)
    return (selection[..., None] == blocks).any(2).transpose(0, 1)


def visible(blocks, num_keys, block, causal):
    """Which keys each query sees, [heads, queries, keys], of the blocks in a mask."""
    keys = torch.arange(num_keys, device=DEVICE)
    sees = blocks[..., keys // block]
    return sees & (keys <= positions(blocks.shape[1], num_keys)) if causal else sees


def sum_over_group(gradient, group):
    """[query heads, keys, dim] summed to [key heads, keys, dim]."""
    return gradient.unflatten(0, (-1, group)).sum(1)
