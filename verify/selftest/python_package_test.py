"""The Python package as its users install it: in a new environment, without the network, from the sources and the build
that ATTNSPEC_BUILD names; then away from both. And what it says of its fields."""

import os
import pathlib
import pty
import re
import shutil
import subprocess
import sys
import tempfile
import unittest

TOP = pathlib.Path(__file__).resolve().parents[2]
sys.path.insert(0, str(TOP / "verify/python"))

import attnspec
from attnspec import abi, field_table

KERNEL = """
import attnspec

@attnspec.kernel("moba_select", block=1)
def none(selection, **_):
    selection[...] = -1
"""


class Fields(unittest.TestCase):
    def test_every_keyword_and_part_is_described(self):
        for operator in attnspec.OPERATORS:
            for backward in (False, True)[: 1 + (operator in abi.BACKWARD)]:
                described = attnspec.describe(operator, backward)
                self.assertEqual([name for name in described if "." not in name], attnspec.keywords(operator, backward))
                types = dict(abi.FORWARD[operator]._fields_)
                types.update(dict(abi.BACKWARD[operator]._fields_) if backward else {})
                parts = [f"{name}.{part}" for name in attnspec.keywords(operator, backward) if name in types
                         for part, *_ in getattr(types[name], "_fields_", ()) if types[name] is not abi.DLTensor]
                self.assertEqual([name for name in described if "." in name], parts)

    def test_nothing_else_is_described(self):
        self.assertLessEqual(set(field_table.OF_OPERATOR), set(attnspec.OPERATORS))
        for operator, lines in field_table.OF_OPERATOR.items():
            self.assertLessEqual(set(lines), set(attnspec.keywords(operator, operator in abi.BACKWARD)), operator)
        used = {name for operator in attnspec.OPERATORS
                for name in attnspec.keywords(operator, operator in abi.BACKWARD)
                if name not in field_table.OF_OPERATOR.get(operator, {})}
        self.assertEqual(used, set(field_table.EVERYWHERE))


class Build(unittest.TestCase):
    def test_shows_on_the_terminal_how_far_it_is(self):
        with tempfile.TemporaryDirectory() as folder:
            program = pathlib.Path(folder) / "attnspec"
            program.write_text("#!/bin/sh\necho '[1/2] about 3 s left' >&2\n")
            program.chmod(0o755)
            code = (f"import pathlib, sys; sys.path.insert(0, {str(TOP / 'verify/python')!r}); import build_wheel; "
                    f"build_wheel.TOP = pathlib.Path({folder!r}); sys.exit(build_wheel.build_program())")
            process, terminal = pty.fork()
            if process == 0:  # as pip has it: what is printed goes elsewhere
                nowhere = os.open(os.devnull, os.O_RDWR)
                for descriptor in (0, 1, 2):
                    os.dup2(nowhere, descriptor)
                os.execv(sys.executable, [sys.executable, "-c", code])
            self.assertEqual(os.waitpid(process, 0)[1], 0)
            shown = os.read(terminal, 1000)
            os.close(terminal)
        self.assertEqual(shown.split(b"\r\n"), [b"", b"\r  [1/2] about 3 s left", b""])


class Installed(unittest.TestCase):
    @classmethod
    def setUpClass(cls):
        cls.folder = pathlib.Path(tempfile.mkdtemp())
        cls.environment = {name: value for name, value in os.environ.items()
                           if not name.startswith(("ATTNSPEC", "PYTHON"))}
        subprocess.run([sys.executable, "-m", "venv", "--system-site-packages", cls.folder / "venv"], check=True)
        cls.python = cls.folder / "venv/bin/python"
        done = cls.install(ATTNSPEC_BUILD=os.environ["ATTNSPEC_BUILD"])
        assert done.returncode == 0, done.stdout + done.stderr

    @classmethod
    def tearDownClass(cls):
        shutil.rmtree(cls.folder)

    @classmethod
    def install(cls, **environment):
        return subprocess.run([cls.python, "-m", "pip", "install", "--no-index", "--no-deps", TOP / "verify/python"],
                              env={**cls.environment, **environment}, capture_output=True, text=True)

    def run_in_folder(self, *command):
        return subprocess.run(command, cwd=self.folder, env=self.environment, capture_output=True, text=True)

    def test_judges_a_kernel_with_its_own_python(self):
        (self.folder / "mine.py").write_text(KERNEL)
        done = self.run_in_folder(self.python, "-m", "attnspec", "check", "mine.py:none")
        self.assertEqual(done.returncode, 1, done.stderr)
        self.assertRegex(done.stdout, r"FAIL selection-mismatch mine\.py:none selection\[")
        command = re.search(r"\| python -m attnspec (replay) '(.*)' --kernel (\S+)\n", done.stdout)
        self.assertIsNotNone(command, done.stdout[:500])
        again = self.run_in_folder(self.python, "-m", "attnspec", command[1], command[2], "--kernel", command[3])
        self.assertEqual(again.returncode, 1, again.stderr)
        done = self.run_in_folder(self.python, "-c", "import attnspec, mine; attnspec.assert_correct(mine.none)")
        self.assertRegex(done.stderr, r"AssertionError: FAIL selection-mismatch mine\.py:none selection\[[^|]*\n"
                                      r"  repeat: python -m attnspec replay '.*' --kernel mine\.py:none\n")

    def test_has_its_data_and_its_libraries(self):
        done = self.run_in_folder(self.folder / "venv/bin/attnspec", "golden")
        self.assertEqual(done.returncode, 0, done.stderr)
        package = next((self.folder / "venv").glob("lib/python*/site-packages/attnspec"))
        self.assertTrue((package / "share/attnspec/bench/dense_baselines.py").is_file())
        for file in ("bin/attnspec", "libexec/attnspec_worker", "lib/libattnspec_c.so"):
            loaded = subprocess.run(["ldd", package / file], capture_output=True, text=True).stdout
            for name, path in re.findall(r"(\S+) => (/\S+)", loaded):
                if not re.match(r"lib(c|m|dl|rt|pthread)\.so", name):
                    self.assertTrue(path.startswith(str(package)), f"{file}: {name} is {path}")

    def test_what_is_missing_is_one_line(self):
        done = self.install(ATTNSPEC_BUILD="/nowhere")
        self.assertNotEqual(done.returncode, 0)
        self.assertIn("attnspec: ATTNSPEC_BUILD=/nowhere: has no fuzz/attnspec\n", done.stdout + done.stderr)


if __name__ == "__main__":
    unittest.main()
