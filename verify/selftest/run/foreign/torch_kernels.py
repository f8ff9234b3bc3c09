"""Kernels in PyTorch for python_torch_test.py, on the GPU where there is one: a correct one, and wrong ones."""

import torch

import attnspec

DEVICE = "cuda" if torch.cuda.is_available() else "cpu"
DECLARED = {"tensors": "torch", "device": DEVICE, "only_equal_lengths": True}


def sequences(q_offsets):
    """The rows of every sequence, of queries and of keys."""
    return [slice(*q_offsets[s : s + 2]) for s in range(len(q_offsets) - 1)]


def heads_first(x, group=1):
    """[tokens, heads, dim] as [heads, tokens, dim] in fp32, each head once for every query head of its group."""
    return x.float().repeat_interleave(group, 1).transpose(0, 1)


def scores_of(q, k, scale, causal):
    scores = scale * heads_first(q) @ heads_first(k, q.shape[1] // k.shape[1]).mT
    if causal:
        scores += torch.full(scores.shape[1:], -torch.inf, device=scores.device).triu(1)
    return scores


def dense(q, k, v, o, lse, scale, causal, q_offsets, **_):
    """Forward of dense, for sequences of as many queries as keys."""
    for rows in sequences(q_offsets):
        scores = scores_of(q[rows], k[rows], scale, causal)
        weights = scores.softmax(-1)
        o[rows] = (weights @ heads_first(v[rows], q.shape[1] // k.shape[1])).transpose(0, 1).to(o.dtype)
        lse[rows] = scores.logsumexp(-1, keepdim=True).transpose(0, 1)


def dense_backward(q, k, v, o, lse, d_o, dq, dk, dv, scale, causal, q_offsets, **_):
    group = q.shape[1] // k.shape[1]
    for rows in sequences(q_offsets):
        o_s, lse_s, d_o_s = (heads_first(x[rows]) for x in (o, lse, d_o))
        weights = torch.exp(scores_of(q[rows], k[rows], scale, causal) - lse_s)
        d_weights = d_o_s @ heads_first(v[rows], group).mT
        d_scores = scale * weights * (d_weights - (d_o_s * o_s).sum(-1, keepdim=True))
        dq[rows] = (d_scores @ heads_first(k[rows], group)).transpose(0, 1).to(dq.dtype)
        for output, gradient in ((dk, d_scores.mT @ heads_first(q[rows])), (dv, weights.mT @ d_o_s)):
            output[rows] = gradient.unflatten(0, (-1, group)).sum(1).transpose(0, 1).to(output.dtype)


@attnspec.kernel("dense", backward=dense_backward, arithmetic="fp32_weights", **DECLARED)
def attend(**call):
    dense(**call)


def element_at(tensor, offset):
    """The element that lies so many elements after the first one, also where it is none of the tensor's."""
    return tensor.as_strided((1,), (1,), tensor.storage_offset() + offset)


def end_of(tensor):
    """How many elements the end of a tensor lies after its first element."""
    return sum((n - 1) * stride for n, stride in zip(tensor.shape, tensor.stride())) + 1


@attnspec.kernel("dense", **DECLARED)
def writes_behind(o, **call):
    dense(o=o, **call)
    element_at(o, end_of(o)).fill_(7)


@attnspec.kernel("dense", **DECLARED)
def writes_between(o, **call):
    dense(o=o, **call)
    element_at(o, o.shape[2]).fill_(7)


@attnspec.kernel("dense", **DECLARED)
def writes_an_input(q, **call):
    dense(q=q, **call)
    q[0, 0, 0] = 7


@attnspec.kernel("dense", **DECLARED)
def reads_before(v, o, **call):
    dense(v=v, o=o, **call)
    o[0, 0] += 0 * element_at(v, -1)


@attnspec.kernel("dense", **DECLARED)
def raises(q, **_):
    raise RuntimeError(f"{q.device.type} {q.dtype}")


@attnspec.kernel("dense", **DECLARED)
def reads_row_99(k, **call):
    """Reads a row that a short call does not have: on a GPU, an error that the process does not recover from."""
    k[torch.arange(100 if len(k) < 10 else 1, device=DEVICE)]
    dense(k=k, **call)
