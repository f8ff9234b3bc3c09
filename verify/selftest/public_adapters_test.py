"""Adapters of public kernels without a GPU: one line where something is missing; conversions keep bits; the runner's
table. ATTNSPEC_PROGRAM: the program."""

import contextlib
import io
import json
import os
import pathlib
import subprocess
import sys
import tempfile
import unittest

TOP = pathlib.Path(__file__).resolve().parents[2]
PUBLIC = TOP / "verify/public"
sys.path[:0] = [str(TOP / "verify/python"), str(PUBLIC)]
os.environ["ATTNSPEC_PUBLIC_DEVICE"] = "cpu"

import numpy as np
import run_all

try:
    import torch
    import common
except ImportError:
    torch = None


class Missing(unittest.TestCase):
    def test_every_adapter_says_in_one_line_what_it_needs(self):
        first = {}
        for kernel in run_all.adapters():
            first.setdefault(kernel.path.name, kernel)
        self.assertGreaterEqual(len(first), 7)
        environment = {k: v for k, v in os.environ.items() if not k.startswith("ATTNSPEC_PUBLIC")}
        environment["ATTNSPEC_PYTHON"] = sys.executable
        program = os.environ["ATTNSPEC_PROGRAM"]
        timeout = [run_all.program_options([program]), "300"]  # PyTorch takes its time on a busy machine
        with tempfile.TemporaryDirectory() as empty:
            for project in ("moba", "flash_moba", "fla", "xunhaolai", "fsa", "mdy666"):
                environment["ATTNSPEC_PUBLIC_" + project.upper()] = empty
            if torch is not None and torch.cuda.is_available():
                environment["CUDA_VISIBLE_DEVICES"] = ""
            elif torch is not None:  # beyond the GPU, to what each file needs of its own
                environment["ATTNSPEC_PUBLIC_DEVICE"] = "cpu"
            for name, kernel in first.items():
                if name == "torch_attention.py" and torch is not None:
                    continue  # it needs nothing else
                done = subprocess.run([program, "check", f"{kernel.path}:{kernel.function}", *timeout], env=environment,
                                      capture_output=True, text=True)
                self.assertEqual((done.returncode, done.stdout), (2, ""), name)
                self.assertEqual(done.stderr.count("\n"), 1, done.stderr)
                self.assertRegex(done.stderr, "^attnspec: kernel '.*': ImportError: (needs|.* needs) ")

    def test_every_adapter_names_options_that_exist(self):
        listed = subprocess.run([os.environ["ATTNSPEC_PROGRAM"], "list", "arithmetic"], capture_output=True, text=True)
        options = {line.split()[0] for line in listed.stdout.splitlines() if line.startswith("  ")}
        for path in PUBLIC.glob("*.py"):
            for text in run_all.literals(path, "arithmetic"):
                for option in filter(None, text.split("+")):
                    self.assertIn(option, options, path.name)


@unittest.skipIf(torch is None, "there is no PyTorch")
class Conversions(unittest.TestCase):
    def strided(self, dtype, shape):
        """A tensor of random bits, NaN and subnormal numbers among them, with gaps between its rows."""
        bits = torch.randint(0, 256, (*shape[:2], (shape[2] + 5) * dtype.itemsize), dtype=torch.uint8,
                             generator=torch.Generator().manual_seed(1))
        return bits.view(dtype)[:, :, : shape[2]]

    def bits(self, tensor):
        return tensor.contiguous().view(torch.uint8).tolist()

    def test_tensors_come_back_bit_for_bit(self):
        for dtype in (torch.bfloat16, torch.float16, torch.float32):
            for shape in ((3, 2, 7), (1, 1, 1), (0, 2, 8)):
                given, back = self.strided(dtype, shape), self.strided(dtype, shape).zero_()
                tensor = common.packed(given)
                self.assertTrue(tensor.is_contiguous())
                common.write(back, tensor)
                self.assertEqual(self.bits(back), self.bits(given))

    def test_copies_and_does_not_alias(self):
        tensor = torch.ones(2, 1, 4)
        common.packed(tensor).zero_()
        self.assertEqual(tensor.sum(), 8)

    def test_rounds_fp32_once_and_nothing_else(self):
        import attnspec
        values = np.random.default_rng(2).standard_normal((50, 2, 3)).astype(np.float32)
        values[0, 0] = 1 + 2**-8, 1 + 3 * 2**-8, np.inf
        for dtype, array in ((torch.bfloat16, np.uint16), (torch.float16, np.float16)):
            ours, theirs = torch.zeros(values.shape, dtype=dtype), np.zeros(values.shape, array)
            common.write(ours, torch.from_numpy(values))
            attnspec.store(theirs, values)
            self.assertEqual(ours.view(torch.int16).tolist(), theirs.view(np.int16).tolist())
        with self.assertRaisesRegex(TypeError, "bfloat16 tensor for an output of torch.float32"):
            common.write(torch.zeros(2), torch.zeros(2, dtype=torch.bfloat16))
        with self.assertRaisesRegex(ValueError, r"shape \(2,\) for an output of shape \(3,\)"):
            common.write(torch.zeros(3), torch.zeros(2))

    def test_padding_is_taken_off_again(self):
        x = torch.randn(5, 6, 3)
        self.assertTrue(torch.equal(common.cut_group(common.pad_group(x, 2, 16), 2, 3), x))
        self.assertEqual(common.pad_group(x, 2, 16).shape, (5, 32, 3))
        self.assertTrue(torch.equal(common.sum_group(common.repeat_heads(x, 2), 2), 2 * x))

    def test_sequences_and_rows_that_see_a_key(self):
        found = common.sequences(torch.tensor([0, 3, 3, 5]), torch.tensor([0, 2, 6, 6]))
        self.assertEqual([(s.num_queries, s.num_keys) for s in found], [(3, 2), (0, 4), (2, 0)])
        self.assertEqual([common.rows_with_keys(s, True) for s in found], [slice(1, 3), slice(3, 3), slice(5, 5)])
        self.assertEqual(common.rows_with_keys(found[0], False), slice(0, 3))
        self.assertEqual(common.without_empty(torch.tensor([0, 0, 3, 3, 5])).tolist(), [0, 3, 5])

    def test_scales_and_lse(self):
        q = torch.randn(4)
        for scale in (0.3, -0.3):
            given, positive = common.positive_scale(q, scale)
            self.assertTrue(torch.equal(given * positive, q * scale))
        self.assertTrue(torch.equal(common.positive_scale(q, 0)[0], torch.zeros(4)))
        lse = torch.tensor([1.5, -torch.inf])
        self.assertTrue(torch.equal(common.lse_from_kernel(common.lse_to_kernel(lse)), lse))

    def test_packs_selections(self):
        offsets, rows = (torch.tensor([0, 81]), torch.tensor([0, 81])), torch.full((81, 1, 3), -1, dtype=torch.int32)
        rows[[0, 40, 80]] = torch.tensor([[[-1, 2, 0]], [[1, -1, -1]], [[0, 1, -1]]]).int()  # blocks of 32
        packed, sees = common.packed_selection(rows, *offsets, 32, 16)
        self.assertEqual(packed[0, 0].tolist(), [0] + [-1] * 5)
        self.assertEqual(packed[40, 0].tolist(), [2] + [-1] * 5)
        self.assertEqual(packed[80, 0].tolist(), [0, 1, 2, 3, -1, -1])
        self.assertEqual([bool(sees[row, 0]) for row in (0, 1, 40, 80)], [True, False, True, True])

    def test_gates_of_moba_become_a_selection(self):
        import moba_calls
        gates, offsets = moba_calls.Gates(), torch.tensor([0, 0, 3, 8])  # blocks of 2: at 0 and 2; at 3, 5 and 7
        mask = torch.zeros(1, 8, 3, dtype=torch.bool)
        mask[0, 2, 0] = mask[0, 7, 1] = mask[0, 7, 2] = True
        mask[0, 3, 2] = mask[0, 5, 0] = True  # a block of the future, and one of another sequence: both are masked
        gates.add(mask, 0, torch.tensor([0, 3, 5]))
        selection = torch.zeros(8, 1, 3, dtype=torch.int32)
        gates.write(selection, offsets, 2)
        self.assertEqual(selection[:, 0].tolist(), [[0, -1, -1], [0, -1, -1], [0, 1, -1], [0, -1, -1], [0, -1, -1],
                                                    [1, -1, -1], [1, -1, -1], [0, 1, 2]])
        gates.parts.clear()
        gates.add(mask[:, 5:, 1:], 5, torch.tensor([3, 5]))  # a part of the call
        gates.write(selection, offsets, 2)
        self.assertEqual(selection[[2, 7], 0].tolist(), [[1, -1, -1], [0, 1, 2]])

    def test_positive_scale_gradients(self):
        dq = torch.randn(4)
        self.assertTrue(torch.equal(common.positive_scale_gradient(dq, -0.3), -dq))
        self.assertTrue(torch.equal(common.positive_scale_gradient(dq, 0), torch.zeros(4)))


FAKES = """
import os
import numpy as np
import attnspec

VERSION = "fake 1"

def attend(q, k, v, o, lse, scale, causal, q_offsets, k_offsets, factor):
    for s in range(len(q_offsets) - 1):
        for h in range(q.shape[1]):
            rows, keys = slice(q_offsets[s], q_offsets[s + 1]), slice(k_offsets[s], k_offsets[s + 1])
            g = h // (q.shape[1] // k.shape[1])
            scores = scale * q[rows, h].astype(float) @ k[keys, g].astype(float).T
            if causal:
                scores += np.triu(np.full(scores.shape, -np.inf), 1 + scores.shape[1] - scores.shape[0])
            with np.errstate(all="ignore"):
                lse[rows, h, 0] = np.logaddexp.reduce(scores, axis=1, initial=-np.inf)
                weights = np.exp(scores - lse[rows, h].astype(float))
            o[rows, h] = factor * (np.where(np.isnan(weights), 0, weights) @ v[keys, g].astype(float))

@attnspec.kernel("dense", dtypes=["fp32"], dk=1)
def right(q, k, v, o, lse, scale, causal, q_offsets, k_offsets, **_):
    attend(q, k, v, o, lse, scale, causal, q_offsets, k_offsets, 1)

@attnspec.kernel("dense", dtypes=["fp32"], dk=1, arithmetic="fp32_out")
def wrong(q, k, v, o, lse, scale, causal, q_offsets, k_offsets, **_):
    attend(q, k, v, o, lse, scale, causal, q_offsets, k_offsets, 1.01)

@attnspec.kernel("dense", dtypes=["fp32"], dk=1)
def crashes(**_):
    os.abort()
"""


class Runner(unittest.TestCase):
    def run_all(self, folder, *arguments):
        out = io.StringIO()
        with contextlib.redirect_stdout(out):
            code = run_all.main(["--folder", str(folder), "--program", os.environ["ATTNSPEC_PROGRAM"], "--seconds", "0",
                                 "--out", str(folder / "results"), *arguments])
        return code, out.getvalue(), (folder / "results/table.md").read_text()

    def test_table_of_fake_kernels(self):
        with tempfile.TemporaryDirectory() as name:
            folder = pathlib.Path(name)
            (folder / "fakes.py").write_text(FAKES)
            (folder / "absent.py").write_text("raise ImportError('needs nothing that exists')\nimport attnspec\n\n\n"
                                              "@attnspec.kernel('dense')\ndef kernel(**_):\n    pass\n")
            (folder / "more.cases").write_text("# two, of one operator\ndense(lens=7,dk=1,dtype=fp32)\nmoba(lens=7)\n")
            code, out, table = self.run_all(folder, "--cases", str(folder / "more.cases"))
            rows = {cells[1]: cells for cells in ([cell.strip() for cell in line.split("|")]
                                                   for line in table.splitlines()[2:])}
            self.assertEqual(code, 1)
            self.assertIn("4/4 ", out)
            right, wrong, crashes, absent = (
                next(cells for key, cells in rows.items() if key.endswith(name))
                for name in ("fakes.py:right", "fakes.py:wrong", "fakes.py:crashes", "absent.py:kernel"))
            self.assertEqual([*right[2:5], *right[8:10]], ["fake 1", "dense", "plain", "pass", ""])
            self.assertGreater(int(right[5]), 3)
            self.assertGreater(int(right[6]), int(right[5]))
            self.assertLess(int(right[7]), 30)  # cases lie inside its limits
            self.assertEqual((wrong[4], wrong[8]), ("fp32_out", "finding"))
            self.assertRegex(wrong[9], r"value-out-of-bound o\[.* `dense\(.*findings")
            self.assertEqual(crashes[8], "finding")
            self.assertIn("SIGABRT", crashes[9])
            self.assertEqual((absent[8], absent[9]), ("not run", "needs nothing that exists"))
            result = json.loads((folder / "results/fakes.wrong.json").read_text())
            self.assertEqual(result["findings"][-1]["stage"], "cases")
            self.assertEqual(result["findings"][-1]["case"], "dense(lens=7,dk=1,dtype=fp32)")
            self.assertTrue(all(line.startswith("FAIL ") for line in result["findings"][0]["lines"]))

    def test_a_kernel_has_a_time_limit(self):
        with tempfile.TemporaryDirectory() as name:
            folder = pathlib.Path(name)
            (folder / "slow.py").write_text("import time\nimport attnspec\n\n\n@attnspec.kernel('dense')\n"
                                            "def kernel(**_):\n    time.sleep(100)\n")
            code, _, table = self.run_all(folder, "--time-limit", "4")
            self.assertEqual(code, 3)
            self.assertIn("| inconclusive | check was not finished; the time limit of 4 s was over |", table)

    def test_table_of_findings_takes_the_last_folder(self):
        import findings_table
        first = {"kernel": "verify/public/a.py:f", "operator": "dense", "version": "1", "arithmetic": "", "cases": 2000,
                 "rows": 3, "not_supported": 4, "undecided": 0, "findings": [], "notes": [], "verdict": "pass"}
        second = {**first, "arithmetic": "scaled_q+tf32", "verdict": "finding", "findings": [{}], "notes": ["late"]}
        with tempfile.TemporaryDirectory() as name:
            for folder, result in (("1", first), ("2", second)):
                (pathlib.Path(name) / folder).mkdir()
                (pathlib.Path(name) / folder / "a.f.json").write_text(json.dumps(result))
                (pathlib.Path(name) / folder / "b.f.json").write_text(json.dumps({**result, "kernel": "b.py:f"}))
            found = findings_table.table(findings_table.results([f"{name}/1", f"{name}/2:a.f,c"])).splitlines()[2:]
        self.assertEqual(found, ["| `a.py:f` | `dense` | 1 | `scaled_q`, `tf32` | 2,000 | 3 | 4 | "
                                 "1 case with findings; late |",
                                 "| `b.py:f` | `dense` | 1 | plain | 2,000 | 3 | 4 | pass |"])

    def test_reads_what_fuzz_prints(self):
        text = ("operator          cases  rows judged  worst R  undecided rows  verdicts\n"
                "dense                30         1234     1.53               0  24 pass, 6 not-supported\n")
        self.assertEqual(run_all.counts_of_fuzz(text, "dense"),
                         {"cases": 30, "rows": 1234, "verdicts": {"pass": 24, "not-supported": 6}})


if __name__ == "__main__":
    unittest.main()
