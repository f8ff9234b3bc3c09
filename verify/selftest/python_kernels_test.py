"""Kernels in Python: the example passes, faults are found, bad input gives one line. ATTNSPEC_PROGRAM: the program."""

import contextlib
import io
import os
import pathlib
import subprocess
import sys
import tempfile
import unittest

TOP = pathlib.Path(__file__).resolve().parents[2]
sys.path.insert(0, str(TOP / "verify/python"))

import attnspec
import numpy as np

EXAMPLE = str(TOP / "verify/examples/python/numpy_moba.py") + ":moba"
CASES = [
    "moba(lens=1)",
    "moba(lens=15+16+17,heads=6,kv_heads=2,block=16,top_k=2)",
    "moba(lens=64+0+1+93,heads=2,kv_heads=1,dk=40,dv=24,block=32,dtype=fp32,regime=near_tie)",
    "moba(lens=93+64,q_lens=1+33,heads=3,kv_heads=1,block=32,causal=0,top_k=2,layout=contiguous)",
    "moba(lens=50+40+0,q_lens=60+41+3,heads=2,dk=16,block=8,top_k=8,dtype=fp16,regime=tie)",
]


def outcome(action):
    """What an action returns, and what it prints."""
    out, err = io.StringIO(), io.StringIO()
    with contextlib.redirect_stdout(out), contextlib.redirect_stderr(err):
        result = action()
    return result, out.getvalue(), err.getvalue()


def dense(q, k, v, o, lse, scale, causal, q_offsets, k_offsets, **_):
    """Forward of dense, one key head for all."""
    for s in range(len(q_offsets) - 1):
        for h in range(q.shape[1]):
            rows, keys = slice(q_offsets[s], q_offsets[s + 1]), slice(k_offsets[s], k_offsets[s + 1])
            scores = scale * q[rows, h].astype(float) @ k[keys, 0].astype(float).T
            if causal:
                scores += np.triu(np.full(scores.shape, -np.inf), 1 + scores.shape[1] - scores.shape[0])
            lse[rows, h, 0] = np.logaddexp.reduce(scores, axis=1)
            o[rows, h] = np.exp(scores - lse[rows, h].astype(float)) @ v[keys, 0].astype(float)


def dense_backward(q, k, v, o, lse, d_o, dq, dk, dv, scale, **_):
    """Gradients of dense for one sequence and head, causal."""
    q, k, v, d_o, o = (x[:, 0].astype(float) for x in (q, k, v, d_o, o))
    weights = np.tril(np.exp(scale * q @ k.T - lse[:, 0].astype(float)))
    d_scores = scale * weights * (d_o @ v.T - (d_o * o).sum(axis=1, keepdims=True))
    dq[:, 0], dk[:, 0], dv[:, 0] = d_scores @ k, d_scores.T @ q, weights.T @ d_o


class Check(unittest.TestCase):
    def test_passes_the_example(self):
        moba = attnspec.find_function(EXAMPLE)
        code, out, _ = outcome(lambda: attnspec.check(moba, cases=CASES))
        self.assertEqual(code, 0, out)
        self.assertIn("5 cases: 5 pass", out)

    def test_judges_forward_and_backward_of_a_plain_function(self):
        code, out, _ = outcome(lambda: attnspec.check(
            dense, "dense", backward=dense_backward, details=True, cases=["dense(lens=70,dtype=fp32)"]))
        self.assertEqual(code, 0, out)
        self.assertIn("\n  dv ", out)

    def test_finds_a_fault(self):
        def future(**fields):
            dense(**{**fields, "causal": False})

        code, out, _ = outcome(lambda: attnspec.check(future, "dense", cases=["dense(lens=70,dtype=fp32)"]))
        self.assertEqual(code, 1)
        self.assertIn("FAIL value-out-of-bound future o[", out)

    def test_finds_outputs_that_were_not_written(self):
        code, out, _ = outcome(lambda: attnspec.check(lambda **_: None, "dense", cases=["dense(lens=7)"]))
        self.assertEqual(code, 1)

    def test_respects_limits(self):
        code, out, _ = outcome(lambda: attnspec.check(dense, "dense", dtypes=["fp32"], dk=32, cases=["dense(lens=7)"]))
        self.assertEqual(code, 3)
        self.assertIn("not-supported", out)

    def test_gives_every_operator_its_fields(self):
        seen = {}

        def record(**fields):
            seen.update(fields)

        for operator in attnspec.OPERATORS:
            seen.clear()
            declared = {"backward": record} if operator in attnspec.BACKWARD else {}
            outcome(lambda: attnspec.check(record, operator, cases=[f"{operator}(lens=9)"], **declared))
            for name in ("num_sequences", "scale", "causal", "k_offsets"):
                self.assertIn(name, seen, operator)
            self.assertEqual(list(seen["k_offsets"]), [0, 9])
        self.assertEqual(seen["window"].k.shape, (9, 1, 64))
        self.assertEqual(seen["phi"], "mean")
        self.assertEqual(seen["gates"].shape, (9, 1, 3))

    def test_says_in_one_line_what_is_wrong(self):
        def fails(**_):
            raise RuntimeError("no\nmemory")

        code, out, _ = outcome(lambda: attnspec.check(fails, "dense", cases=["dense(lens=7)"]))
        self.assertEqual(code, 1)
        self.assertTrue(out.startswith("FAIL call-failed fails call => kernel 'fails': RuntimeError: no memory | "), out)
        code, out, _ = outcome(lambda: attnspec.check(dense, "dense", cases=["dense(lens=-7)"]))
        self.assertEqual(code, 2)
        self.assertEqual(out.count("\n"), 1)
        for declaration, message in [
            (("attention",), "operator 'attention': is none of dense"),
            (("moba_select", dense), "backward: moba_select has none"),
        ]:
            with self.assertRaisesRegex(ValueError, message):
                attnspec.Declaration(*declaration)
        with self.assertRaisesRegex(ValueError, "dtype 'fp8': is none of bf16, fp16, fp32"):
            attnspec.check(dense, "dense", dtypes=["fp8"])


def run(*arguments, python=sys.executable):
    """The program as its users run it."""
    environment = {**os.environ, "ATTNSPEC_PYTHON": python}
    return subprocess.run([os.environ["ATTNSPEC_PROGRAM"], *arguments], env=environment, capture_output=True, text=True)


BAD_KERNELS = """
import os, signal, time
import attnspec

@attnspec.kernel("dense")
def crashes(**_):
    print("never among the findings")
    os.kill(os.getpid(), signal.SIGSEGV)

@attnspec.kernel("dense")
def ends(**_):
    os._exit(0)

@attnspec.kernel("dense")
def hangs(**_):
    time.sleep(1000)

@attnspec.kernel("dense")
def raises(**_):
    raise RuntimeError("no\\nmemory")
"""


class Program(unittest.TestCase):
    def test_passes_the_example(self):
        done = run("replay", CASES[1], "--kernel", EXAMPLE)
        self.assertEqual((done.returncode, done.stderr), (0, ""), done.stdout)
        self.assertIn("verdict: pass", done.stdout)
        with tempfile.TemporaryDirectory() as findings:
            done = run("fuzz", EXAMPLE, "--cases", "20", "--seed", "1", "--findings", findings)
        self.assertEqual(done.returncode, 0, done.stdout)
        self.assertIn("20 cases and ", done.stdout)

    def test_survives_what_a_function_does(self):
        with tempfile.TemporaryDirectory() as folder:
            file = pathlib.Path(folder) / "bad.py"
            file.write_text(BAD_KERNELS)
            for name, patience, failure in [
                ("crashes", 60, "crash {0} call => kernel '{0}': ended by signal SIGSEGV in the forward call"),
                ("ends", 60, "crash {0} call => kernel '{0}': ended with exit code 0 in the forward call"),
                ("hangs", 10, "hang {0} call => kernel '{0}': did not return from the forward call within 10 s"),
                ("raises", 60, "call-failed {0} call => kernel '{0}': RuntimeError: no memory"),
            ]:
                kernel = f"{file}:{name}"
                done = run("replay", "dense(lens=7)", "--kernel", kernel, "--patience", str(patience))
                self.assertEqual(done.returncode, 1, done.stderr)
                self.assertIn(f"\nFAIL {failure.format(kernel)} | ", done.stdout)
                self.assertNotIn("never among", done.stdout)

    def test_says_in_one_line_what_is_wrong(self):
        with tempfile.TemporaryDirectory() as folder:
            file = pathlib.Path(folder) / "bad.py"
            file.write_text("import nowhere\n")
            for kernel, why in [
                ("nowhere.py:f", "there is no such file"),
                (f"{file}:f", "ModuleNotFoundError: No module named 'nowhere'"),
                (EXAMPLE.replace(":moba", ":pool"), "is not decorated with attnspec.kernel"),
                (EXAMPLE.replace(":moba", ":f"), "the file has no f"),
            ]:
                done = run("check", kernel)
                self.assertEqual((done.returncode, done.stdout), (2, ""))
                self.assertEqual(done.stderr, f"attnspec: kernel '{kernel}': {why}\n")
        done = run("check", EXAMPLE, python="/nowhere")
        self.assertEqual(done.stderr, f"attnspec: kernel '{EXAMPLE}': ATTNSPEC_PYTHON=/nowhere: cannot be run\n")


class Bf16(unittest.TestCase):
    def test_rounds_to_nearest_with_ties_to_even(self):
        bf16 = np.zeros(4, np.uint16)
        attnspec.store(bf16, np.array([1 + 2**-8, 1 + 3 * 2**-8, -np.inf, np.nan]))
        back = attnspec.to_float32(bf16)
        np.testing.assert_array_equal(back, np.array([1, 1 + 2**-6, -np.inf, np.nan], np.float32))


if __name__ == "__main__":
    unittest.main()
