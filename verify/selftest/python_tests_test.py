"""Kernels in the tests of others: assert_correct, and what the plugin for pytest reports. The part on pytest is skipped
where there is none."""

import importlib.util
import json
import os
import pathlib
import re
import subprocess
import sys
import tempfile
import unittest

TOP = pathlib.Path(__file__).resolve().parents[2]
sys.path.insert(0, str(TOP / "verify/python"))

import attnspec
import numpy as np
from attnspec import bridge, declaration, failure, judging
from attnspec.abi import Print

KERNELS = """
import numpy as np
import attnspec

SMALL = {"dk": 64, "dtypes": ["bf16"], "only_causal": True, "only_equal_lengths": True}

def attend(q, k, v, o, lse, scale, causal, q_offsets, k_offsets, **_):
    q, k, v = (attnspec.to_float32(x).astype(float) for x in (q, k, v))
    group = q.shape[1] // k.shape[1]
    for s in range(len(q_offsets) - 1):
        rows, keys = slice(q_offsets[s], q_offsets[s + 1]), slice(k_offsets[s], k_offsets[s + 1])
        if rows.start == rows.stop or keys.start == keys.stop:
            attnspec.store(o[rows], np.zeros(o[rows].shape))
            lse[rows] = -np.inf
            continue
        for h in range(q.shape[1]):
            scores = scale * q[rows, h] @ k[keys, h // group].T
            if causal:
                scores += np.triu(np.full(scores.shape, -np.inf), 1 + scores.shape[1] - scores.shape[0])
            with np.errstate(invalid="ignore"):
                total = np.logaddexp.reduce(scores, axis=1, keepdims=True)
                weights = np.where(total > -np.inf, np.exp(scores - total), 0)
            lse[rows, h] = total
            attnspec.store(o[rows, h], weights @ v[keys, h // group])

@attnspec.kernel("dense", arithmetic="fp32_weights", **SMALL)
def right(**call):
    attend(**call)

@attnspec.kernel("dense", arithmetic="fp32_weights", **SMALL)
def wrong_scale(scale, **call):
    print("the kernel says hello")
    attend(scale=1.01 * scale, **call)

@attnspec.kernel("dense")
def raises(q, **call):
    raise RuntimeError("no memory")

@attnspec.kernel("dense", tensors="torch", device="cuda")
def on_a_gpu(**call):
    pass

again = right
"""


def has_gpu():
    """Whether a kernel with device="cuda" can run here."""
    if importlib.util.find_spec("torch") is None:
        return False
    import torch
    return torch.cuda.is_available()


def load(folder):
    """The kernels, as a module of a file in a folder."""
    file = pathlib.Path(folder) / "mine.py"
    file.write_text(KERNELS)
    spec = importlib.util.spec_from_file_location("mine", file)
    sys.modules["mine"] = module = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(module)
    return file, module


class WithKernels(unittest.TestCase):
    @classmethod
    def setUpClass(cls):
        cls.folder = tempfile.TemporaryDirectory()
        cls.file, cls.mine = load(cls.folder.name)

    @classmethod
    def tearDownClass(cls):
        cls.folder.cleanup()


class AssertCorrect(WithKernels):
    def message(self, *arguments, **options):
        with self.assertRaises(AssertionError) as raised:
            attnspec.assert_correct(*arguments, **options)
        return str(raised.exception).splitlines()

    def test_says_what_was_judged(self):
        said = attnspec.assert_correct(self.mine.right, cases=["dense(lens=9)", "dense(lens=7)"])
        self.assertEqual(said, "dense, cases given: 2 cases: 2 pass")

    def test_shows_the_failure_what_errors_have_in_common_and_how_to_repeat_it(self):
        lines = self.message(self.mine.wrong_scale, cases=["dense(lens=70)"])
        self.assertRegex(lines[0], r"^FAIL value-out-of-bound \S*mine\.py:wrong_scale o\[.* => .* ratio [^|]*$")
        self.assertRegex(lines[1], r"^  o, in deviations: softmax scale off [1-9]\d")
        self.assertRegex(lines[2], r"^  repeat: .*attnspec replay 'dense\(lens=70\)' --kernel \S*mine\.py:wrong_scale$")
        self.assertEqual(lines[-1], "judged: dense, cases given: 1 cases: 1 value-out-of-bound")

    def test_the_command_that_it_shows_fails_in_the_same_way(self):
        line = self.message(self.mine.wrong_scale, cases=["dense(lens=70)"])[2]
        case, kernel = re.search(r"replay '(.*)' --kernel (\S+)$", line).groups()
        done = subprocess.run([os.environ["ATTNSPEC_PROGRAM"], "replay", case, "--kernel", kernel],
                              env={**os.environ, "ATTNSPEC_PYTHON": sys.executable}, capture_output=True, text=True)
        self.assertEqual(done.returncode, 1, done.stderr)
        self.assertIn("verdict: value-out-of-bound", done.stdout)

    def test_shows_three_failures_and_counts_the_rest(self):
        lines = self.message(self.mine.wrong_scale, cases=[f"dense(lens={n})" for n in (70, 71, 72, 73, 74)])
        self.assertEqual([line[:4] for line in lines].count("FAIL"), failure.MAX_FAILURES)
        self.assertIn("... and 2 more cases with findings", lines)

    def test_shows_the_hint_but_no_laws_that_are_not_promised(self):
        lines = self.message(self.mine.wrong_scale, cases=["dense(lens=4)"])
        self.assertRegex(lines[0], "^FAIL value-out-of-bound ")
        self.assertEqual(lines[-2], "hint: no declared arithmetic explains these findings")
        self.assertNotIn(" not held to the laws ", "".join(lines))

    def test_a_function_without_a_file_is_repeated_by_a_call(self):
        def silent(**_):
            pass

        lines = self.message(silent, operator="dense", cases=["dense(lens=7)"])
        self.assertIn("  repeat: attnspec.check(silent, 'dense', cases=[\"dense(lens=7)\"], details=True)", lines)

    def test_an_inconclusive_judgement_is_no_pass(self):
        lines = self.message(self.mine.right, cases=["dense(lens=7,dk=128)"])
        self.assertRegex(lines[0], "^nothing is wrong, but")
        self.assertEqual(lines[-1], "judged: dense, cases given: 1 cases: 1 not-supported")

    def test_bad_input_is_one_line(self):
        for arguments, options, line in [
            ((self.mine.right,), {"cases": ["dense(lens=-7)"]}, "^(?!attnspec: ).*lens=-7"),
            ((self.mine.right, 3), {}, "^level=3: must be in 1"),
            ((self.mine.right,), {"dtypes": ["fp32"]},
             "^dtypes: right is decorated with attnspec.kernel, which declares it"),
            ((self.mine.attend,), {}, "^operator: is not given, and attend is not decorated"),
        ]:
            with self.assertRaisesRegex(ValueError, line) as raised:
                attnspec.assert_correct(*arguments, **options)
            self.assertNotIn("\n", str(raised.exception))


class Judge(WithKernels):
    """attnspec_judge, whose fields assert_correct reads."""

    def judge(self, fn, cases, level=1):
        kernel = bridge.Bridge(fn, declaration.declaration_of(fn)).kernel
        said = []
        code = judging.library().attnspec_judge(kernel, b"mine", level, judging.encoded(cases),
                                                Print(lambda text, _: said.append(json.loads(text))), None)
        return code, said

    def test_hands_the_parts_of_a_result_apart(self):
        code, (wrong, other, of_all) = self.judge(self.mine.wrong_scale, ["dense(lens=70)", "dense(lens=7,dk=128)"])
        self.assertEqual(code, 1)
        self.assertEqual([wrong["kernel"], wrong["case"], wrong["verdict"]],
                         ["mine", "dense(lens=70)", "value-out-of-bound"])
        self.assertRegex(wrong["findings"][0]["where"], r"^o\[seq=0,token=\d+,head=\d+,d=\d+\]$")
        self.assertRegex(wrong["findings"][0]["failure"], r"^FAIL value-out-of-bound mine o\[.* ratio [^|\n]*$")
        self.assertRegex(wrong["directions"][0], r"^o, in deviations: softmax scale off [1-9]\d")
        self.assertRegex(wrong["repeat"], r"attnspec replay 'dense\(lens=70\)' --kernel mine$")
        self.assertEqual([other["verdict"], other["findings"], other["directions"]], ["not-supported", [], []])
        self.assertIn("dk", other["reason"])
        self.assertEqual(of_all["totals"], "2 cases: 1 not-supported, 1 value-out-of-bound")
        self.assertRegex(of_all["laws_not_held"], "^mine not held to the laws ")
        self.assertNotIn("limits", of_all)

    def test_has_the_hint_apart(self):
        _, said = self.judge(self.mine.wrong_scale, ["dense(lens=4)"])
        self.assertEqual(said[-1]["hint"], "hint: no declared arithmetic explains these findings")

    def test_says_why_it_could_not_run(self):
        code, said = self.judge(self.mine.right, None, level=3)
        self.assertEqual((code, said), (2, [{"error": "level=3: must be in 1 .. 2"}]))


@unittest.skipIf(importlib.util.find_spec("pytest") is None, "there is no pytest")
class Plugin(unittest.TestCase):
    def pytest(self, *options):
        with tempfile.TemporaryDirectory() as folder:
            load(folder)
            environment = {**os.environ, "PYTHONPATH": str(TOP / "verify/python")}
            done = subprocess.run([sys.executable, "-m", "pytest", "-p", "attnspec.pytest_plugin",
                                   "-p", "no:cacheprovider", "mine.py", *options], cwd=folder, env=environment,
                                  capture_output=True, text=True)
        return done.stdout + done.stderr

    def test_collects_each_kernel_of_a_file_once(self):
        listed = self.pytest("--collect-only", "-q", "--attnspec-level", "2").splitlines()
        self.assertEqual(listed[:4], [f"mine.py::{name}[dense-level2]"
                                      for name in ("right", "wrong_scale", "raises", "on_a_gpu")])
        self.assertEqual([line for line in listed[4:] if "::" in line], [])

    def test_reports_a_failure_without_our_internals(self):
        said = self.pytest("-k", "wrong_scale or raises or on_a_gpu", "-rs")
        self.assertRegex(said, r"\nFAIL value-out-of-bound mine\.py:wrong_scale o\[")
        self.assertRegex(said, r"\n  o, in deviations: softmax scale off ")
        self.assertRegex(said, r"\n  repeat: .*attnspec replay 'dense\(.*\)' --kernel mine\.py:wrong_scale\n")
        self.assertIn("the kernel says hello", said)
        self.assertRegex(said, r"\nFAIL call-failed mine\.py:raises call => mine\.py:\d+: RuntimeError: no memory\n")
        self.assertRegex(said, r"Traceback \(most recent call last\):\n  File \".*mine\.py\", line \d+, in raises\n")
        self.assertNotRegex(said, r"judging\.py|bridge\.py|pytest_plugin\.py")
        if importlib.util.find_spec("torch") is None:
            self.assertRegex(said, r"SKIPPED .*tensors 'torch': No module named 'torch'")
        self.assertIn(f"{3 if has_gpu() else 2} failed", said)  # on_a_gpu is skipped where there is none

    def test_passes_a_right_kernel(self):
        self.assertIn("1 passed", self.pytest("-k", "right"))


if __name__ == "__main__":
    unittest.main()
