"""Kernels in Python: correct ones of NSA and MoBA pass, faults are found, bad input gives one line. ATTNSPEC_PROGRAM
names the program."""

import contextlib
import io
import math
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
from attnspec import abi

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


ACTIVATIONS = {
    "relu": lambda x: np.maximum(x, 0),
    "silu": lambda x: x / (1 + np.exp(-x)),
    "gelu": lambda x: x * (1 + np.vectorize(math.erf)(x / math.sqrt(2))) / 2,
}


def nsa_compress(tokens, phi, rows, phi_kind, activation, compress_block, compress_stride, k_offsets, row_offsets, **_):
    """Forward of nsa_compress, equations C5 to C7."""
    def numbers(tensor, g):
        return attnspec.to_float32(tensor)[:, g % tensor.shape[1]].astype(float)

    for s in range(len(k_offsets) - 1):
        for i in range(row_offsets[s + 1] - row_offsets[s]):
            begin = k_offsets[s] + i * compress_stride
            for g in range(tokens.shape[1]):
                x = numbers(tokens, g)[begin : begin + compress_block]
                if phi_kind != "mean":
                    x = (x + numbers(phi.position, g)).ravel()
                if phi_kind == "mean":
                    row = x.mean(axis=0)
                elif phi_kind == "linear":
                    row = x @ numbers(phi.w, g)
                else:
                    hidden = ACTIVATIONS[activation](x @ numbers(phi.w1, g) + numbers(phi.b1, g)[0])
                    row = hidden @ numbers(phi.w2, g) + numbers(phi.b2, g)[0]
                attnspec.store(rows[row_offsets[s] + i, g], row)


def attend(scores, v):
    """o and lse of a query row, and the weights of its keys."""
    if len(scores) == 0:
        return 0, -np.inf, scores
    lse = np.logaddexp.reduce(scores)
    return np.exp(scores - lse) @ v, lse, np.exp(scores - lse)


def important_blocks(weights, t, top_n, initial_blocks, local_blocks, block, compress_block, compress_stride):
    """The blocks that a query at position t selects, from the weights that its group gives to compressed rows."""
    last = t // block
    starts = np.arange(len(weights)) * compress_stride
    overlaps = [np.minimum(starts + compress_block, (j + 1) * block) - np.maximum(starts, j * block)
                for j in range(last + 1)]
    importance = np.array([np.maximum(overlap, 0) @ weights for overlap in overlaps])
    for j in range(last + 1):
        if j < initial_blocks or j > last - local_blocks:
            importance[j] = np.inf
    return np.argsort(-importance, kind="stable")[:top_n]


def nsa(q, compressed, selected, window, gates, phi_k, phi_v, k_compressed, v_compressed, selection, o, scale,
        q_offsets, k_offsets, row_offsets, block, top_n, initial_blocks, local_blocks, window_size, compress_block,
        compress_stride, **sizes):
    """Forward of nsa, one query after the other."""
    for tokens, phi, rows in [(compressed.k, phi_k, k_compressed), (compressed.v, phi_v, v_compressed)]:
        nsa_compress(tokens, phi, rows, compress_block=compress_block, compress_stride=compress_stride,
                     k_offsets=k_offsets, row_offsets=row_offsets, **sizes)
    group = q.shape[1] // selection.shape[1]
    selection[...] = -1
    for s in range(len(q_offsets) - 1):
        keys = slice(k_offsets[s], k_offsets[s + 1])
        for token in range(q_offsets[s], q_offsets[s + 1]):
            t = token - q_offsets[s + 1] + k_offsets[s + 1] - k_offsets[s]
            visible = max(0, (t + 1 - compress_block) // compress_stride + 1)
            rows = slice(row_offsets[s], row_offsets[s] + visible)
            for g in range(selection.shape[1]):
                heads = range(g * group, (g + 1) * group)
                weights = np.zeros(visible)
                for h in heads:
                    query = scale * q[token, h].astype(float)
                    of_rows = k_compressed[rows, g].astype(float) @ query
                    compressed.o[token, h], compressed.lse[token, h], p = attend(of_rows, v_compressed[rows, g])
                    weights = weights + p
                    near = slice(k_offsets[s] + max(0, t - window_size + 1), k_offsets[s] + t + 1)
                    window.o[token, h], window.lse[token, h], _ = attend(
                        window.k[near, g].astype(float) @ query, window.v[near, g].astype(float))
                blocks = important_blocks(weights, t, top_n, initial_blocks, local_blocks, block, compress_block,
                                          compress_stride)
                selection[token, g, : len(blocks)] = blocks
                chosen = [j for j in range(t + 1) if j // block in blocks]
                for h in heads:
                    scores = selected.k[keys, g][chosen].astype(float) @ (scale * q[token, h].astype(float))
                    selected.o[token, h], selected.lse[token, h], _ = attend(
                        scores, selected.v[keys, g][chosen].astype(float))
                    branches = (compressed, selected, window)
                    o[token, h] = sum(gate * b.o[token, h].astype(float) for gate, b in zip(gates[token, h], branches))


class Nsa(unittest.TestCase):
    """Correct kernels, which need every field of the two operators with parameters."""

    def test_passes_a_compression(self):
        cases = [f"nsa_compress(lens=29+3+0,kv_heads=2,dk=12,compress_block=6,compress_stride=3,{phi})"
                 for phi in ("phi=mean", "phi=linear", "phi=linear,shared_phi=1,dtype=fp32",
                             "phi=mlp,hidden=5,activation=relu", "phi=mlp,hidden=5,activation=gelu,dtype=fp32")]
        code, out, _ = outcome(lambda: attnspec.check(nsa_compress, "nsa_compress", cases=cases))
        self.assertEqual(code, 0, out)
        self.assertIn("5 cases: 5 pass", out)

    def test_passes_the_whole(self):
        cases = [f"nsa(lens=70+0+5,q_lens=70+0+3,heads=4,kv_heads=2,dk=12,dv=8,compress_block=6,compress_stride=3,"
                 f"block=12,top_n=3,window=17,dtype=fp32,{phi})"
                 for phi in ("phi=mean", "phi=linear", "phi=mlp,hidden=5,activation=silu")]
        code, out, _ = outcome(lambda: attnspec.check(nsa, "nsa", cases=cases, dtypes=["fp32"]))
        self.assertEqual(code, 0, out)
        self.assertIn("3 cases: 3 pass", out)


def header_structs():
    """The fields of the structs of kernel_abi.h, by the name of the struct without its prefix."""
    text = re.sub(r"/\*.*?\*/", "", (TOP / "verify/abi/kernel_abi.h").read_text(), flags=re.DOTALL)
    structs = {}
    for name, body in re.findall(r"typedef struct Attnspec(\w+) \{(.*?)\} Attnspec\w+;", text, flags=re.DOTALL):
        fields = []
        for declaration in body.split(";"):
            function = re.search(r"\(\*(\w+)\)", declaration)
            fields += [function[1]] if function else re.findall(r"(\w+)(?:\[\d+\])?\s*(?=,|$)",
                                                                             declaration.strip())
        structs[name] = [field for field in fields if field]
    return structs


class Keywords(unittest.TestCase):
    def test_no_two_fields_have_the_same_keyword(self):
        for operator in attnspec.OPERATORS:
            for backward in (False, True)[: 1 + (operator in abi.BACKWARD)]:
                names = attnspec.keywords(operator, backward)
                self.assertEqual(sorted(names), sorted(set(names)), operator)

    def test_are_what_a_function_gets(self):
        seen = {}
        for operator in attnspec.OPERATORS:
            declared = {}
            if operator in abi.BACKWARD:
                declared = {"backward": lambda **fields: seen.update({"backward": list(fields)})}
            outcome(lambda: attnspec.check(lambda **fields: fill(fields, seen), operator, cases=[f"{operator}(lens=9)"],
                                           name="f", **declared))
            self.assertEqual(seen["forward"], attnspec.keywords(operator))
            if declared:
                self.assertEqual(seen["backward"], attnspec.keywords(operator, True))

    def test_are_the_fields_of_the_header(self):
        header = header_structs()
        pascal = {op: op.title().replace("_", "") for op in attnspec.OPERATORS}
        structs = {"Call": abi.Call, "NsaSizes": abi.Sizes, "Phi": abi.Phi, "Branch": abi.Branch,
                   "BranchGradients": abi.BranchGradients, "Limit": abi.Limit, "Limits": abi.Limits,
                   "Kernel": abi.Kernel}
        structs.update({pascal[op]: struct for op, struct in abi.FORWARD.items()})
        structs.update({pascal[op] + "Backward": struct for op, struct in abi.BACKWARD.items()})
        self.assertEqual(sorted(structs), sorted(header))
        for name, struct in structs.items():
            self.assertEqual([field for field, _ in struct._fields_], header[name], name)

    def test_findings_name_outputs_by_them(self):
        for operator in attnspec.OPERATORS:
            fields = attnspec.keywords(operator, operator in abi.BACKWARD)
            types = dict(abi.FORWARD[operator]._fields_)
            types.update(dict(abi.BACKWARD[operator]._fields_) if operator in abi.BACKWARD else {})
            for phi in ("", ",phi=linear", ",phi=mlp") if operator in ("nsa", "nsa_compress") else ("",):
                done = run("replay", f"{operator}(lens=70{phi})", "--kernel",
                           "model:nsa" if operator.startswith("nsa") or operator == "window" else "model:moba")
                outputs = re.findall(r"^  ([a-z]\S*) +\d+ ", done.stdout, flags=re.MULTILINE)
                self.assertGreater(len(outputs), 0, done.stdout)
                for output in outputs:
                    field, _, part = output.partition(".")
                    self.assertIn(field, fields, output)
                    parts = [name for name, _ in types[field]._fields_] if part else [""]
                    self.assertIn(part, parts, output)


def fill(fields, seen):
    """A forward that notes its keywords, and writes what lets a backward follow: finite numbers, and blocks."""
    seen["forward"] = list(fields)
    parts = [list(vars(value).values()) if hasattr(value, "__dict__") else [value] for value in fields.values()]
    for tensor in sum(parts, []):
        if isinstance(tensor, np.ndarray) and tensor.ndim == 3:
            tensor[...] = 0
    if isinstance(fields.get("selection"), np.ndarray):
        fields["selection"][..., 1:] = -1


class Absent(unittest.TestCase):
    """What is absent is None, and what has no tokens is an array."""

    PARTS = {"mean": [], "linear": ["position", "w"], "mlp": ["position", "w1", "b1", "w2", "b2"]}

    def check_parts(self, phi, kind, features, hidden):
        shapes = {"position": (8, 2, features), "w": (8 * features, 2, features), "w1": (8 * features, 2, hidden),
                  "b1": (1, 2, hidden), "w2": (hidden, 2, features), "b2": (1, 2, features)}
        for name, tensor in vars(phi).items():
            if name in self.PARTS[kind]:
                self.assertEqual(tensor.shape, shapes[name], f"{kind} {name}")
            else:
                self.assertIsNone(tensor, f"{kind} {name}")

    def test_parameters_that_a_kind_of_phi_lacks(self):
        for kind in self.PARTS:
            seen, later = {}, {}
            sizes = f"kv_heads=2,compress_block=8,compress_stride=4,hidden=5,phi={kind}"
            if kind != "mlp":
                sizes = sizes.replace("hidden=5,", "")
            outcome(lambda: attnspec.check(
                lambda **fields: seen.update(fields) or nsa_compress(**fields), "nsa_compress",
                backward=lambda **fields: later.update(fields), cases=[f"nsa_compress(lens=3,dk=6,{sizes})"], name="f"))
            self.assertEqual(seen["phi_kind"], kind)
            self.check_parts(seen["phi"], kind, 6, 5)
            self.check_parts(later["d_phi"], kind, 6, 5)
            self.assertEqual(seen["rows"].shape, (0, 2, 6))
            self.assertEqual(later["d_tokens"].shape, (3, 2, 6))
            outcome(lambda: attnspec.check(
                lambda **fields: seen.update(fields) or nsa(**fields), "nsa",
                backward=lambda **fields: later.update(fields), name="f",
                cases=[f"nsa(lens=7+0,heads=2,dk=6,dv=4,dtype=fp32,{sizes})"]))
            for name, features in [("phi_k", 6), ("phi_v", 4)]:
                self.check_parts(seen[name], kind, features, 5)
                self.check_parts(later["d_" + name], kind, features, 5)
            self.assertIsNone(later["o"])
            self.assertEqual(seen["window_size"], default_window())
            self.assertEqual(seen["window"].k.shape, (7, 2, 6))
            self.assertEqual(seen["k_compressed"].shape, (0, 2, 6))
            self.assertEqual(later["dv_compressed"].shape, (0, 2, 4))
            self.assertEqual(later["d_compressed"].dk.shape, (7, 2, 6))

    def test_a_call_without_tokens(self):
        seen = {}
        outcome(lambda: attnspec.check(lambda **fields: seen.update(fields), "dense", name="f",
                                       cases=["dense(lens=0,heads=4,kv_heads=2,dk=6,dv=5)"]))
        for name, shape in [("q", (0, 4, 6)), ("k", (0, 2, 6)), ("v", (0, 2, 5)), ("o", (0, 4, 5)), ("lse", (0, 4, 1))]:
            self.assertEqual(seen[name].shape, shape)


def default_window():
    """The window of a case that says nothing of it."""
    seen = {}
    outcome(lambda: attnspec.check(lambda **fields: seen.update(fields), "window", cases=["window(lens=9)"], name="f"))
    return seen["window_size"]


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

    def test_is_held_to_the_laws_it_promises(self):
        cases = [f"dense(lens=9+3,dtype=fp32,law={law})" for law in ("repeat", "packing")]
        code, out, _ = outcome(lambda: attnspec.check(dense, "dense", cases=cases))
        self.assertEqual(code, 0, out)
        self.assertIn("1 pass, 1 law case needs batch-invariant", out)
        self.assertIn("dense not held to the laws future, heads, strides, packing, decode: it does not promise to be "
                      "row-independent\n", out)
        self.assertEqual(attnspec.Declaration("dense", equal_bits="batch-invariant").promises, 15)
        self.assertEqual(attnspec.Declaration("moba", equal_bits="none", exports_selection=False).promises, 0)
        self.assertEqual(attnspec.Declaration("dense", unordered_backward=True).promises, 19)
        with self.assertRaisesRegex(ValueError, "equal_bits 'exact': is none of none, deterministic"):
            attnspec.Declaration("dense", equal_bits="exact")

    def test_finds_outputs_that_were_not_written(self):
        code, out, _ = outcome(lambda: attnspec.check(lambda **_: None, "dense", cases=["dense(lens=7)"]))
        self.assertEqual(code, 1)

    def test_respects_limits(self):
        code, out, _ = outcome(lambda: attnspec.check(dense, "dense", dtypes=["fp32"], dk=32, cases=["dense(lens=7)"]))
        self.assertEqual(code, 3)
        self.assertIn("not-supported", out)

    def test_may_keep_lse_to_itself(self):
        def keeps_lse(q, o, lse, **fields):
            self.assertIsNone(lse)
            dense(q=q, o=o, lse=np.empty((*q.shape[:2], 1), np.float32), **fields)

        code, out, _ = outcome(lambda: attnspec.check(keeps_lse, "dense", exports_lse=False, details=True,
                                                      cases=["dense(lens=9,dtype=fp32)"]))
        self.assertEqual(code, 0, out)
        self.assertIn("keeps_lse: lse was not judged: the kernel keeps it to itself\n", out)
        self.assertNotRegex(out, "(?m)^  lse ")

    def test_declares_every_limit(self):
        for declared, case, reason in [
            ({"dk": {64, 128}}, "dense(dk=32)", "dk 32 is none of 64, 128"),
            ({"group": {"smallest": 16, "power_of_two": True}}, "dense(heads=8,kv_heads=1)",
             "group 8 is below its limit 16"),
            ({"keys": (0, 64)}, "dense(lens=65)", "lens 65 is not a multiple of 64"),
            ({"queries": 64}, "dense(lens=65)", "q_lens 65 is above its limit 64"),
            ({"sequences": 1}, "dense(lens=1+1)", "sequences 2 is above its limit 1"),
            ({"only_equal_lengths": True}, "dense(lens=2,q_lens=1)", "q_lens 1: it needs as many queries as keys"),
            ({"only_equal_lengths": "causal"}, "dense(lens=2,q_lens=1)", "q_lens 1: it needs as many queries as keys"),
            ({"no_empty_sequences": True}, "dense(lens=2+0)", "lens 0: it needs keys in every sequence"),
            ({"no_rows_without_keys": True}, "dense(lens=2,q_lens=3)",
             "q_lens 3: it needs a key for every query, and there are 2"),
            ({"scale": "positive"}, "dense(lens=2,scale=0)", "scale 0 is not above 0"),
            ({"scale": "default"}, "dense(lens=2,scale=1)", "scale 1 is not the default one"),
        ]:
            _, out, _ = outcome(lambda: attnspec.check(dense, "dense", cases=[case], details=True, **declared))
            self.assertIn(f"not-supported ({reason})", out)
        for operator, declared, case, reason in [
            ("selected", {"selection_per": "kv_head"}, "selected()", "selection head is none of its own"),
            ("selected", {"selection_order": "packed"}, "selected()", "selection_order any is not packed"),
            ("nsa", {"forced_blocks": (0, 1)}, "nsa()", "forced blocks 1 and 2 are not 0 and 1"),
            ("nsa_compress", {"only_equal_blocks": True}, "nsa_compress()",
             "it needs compress_block = compress_stride = block, not 32, 16 and 32"),
        ]:
            _, out, _ = outcome(lambda: attnspec.check(dense, operator, cases=[case], details=True, **declared))
            self.assertIn(f"not-supported ({reason})", out)

    def test_refuses_limits_that_are_wrong(self):
        for declared, message in [
            ({"dk": set()}, r"dk \[\]: is no set of 1 to 8 numbers above 0"),
            ({"dk": {"least": 3}}, "dk: limit 'least': is none of smallest, largest, multiple_of, power_of_two"),
            ({"scale": "negative"}, "scale 'negative': is none of any, positive, default"),
            ({"only_equal_lengths": "always"}, "only_equal_lengths 'always': is none of none, all, causal, backward"),
        ]:
            with self.assertRaisesRegex(ValueError, message):
                attnspec.Declaration("dense", **declared)

    def test_gives_every_operator_its_fields(self):
        seen = {}

        def record(**fields):
            seen.update(fields)

        for operator in attnspec.OPERATORS:
            seen.clear()
            declared = {"backward": record} if operator in abi.BACKWARD else {}
            outcome(lambda: attnspec.check(record, operator, cases=[f"{operator}(lens=9)"], **declared))
            for name in ("num_sequences", "scale", "causal", "k_offsets"):
                self.assertIn(name, seen, operator)
            self.assertEqual(list(seen["k_offsets"]), [0, 9])
            if operator == "nsa":
                self.assertEqual(seen["window"].k.shape, (9, 1, 64))
                self.assertEqual(seen["phi_kind"], "mean")
                self.assertEqual(seen["gates"].shape, (9, 1, 3))
            if operator == "dsa_select":
                self.assertEqual((seen["w"].shape, str(seen["w"].dtype)), ((9, 1, 1), "float32"))

    def test_says_where_an_exception_was_raised(self):
        def fails(**_):
            raise RuntimeError("no\nmemory")  # a line of this file

        def fails_elsewhere(**_):
            np.linalg.inv(np.zeros((2, 2)))  # a line of this file that calls another

        def lacks_a_keyword(alpha):
            pass

        source = pathlib.Path(__file__).read_text().splitlines()
        for fn, mark, message in [
            (fails, '"no\\nmemory")  # a line', "RuntimeError: no memory"),
            (fails_elsewhere, "# a line of this file that", "LinAlgError: Singular matrix"),
            (lacks_a_keyword, "def lacks_a_keyword", r"TypeError: .*unexpected keyword argument '\w+'"),
        ]:
            line = 1 + next(i for i, text in enumerate(source) if mark in text)
            code, out, err = outcome(lambda: attnspec.check(fn, "dense", cases=["dense(lens=7)", "dense(lens=8)"]))
            self.assertEqual(code, 1)
            place = rf"python_kernels_test\.py:{line}"
            self.assertRegex(out, rf"^FAIL call-failed {fn.__name__} call => {place}: {message} \| ")
            self.assertEqual(err.count("Traceback (most recent call last)"), 1, err)

    def test_cuts_a_long_message(self):
        def fails(**_):
            raise ValueError("\N{GREEK SMALL LETTER ALPHA}" * 6000)

        _, out, err = outcome(lambda: attnspec.check(fails, "dense", cases=["dense(lens=7)"]))
        detail = out[out.index("=> ") + 3 : out.index(" | ")]
        self.assertTrue(280 < len(detail.encode()) <= 300, detail)
        self.assertTrue(detail.endswith("\N{GREEK SMALL LETTER ALPHA}..."), detail)
        self.assertIn("\N{GREEK SMALL LETTER ALPHA}" * 6000, err)

    def test_checks_all_kernels_of_a_file(self):
        with tempfile.TemporaryDirectory() as folder:
            file = pathlib.Path(folder) / "two.py"
            file.write_text("import attnspec\n\n@attnspec.kernel('moba_select', dk=1)\ndef second(**_):\n    pass\n\n"
                            "@attnspec.kernel('moba_select', dk=1)\ndef first(**_):\n    pass\n\nagain = second\n")
            done = run("check", str(file))
        self.assertEqual(done.returncode, 1, done.stdout)  # neither writes anything
        self.assertIn(f"{file} has 2 kernels: {file}:second, {file}:first\n", done.stderr)
        for name in ("second", "first"):
            self.assertRegex(done.stdout, rf"(?m)^{re.escape(str(file))}:{name} +moba_select +\d+ ")
            self.assertRegex(done.stdout, rf"(?m)^{re.escape(str(file))}:{name} limits: \d+ % of the cases of level 1 "
                                          r"lie inside; the others were moved inside \(dk <= 1\)$")
        self.assertNotIn("not-supported", done.stdout)
        self.assertNotIn("again", done.stdout)

    def test_says_in_one_line_what_is_wrong(self):
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
            for name, timeout, failure in [
                ("crashes", 60, "crash {0} call => ended by signal SIGSEGV in the forward call"),
                ("ends", 60, "crash {0} call => ended with exit code 0 in the forward call"),
                ("hangs", 10, "hang {0} call => did not return from the forward call within 10 s"),
                ("raises", 60, "call-failed {0} call => bad.py:20: RuntimeError: no memory"),
            ]:
                kernel = f"{file}:{name}"
                done = run("replay", "dense(lens=7)", "--kernel", kernel, "--timeout", str(timeout))
                self.assertEqual(done.returncode, 1, done.stderr)
                self.assertIn(f"\nFAIL {failure.format(kernel)} | ", done.stdout)
                self.assertNotIn("never among", done.stdout)

    def test_prints_a_traceback_once(self):
        with tempfile.TemporaryDirectory() as folder:
            (pathlib.Path(folder) / "helper.py").write_text("def fail(text):\n    raise ValueError(text)\n")
            file, cases = pathlib.Path(folder) / "bad.py", pathlib.Path(folder) / "some.cases"
            file.write_text("import attnspec, helper\n\n@attnspec.kernel('dense')\ndef f(q, **_):\n"
                            "    if len(q) > 8:\n        raise KeyError('q')\n    helper.fail(f'{len(q)} rows')\n")
            cases.write_text("dense(lens=6)\ndense(lens=7)\ndense(lens=8)\ndense(lens=9)\n")
            done = run("replay", str(cases), "--kernel", f"{file}:f")
        self.assertEqual(done.returncode, 1, done.stderr)
        for rows in (6, 7, 8):
            self.assertIn(f"call => helper.py:2: ValueError: {rows} rows | ", done.stdout)
        self.assertIn("call => bad.py:6: KeyError: 'q' | ", done.stdout)
        self.assertEqual(done.stderr.count("Traceback (most recent call last)"), 2, done.stderr)
        self.assertIn(f"{file}:f: helper.py:2: ValueError: 6 rows\nTraceback", done.stderr)

    def test_files_beside_a_kernel_hide_nothing(self):
        with tempfile.TemporaryDirectory() as folder:
            for name in ("random", "types", "tempfile"):
                (pathlib.Path(folder) / f"{name}.py").write_text("raise RuntimeError('the wrong file')\n")
            (pathlib.Path(folder) / "mine.py").write_text("answer = 42\n")
            file = pathlib.Path(folder) / "kernel.py"
            file.write_text("import random, tempfile, types, mine\nimport attnspec\nassert mine.answer == 42\n"
                            "@attnspec.kernel('dense')\ndef f(**_):\n    raise ValueError(random.randint(3, 3))\n")
            done = run("replay", "dense(lens=7)", "--kernel", f"{file}:f")
        self.assertIn("call => kernel.py:6: ValueError: 3 | ", done.stdout, done.stderr)

    def test_takes_a_file_with_one_kernel(self):
        done = run("replay", CASES[0], "--kernel", EXAMPLE.replace(":moba", ""))
        self.assertEqual((done.returncode, done.stderr), (0, ""), done.stdout)
        with tempfile.TemporaryDirectory() as folder:
            file = pathlib.Path(folder) / "bad.py"
            file.write_text(BAD_KERNELS + "\nagain = hangs\n")
            done = run("replay", CASES[0], "--kernel", str(file))
            names = ", ".join(f"{file}:{name}" for name in re.findall(r"def (\w+)", BAD_KERNELS))
            self.assertEqual((done.returncode, done.stdout), (2, ""))
            self.assertEqual(done.stderr,
                             f"attnspec: kernel '{file}': the file has several kernels, name one: {names}\n")
            file.write_text("from attnspec import kernel\n")
            done = run("check", str(file))
            self.assertEqual(done.stderr, f"attnspec: kernel '{file}': the file has no function that is decorated with "
                                          "attnspec.kernel\n")
        done = run("check", "nowhere.py")
        self.assertEqual(done.stderr, "attnspec: kernel 'nowhere.py': there is no such file\n")

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


class Store(unittest.TestCase):
    def stored(self, values, dtype):
        array = np.zeros(np.shape(values), dtype)
        attnspec.store(array, values)
        return attnspec.to_float32(array).astype(float)

    def test_rounds_once(self):
        tiny = 2.0**-40  # lost in float32, beside 1
        for dtype, half in [(np.uint16, 2.0**-8), (np.float16, 2.0**-11)]:
            one = self.stored([1 + half + tiny, 1 + half, 1 + half - tiny, -1 - half - tiny, 1 + 3 * half - tiny,
                               1 + 3 * half, 1 + 3 * half + tiny], dtype)
            self.assertEqual(list(one), [1 + 2 * half, 1, 1, -1 - 2 * half, 1 + 2 * half, 1 + 4 * half, 1 + 4 * half])

    def test_rounds_every_number_to_the_nearest(self):
        every = np.arange(0x7C00 + 1, dtype=np.uint16)  # fp16: what is finite and not negative, and infinity
        formats = [(np.float16, every.view(np.float16).astype(float), 65536)]
        every = np.arange(0x7F80 + 1, dtype=np.uint16)
        formats.append((np.uint16, attnspec.to_float32(every).astype(float), 2.0**128))
        for dtype, numbers, end in formats:
            exact = np.append(numbers[:-1], end)
            halves = exact[:-1] + np.diff(exact) / 2
            for values, expected in [
                (exact[:-1], numbers[:-1]),
                (halves, np.where(np.arange(len(halves)) % 2 == 0, numbers[:-1], numbers[1:])),
                (np.nextafter(halves, 0), numbers[:-1]),
                (np.nextafter(halves, np.inf), numbers[1:]),
            ]:
                np.testing.assert_array_equal(self.stored(values, dtype), expected)
                np.testing.assert_array_equal(self.stored(-values, dtype), -expected)

    def test_takes_numbers_of_any_kind_and_shape(self):
        self.assertEqual(list(self.stored(np.array([1.5, 2], np.float16), np.uint16)), [1.5, 2])
        self.assertEqual(list(self.stored(np.arange(6).reshape(2, 3).T[1], np.uint16)), [1, 4])
        self.assertEqual(list(self.stored([1e300, -1e300, 1e-300], np.uint16)), [np.inf, -np.inf, 0])
        np.testing.assert_array_equal(self.stored([np.nan, np.inf], np.uint16), [np.nan, np.inf])
        array = np.zeros((2, 3), np.uint16)
        attnspec.store(array[:, 1], 7)
        attnspec.store(array[0, 2:], np.float64(3))
        self.assertEqual(attnspec.to_float32(array).tolist(), [[0, 7, 3], [0, 7, 0]])


class Bf16(unittest.TestCase):
    def test_rounds_to_nearest_with_ties_to_even(self):
        bf16 = np.zeros(4, np.uint16)
        attnspec.store(bf16, np.array([1 + 2**-8, 1 + 3 * 2**-8, -np.inf, np.nan]))
        back = attnspec.to_float32(bf16)
        np.testing.assert_array_equal(back, np.array([1, 1 + 2**-6, -np.inf, np.nan], np.float32))


if __name__ == "__main__":
    unittest.main()
