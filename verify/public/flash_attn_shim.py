"""flash_attn for public code that imports it, over PyTorch's copy of FlashAttention-2 (torch.ops.aten).

install() makes `import flash_attn` work where the package is missing. Two signatures of its private functions are in
use: those of 2.6 and earlier ("2.6"), and those since 2.7 ("2.7"). The softmax scale of the public code is replaced by
`scale` where that is not None, for code that fixes it.
"""

import sys
import types

import common
import torch

aten = torch.ops.aten
scale = None  # instead of the one that the public code gives


def forward(q, k, v, cu_q, cu_k, longest_q, longest_k, softmax_scale, causal, window=(-1, -1)):
    q_g, positive = common.positive_scale(q, softmax_scale if scale is None else scale)
    out, lse, *_ = aten._flash_attention_forward(
        q_g, k, v, cu_q.int(), cu_k.int(), int(longest_q), int(longest_k), 0.0, causal, False, scale=positive,
        window_size_left=window[0], window_size_right=0 if causal else window[1])
    return out, lse


def backward(d_out, q, k, v, out, lse, cu_q, cu_k, longest_q, longest_k, softmax_scale, causal, deterministic):
    wanted = softmax_scale if scale is None else scale
    q_g, positive = common.positive_scale(q, wanted)
    nothing = torch.zeros(2, dtype=torch.uint64, device=q.device), torch.zeros((), device=q.device)
    before = torch.are_deterministic_algorithms_enabled()
    torch.use_deterministic_algorithms(deterministic or before)
    try:
        dq, dk, dv = aten._flash_attention_backward(
            d_out.contiguous(), q_g.contiguous(), k.contiguous(), v.contiguous(), out.contiguous(), lse, cu_q.int(),
            cu_k.int(), int(longest_q), int(longest_k), 0.0, causal, *nothing, scale=positive, window_size_left=-1,
            window_size_right=0 if causal else -1)
    finally:
        torch.use_deterministic_algorithms(before)
    return common.positive_scale_gradient(dq, wanted), dk, dv


class Attention(torch.autograd.Function):
    """flash_attn_varlen_func with gradients; saves lse second, as MoBA's functions do."""

    @staticmethod
    def forward(ctx, q, k, v, cu_q, cu_k, longest_q, longest_k, softmax_scale, causal, window):
        out, lse = forward(q, k, v, cu_q, cu_k, longest_q, longest_k, softmax_scale, causal, window)
        ctx.save_for_backward(out, lse.t().contiguous(), q, k, v, cu_q, cu_k)
        ctx.rest = longest_q, longest_k, softmax_scale, causal
        return out

    @staticmethod
    def backward(ctx, d_out):
        out, lse, q, k, v, cu_q, cu_k = ctx.saved_tensors
        gradients = backward(d_out, q, k, v, out, lse.t().contiguous(), cu_q, cu_k, *ctx.rest, deterministic=False)
        return *gradients, None, None, None, None, None, None, None


def varlen_func(q, k, v, cu_seqlens_q, cu_seqlens_k, max_seqlen_q, max_seqlen_k, dropout_p=0.0, softmax_scale=None,
                causal=False, window_size=(-1, -1), **_):
    softmax_scale = q.shape[-1] ** -0.5 if softmax_scale is None else softmax_scale
    return Attention.apply(q, k, v, cu_seqlens_q, cu_seqlens_k, max_seqlen_q, max_seqlen_k, softmax_scale, causal,
                           window_size)


def varlen_forward(q, k, v, cu_seqlens_q, cu_seqlens_k, max_seqlen_q, max_seqlen_k, dropout_p=0.0, softmax_scale=None,
                   causal=False, **_):
    return forward(q, k, v, cu_seqlens_q, cu_seqlens_k, max_seqlen_q, max_seqlen_k, softmax_scale, causal)


def varlen_backward(dout, q, k, v, out, softmax_lse, dq, dk, dv, cu_seqlens_q, cu_seqlens_k, max_seqlen_q, max_seqlen_k,
                    dropout_p=0.0, softmax_scale=None, causal=False, deterministic=False, **_):
    gradients = backward(dout, q, k, v, out, softmax_lse, cu_seqlens_q, cu_seqlens_k, max_seqlen_q, max_seqlen_k,
                         softmax_scale, causal, deterministic)
    for given, gradient in zip((dq, dk, dv), gradients):
        if given is not None:
            given.copy_(gradient)
    return *gradients, None


def install(signature):
    """Puts the shim in place of flash_attn, also of an installed one, so that lse and scale are within reach."""
    package, interface = types.ModuleType("flash_attn"), types.ModuleType("flash_attn.flash_attn_interface")
    package.__version__ = "2.6.3" if signature == "2.6" else "2.7.4"
    package.__path__ = []
    if signature == "2.6":  # eight results, of which the fifth and sixth are o and lse
        def forward_of_2_6(**fields):
            out, lse = varlen_forward(**fields)
            return None, None, None, None, out, lse, None, None

        interface._flash_attn_varlen_forward = forward_of_2_6
    else:
        interface._flash_attn_varlen_forward = lambda **fields: (*varlen_forward(**fields), None, None)
    interface._flash_attn_varlen_backward = varlen_backward
    package.flash_attn_varlen_func = interface.flash_attn_varlen_func = varlen_func
    package.flash_attn_func = None
    package.flash_attn_interface = interface
    sys.modules["flash_attn"], sys.modules["flash_attn.flash_attn_interface"] = package, interface
