"""Kernels that get PyTorch tensors: over the judge's memory, with its strides; as copies that are written back, which
is what a GPU gets; and on the GPU, if there is one. Skipped where there is no PyTorch. ATTNSPEC_PROGRAM names the
program."""

import contextlib
import ctypes
import io
import os
import pathlib
import re
import subprocess
import sys
import tempfile
import unittest

TOP = pathlib.Path(__file__).resolve().parents[2]
KERNELS = TOP / "verify/selftest/run/foreign/torch_kernels.py"
sys.path[:0] = [str(TOP / "verify/python"), str(KERNELS.parent)]

import attnspec
import numpy as np
from attnspec import abi, bridge

try:
    import torch
    import torch_kernels
    from attnspec import torch_tensors
    from torch_kernels import DEVICE, dense
except ImportError as error:
    sys.exit(f"skipped: {error}")


def quietly(action):
    """What an action returns, and what it prints."""
    out = io.StringIO()
    with contextlib.redirect_stdout(out), contextlib.redirect_stderr(io.StringIO()):
        return action(), out.getvalue()


FORMATS = {"bf16": torch.bfloat16, "fp16": torch.float16, "fp32": torch.float32}
CASES = [f"dense(lens=17+0+33,heads=4,kv_heads=2,dk=24,dv=8,dtype={dtype},layout={layout})" for dtype in FORMATS
         for layout in ("strided", "contiguous")]


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
            self.assertEqual({entry[0] for entry in seen}, set(FORMATS.values()))
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
        guard = re.search(r"kGuardElements = (\d+);", (TOP / "verify/run/storage.hpp").read_text())
        self.assertEqual(torch_tensors.GUARD, int(guard[1]))


NEEDS_A_GPU = unittest.skipUnless(torch.cuda.is_available(), "there is no GPU")


class OnTheDevice(unittest.TestCase):
    """Kernels that are declared for the GPU, if there is one, and elsewhere for the CPU."""

    def run_program(self, *arguments):
        environment = {"ATTNSPEC_PYTHON": sys.executable, **os.environ}
        return subprocess.run([os.environ["ATTNSPEC_PROGRAM"], *arguments], env=environment, capture_output=True,
                              text=True)

    @NEEDS_A_GPU
    def test_a_correct_kernel_passes_level_1(self):
        done = self.run_program("check", f"{KERNELS}:attend")
        self.assertEqual(done.returncode, 0, done.stdout + done.stderr)

    def test_gradients_are_judged(self):
        self.assertRegex(attnspec.assert_correct(torch_kernels.attend, cases=CASES), "6 cases: 6 pass$")

        def wrong_backward(dq, **call):
            torch_kernels.dense_backward(dq=dq, **call)
            dq[-1] *= 1.1

        code, out = quietly(lambda: attnspec.check(dense, "dense", name="f", backward=wrong_backward, cases=CASES[:1],
                                                   **torch_kernels.DECLARED))
        self.assertEqual(code, 1)
        self.assertRegex(out, r"FAIL value-out-of-bound f dq\[seq=2,token=32,")

    def test_tensors_are_there_with_the_formats_and_the_strides_of_the_judge(self):
        for case in CASES:
            arrays, tensors = {}, {}
            for fields, options in ((arrays, {}), (tensors, torch_kernels.DECLARED)):
                quietly(lambda: attnspec.check(lambda **call: fields.update(call), "dense", name="f", cases=[case],
                                               **options))
            dtype = next(dtype for name, dtype in FORMATS.items() if name in case)
            for name in ("q", "k", "v", "o", "lse"):
                array, tensor = arrays[name], tensors[name]
                self.assertEqual(tensor.stride(), tuple(stride // array.itemsize for stride in array.strides), case)
                self.assertEqual(tensor.device.type, DEVICE)
                self.assertEqual(tensor.dtype, torch.float32 if name == "lse" else dtype)
            self.assertEqual((tensors["q_offsets"].device.type, tensors["k_offsets"].device.type), ("cpu", "cpu"))

    def test_wrong_kernels_have_their_verdicts(self):
        for name, verdict in [("writes_behind", "stray-write"), ("writes_between", "stray-write"),
                              ("writes_an_input", "stray-write"), ("reads_before", "stray-read")]:
            with CopiesOnTheCpu() if DEVICE == "cpu" else contextlib.nullcontext():
                code, out = quietly(lambda: attnspec.check(getattr(torch_kernels, name), cases=CASES[:1]))
            self.assertEqual(code, 1)
            self.assertRegex(out, f"^FAIL {verdict} {name} ")

    def test_an_exception_names_its_line_and_prints_its_traceback(self):
        line = KERNELS.read_text().partition("raise RuntimeError")[0].count("\n") + 1
        done = self.run_program("replay", CASES[0], "--kernel", f"{KERNELS}:raises")
        self.assertEqual(done.returncode, 1, done.stderr)
        message = f"torch_kernels.py:{line}: RuntimeError: {DEVICE} torch.bfloat16"
        self.assertIn(f"\nFAIL call-failed {KERNELS}:raises call => {message} | ", done.stdout)
        self.assertIn(f"{message}\nTraceback (most recent call last)", done.stderr)

    def test_a_broken_device_is_not_carried_on(self):
        with tempfile.TemporaryDirectory() as folder:
            cases = pathlib.Path(folder) / "some.cases"
            cases.write_text("dense(lens=7)\ndense(lens=40)\n")
            done = self.run_program("replay", str(cases), "--kernel", f"{KERNELS}:reads_row_99")
        self.assertEqual(done.returncode, 1, done.stderr)
        failures = re.findall("^FAIL (.*)", done.stdout, flags=re.MULTILINE)
        self.assertEqual(len(failures), 1, done.stdout)
        self.assertRegex(failures[0], r"^(call-failed|crash) .*dense\(lens=7\)")

    @NEEDS_A_GPU
    def test_examples_pass(self):
        for file, operator in (("torch_moba", "moba"), ("triton_dense", "dense")):
            examples = TOP / "verify/examples/python"
            done = self.run_program("replay", str(examples / f"{operator}.cases"), "--kernel",
                                    f"{examples / file}.py:{operator}")
            self.assertEqual((done.returncode, done.stderr), (0, ""), done.stdout)


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
        program = ("import sys, attnspec; "
                   "attnspec.check(lambda **_: None, 'dense', name='f', cases=['dense(lens=3)']); "
                   "sys.exit('torch' in sys.modules)")
        environment = {"PYTHONPATH": str(TOP / "verify/python"), "ATTNSPEC_LIBRARY": attnspec.places.library()}
        done = subprocess.run([sys.executable, "-c", program], env=environment, capture_output=True, text=True)
        self.assertEqual(done.returncode, 0, done.stderr)


if __name__ == "__main__":
    unittest.main()
