"""Kernels that get PyTorch tensors: over the judge's memory, with its strides; and as copies that are written back, which
is what a GPU gets. Skipped where there is no PyTorch."""

import contextlib
import ctypes
import io
import pathlib
import re
import subprocess
import sys
import unittest

TOP = pathlib.Path(__file__).resolve().parents[2]
sys.path.insert(0, str(TOP / "verify/python"))

import attnspec
import numpy as np
from attnspec import abi, bridge

try:
    import torch
    from attnspec import torch_tensors
except ImportError as error:
    sys.exit(f"skipped: {error}")


def quietly(action):
    """What an action returns, and what it prints."""
    out = io.StringIO()
    with contextlib.redirect_stdout(out), contextlib.redirect_stderr(io.StringIO()):
        return action(), out.getvalue()


def dense(q, k, v, o, lse, scale, causal, q_offsets, k_offsets, **_):
    """Forward of dense, for sequences of as many queries as keys."""
    group = q.shape[1] // k.shape[1]
    for s in range(len(q_offsets) - 1):
        rows = slice(q_offsets[s], q_offsets[s + 1])
        keys, values = (x[rows].float().repeat_interleave(group, 1).transpose(0, 1) for x in (k, v))
        scores = scale * q[rows].float().transpose(0, 1) @ keys.mT
        if causal:
            scores += torch.full(scores.shape[1:], -torch.inf).triu(1)
        o[rows] = (scores.softmax(-1) @ values).transpose(0, 1).to(o.dtype)
        lse[rows] = scores.logsumexp(-1, keepdim=True).transpose(0, 1)


CASES = [f"dense(lens=17+0+33,heads=4,kv_heads=2,dk=24,dv=8,dtype={dtype},layout={layout})"
         for dtype in ("bf16", "fp16", "fp32") for layout in ("strided", "contiguous")]


class CopiesOnTheCpu:
    """Lets kernels for a GPU run without one: as copies, on the CPU."""

    def __enter__(self):
        self.kept = bridge.memory_of_calls
        bridge.memory_of_calls = lambda *_: lambda: torch_tensors.DeviceMemory("cpu")

    def __exit__(self, *_):
        bridge.memory_of_calls = self.kept


class Tensors(unittest.TestCase):
    def test_a_kernel_passes(self):
        code, out = quietly(lambda: attnspec.check(dense, "dense", tensors="torch", cases=CASES))
        self.assertEqual(code, 0, out)
        self.assertIn("6 cases: 6 pass", out)
        with CopiesOnTheCpu():
            code, out = quietly(lambda: attnspec.check(dense, "dense", tensors="torch", cases=CASES))
        self.assertEqual(code, 0, out)

    def test_have_strides_and_formats(self):
        for copies in (False, True):
            seen = []

            def look(q, k, v, o, lse, q_offsets, **_):
                seen.append((q.dtype, tuple(q.shape), tuple(lse.shape), q.is_contiguous(), lse.dtype,
                             q_offsets.tolist()))

            with CopiesOnTheCpu() if copies else contextlib.nullcontext():
                for case in CASES:
                    quietly(lambda: attnspec.check(look, "dense", tensors="torch", cases=[case], name="f"))
            self.assertEqual({entry[0] for entry in seen}, {torch.bfloat16, torch.float16, torch.float32})
            self.assertEqual({entry[1:3] for entry in seen}, {((50, 4, 24), (50, 4, 1))})
            self.assertEqual({entry[3] for entry in seen}, {False, True})
            self.assertEqual(seen[0][4:], (torch.float32, [0, 17, 17, 50]))

    def test_what_is_absent_is_none_and_what_is_empty_has_a_shape(self):
        for copies in (False, True):
            seen = {}
            with CopiesOnTheCpu() if copies else contextlib.nullcontext():
                quietly(lambda: attnspec.check(
                    lambda **fields: seen.update(fields), "nsa_compress", tensors="torch", name="f",
                    cases=["nsa_compress(lens=3,kv_heads=2,dk=6,compress_block=8,compress_stride=4,phi=linear)"]))
            self.assertEqual((tuple(seen["rows"].shape), seen["rows"].dtype), ((0, 2, 6), torch.bfloat16))
            self.assertEqual(tuple(seen["phi"].w.shape), (48, 2, 6))
            self.assertIsNone(seen["phi"].w1)

    def test_branches_of_nsa_share_a_copy(self):
        pointers = []

        def look(compressed, selected, window, **_):
            pointers.append({branch.k.data_ptr() for branch in (compressed, selected, window)})

        with CopiesOnTheCpu():
            quietly(lambda: attnspec.check(look, "nsa", tensors="torch", cases=["nsa(lens=9)"], name="f"))
        memory = []
        quietly(lambda: attnspec.check(
            lambda compressed, selected, window, **_: memory.append(
                {branch.k.data_ptr() for branch in (compressed, selected, window)}),
            "nsa", tensors="torch", cases=["nsa(lens=9)"], name="f"))
        self.assertEqual([len(found) for found in pointers], [len(found) for found in memory])

    def test_stray_writes_to_copies_are_found(self):
        def writes_behind(o, lse, **call):
            dense(o=o, lse=lse, **call)
            o.as_strided((1,), (1,), o.storage_offset() + o.stride(0) * (len(o) - 1) + o.stride(1) * (o.shape[1] - 1)
                         + o.shape[2]).fill_(7)

        def writes_between(o, lse, **call):
            dense(o=o, lse=lse, **call)
            o.as_strided((1,), (1,), o.storage_offset() + o.shape[2]).fill_(7)

        for fn in (writes_behind, writes_between):
            with CopiesOnTheCpu():
                code, out = quietly(lambda: attnspec.check(fn, "dense", tensors="torch", cases=CASES[:1]))
            self.assertEqual(code, 1)
            self.assertIn("FAIL stray-write", out)

    def test_copies_keep_every_bit(self):
        every = np.arange(2**16, dtype=np.uint16).reshape(64, 8, 128)
        padded = np.full(every.size + 2 * torch_tensors.GUARD, 0x7FC1, np.uint16)
        padded[torch_tensors.GUARD : -torch_tensors.GUARD] = every.ravel()
        before, sizes = padded.copy(), (ctypes.c_int64 * 6)(64, 8, 128, 1024, 128, 1)
        tensor = abi.DLTensor(padded.ctypes.data + 2 * torch_tensors.GUARD, 1, 0, 3, 4, 16, 1, sizes,
                              ctypes.cast(ctypes.byref(sizes, 24), ctypes.POINTER(ctypes.c_int64)), 0)
        memory = torch_tensors.DeviceMemory("cpu")
        copy = memory.tensor(tensor)
        self.assertEqual(copy.dtype, torch.bfloat16)
        self.assertNotEqual(copy.data_ptr(), tensor.data)
        padded[:] = 0
        memory.collect()
        np.testing.assert_array_equal(padded, before)

    def test_guard_is_that_of_the_judge(self):
        guard = re.search(r"kGuardElements = (\d+);", (TOP / "verify/storage.hpp").read_text())
        self.assertEqual(torch_tensors.GUARD, int(guard[1]))


class Declarations(unittest.TestCase):
    def test_say_in_one_line_what_is_wrong(self):
        for options, message in [
            ({"tensors": "jax"}, "tensors 'jax': is none of numpy, torch"),
            ({"device": "tpu"}, "device 'tpu': is none of cpu, cuda"),
            ({"device": "cuda"}, "device 'cuda': needs tensors='torch'"),
        ]:
            with self.assertRaisesRegex(ValueError, message):
                attnspec.Declaration("dense", **options)

    @unittest.skipIf(torch.cuda.is_available(), "there is a GPU")
    def test_a_missing_gpu_is_one_line(self):
        with self.assertRaisesRegex(ValueError, r"^device 'cuda': PyTorch sees no CUDA GPU"):
            attnspec.check(dense, "dense", tensors="torch", device="cuda", cases=CASES)

    def test_torch_is_imported_only_when_it_is_asked_for(self):
        program = ("import sys, attnspec; attnspec.check(lambda **_: None, 'dense', name='f', cases=['dense(lens=3)']); "
                   "sys.exit('torch' in sys.modules)")
        environment = {"PYTHONPATH": str(TOP / "verify/python"), "ATTNSPEC_LIBRARY": attnspec.places.library()}
        done = subprocess.run([sys.executable, "-c", program], env=environment, capture_output=True, text=True)
        self.assertEqual(done.returncode, 0, done.stderr)


if __name__ == "__main__":
    unittest.main()
