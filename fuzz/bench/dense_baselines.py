"""Times dense attention as PyTorch has it, for `attnspec bench --baselines`, by the same rules: events in the stream,
the L2 cache cleared before every run, warm-up, and every run written down. The GPU sleeps for a while before each run,
since PyTorch takes longer to launch a backward than the cache takes to be cleared.

    dense_baselines.py OUT.json REPETITIONS SECONDS SHAPE...

SHAPE is sequences,heads,kv_heads,dk,dv,queries,keys,dtype,masked, "1,16,16,128,128,8192,8192,bf16,1"; masked: causal,
with as many queries as keys. OUT.json becomes a list: of each shape, backend and direction its times in milliseconds,
or the reason why there are none.
"""

import json
import sys

try:
    import torch
    from torch.nn.attention import SDPBackend, sdpa_kernel
    from torch.nn.functional import scaled_dot_product_attention
except ImportError as error:
    sys.exit(f"dense_baselines.py: {error}")

BACKENDS = {"cuDNN": SDPBackend.CUDNN_ATTENTION, "FlashAttention": SDPBackend.FLASH_ATTENTION}
DTYPES = {"bf16": torch.bfloat16, "fp16": torch.float16, "fp32": torch.float32}
WARM_UPS = 3
FEWEST_RUNS = 3
LAUNCH_CYCLES = 2_000_000  # about a millisecond


def times(run, repetitions, seconds):
    """Milliseconds of each timed run."""
    cache = torch.empty(2 * torch.cuda.get_device_properties(0).L2_cache_size, dtype=torch.uint8, device="cuda")
    begin, end = torch.cuda.Event(enable_timing=True), torch.cuda.Event(enable_timing=True)

    def one():
        torch.cuda.synchronize()
        cache.zero_()
        torch.cuda._sleep(LAUNCH_CYCLES)
        begin.record()
        run()
        end.record()
        torch.cuda.synchronize()
        return begin.elapsed_time(end)

    last = [one() for _ in range(WARM_UPS)][-1]
    return [one() for _ in range(max(min(FEWEST_RUNS, repetitions), min(repetitions, int(1e3 * seconds / last))))]


def measure(shape, backend, repetitions, seconds):
    """Yields (direction, times)."""
    *sizes, dtype, masked = shape.split(",")
    sequences, heads, kv_heads, dk, dv, queries, keys = map(int, sizes)

    def random(*size):
        return torch.randn(sequences, *size, dtype=DTYPES[dtype], device="cuda")

    sizes = (heads, queries, dk), (kv_heads, keys, dk), (kv_heads, keys, dv)
    q, k, v = (random(*size).requires_grad_() for size in sizes)
    d_o = random(heads, queries, dv)

    def forward():
        return scaled_dot_product_attention(q, k, v, is_causal=masked == "1", enable_gqa=heads != kv_heads)

    with sdpa_kernel(BACKENDS[backend]):
        with torch.no_grad():
            yield "forward", times(forward, repetitions, seconds)
        o = forward()
        yield "backward", times(lambda: torch.autograd.grad(o, (q, k, v), d_o, retain_graph=True), repetitions, seconds)


def main(out, repetitions, seconds, *shapes):
    torch.manual_seed(0)
    found = []
    for shape in shapes:
        for backend in BACKENDS:
            try:
                for direction, runs in measure(shape, backend, int(repetitions), float(seconds)):
                    found.append({"shape": shape, "backend": backend, "direction": direction, "runs": runs})
            except RuntimeError as error:
                reason = str(error).split("\n", maxsplit=1)[0]
                found.append({"shape": shape, "backend": backend, "reason": reason})
    with open(out, "w", encoding="utf-8") as file:
        json.dump(found, file)


if __name__ == "__main__":
    if not torch.cuda.is_available():
        sys.exit("dense_baselines.py: PyTorch finds no GPU")
    main(*sys.argv[1:])
