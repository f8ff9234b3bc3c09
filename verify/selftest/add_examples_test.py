#!/usr/bin/env python3
"""Tests the pages docs/add_*.md: the code that they show is compiled, and it works.

    python3 verify/selftest/add_examples_test.py Pages
    ATTNSPEC_ADD_EXAMPLES=FOLDER python3 verify/selftest/add_examples_test.py Build

Pages: every ```diff block of a page is a part of verify/examples/add/NAME.patch, every ```cpp block a part of a file
there, every patch applies to this tree, and a page has at most eight steps. Build: a copy of the tree with the patches
of COMPILED is built in FOLDER, and the commands in the ```console build blocks of their pages do there what the page
shows.
"""

import filecmp
import os
import pathlib
import re
import shutil
import subprocess
import sys
import tempfile
import unittest

TOP = pathlib.Path(__file__).resolve().parents[2]
EXAMPLES = TOP / "verify/examples/add"
PAGES = {"operator": "add_an_operator", "kernel": "add_a_kernel", "law": "add_a_law",
         "input_pattern": "add_an_input_pattern", "defect": "add_a_defect"}
COMPILED = ("operator", "law", "input_pattern", "defect")  # a kernel is compiled by cuda/selftest
MAX_STEPS = 8


def page(name):
    return (TOP / "docs" / f"{PAGES[name]}.md").read_text()


def blocks(name, info):
    """The fenced blocks of a page with an info string."""
    return re.findall(rf"^```{info}\n(.*?)^```$", page(name), flags=re.MULTILINE | re.DOTALL)


def without_hunk_headers(text):
    """A patch without what stands between its lines: places, and how many lines a hunk has."""
    lines = [line for line in text.splitlines() if not re.match(r"@@ |diff --git |index |--- |\+\+\+ |new file ", line)]
    return "\n" + "\n".join(lines) + "\n"


class Pages(unittest.TestCase):
    def test_have_at_most_eight_steps(self):
        for name in PAGES:
            steps = re.findall(r"^## (\d+)\. ", page(name), flags=re.MULTILINE)
            self.assertEqual(steps, [str(i + 1) for i in range(len(steps))], name)
            self.assertTrue(1 <= len(steps) <= MAX_STEPS, f"{name}: {len(steps)} steps")

    def test_show_parts_of_the_patches(self):
        for name in PAGES:
            shown = blocks(name, "diff")
            patch = without_hunk_headers((EXAMPLES / f"{name}.patch").read_text())
            self.assertTrue(shown, name)
            for block in shown:
                self.assertIn("\n" + block, patch, f"{PAGES[name]}.md")

    def test_show_parts_of_the_files(self):
        files = [file.read_text() for file in EXAMPLES.glob("*.cu")]
        for name in PAGES:
            for block in blocks(name, "cpp"):
                self.assertTrue(any(block in file for file in files), f"{PAGES[name]}.md:\n{block}")

    def test_patches_apply(self):
        for name in PAGES:
            done = subprocess.run(["git", "apply", "--check", str(EXAMPLES / f"{name}.patch")], cwd=TOP, text=True,
                                  capture_output=True)
            self.assertEqual(done.returncode, 0, f"{name}.patch no longer applies, and {PAGES[name]}.md shows it:\n"
                                                 f"{done.stderr}")


def copy_with_patches(to):
    listed = subprocess.run(["git", "ls-files", "--cached", "--others", "--exclude-standard"], cwd=TOP, text=True,
                            capture_output=True, check=True).stdout.splitlines()
    for name in listed:
        if (TOP / name).is_file():
            (to / name).parent.mkdir(parents=True, exist_ok=True)
            shutil.copy2(TOP / name, to / name)
    for name in COMPILED:
        subprocess.run(["git", "apply", str(EXAMPLES / f"{name}.patch")], cwd=to, check=True)


def update(folder, source):
    """Makes a folder equal to another; files that are equal keep their time, so that they are not built again."""
    for path in [p for p in folder.rglob("*") if p.is_file() and not (source / p.relative_to(folder)).is_file()]:
        path.unlink()
    for path in [p for p in source.rglob("*") if p.is_file()]:
        target = folder / path.relative_to(source)
        target.parent.mkdir(parents=True, exist_ok=True)
        if not target.exists() or not filecmp.cmp(path, target, shallow=False):
            shutil.copy(path, target)


def commands(name):
    """The commands of a page that need its example, each with the output that is shown."""
    for block in blocks(name, "console build"):
        for part in re.split(r"^\$ ", block, flags=re.MULTILINE)[1:]:
            command, _, shown = re.sub(r" \\\n +", " ", part).partition("\n")
            if command.startswith("./attnspec ") and "selftest" not in command:
                yield command, [line for line in shown.splitlines() if line != "..."]


class Build(unittest.TestCase):
    def test_examples_work(self):
        folder = pathlib.Path(os.environ["ATTNSPEC_ADD_EXAMPLES"])
        with tempfile.TemporaryDirectory() as temporary:
            copy = pathlib.Path(temporary) / "tree"
            copy_with_patches(copy)
            update(folder / "tree", copy)
        build = folder / "build"
        options = ["-DATTNSPEC_TESTS=OFF", "-DATTNSPEC_SIMULATOR=OFF", "-DCMAKE_BUILD_TYPE=Release",
                   "-DCMAKE_CXX_FLAGS_RELEASE=-O1"]
        for command in (["cmake", "-S", folder / "tree", "-B", build, "-G", "Ninja", *options],
                        ["ninja", "-C", build, "attnspec"]):
            done = subprocess.run(list(map(str, command)), text=True, capture_output=True)
            self.assertEqual(done.returncode, 0, done.stdout[-6000:] + done.stderr[-2000:])
        for name in COMPILED:
            ran = 0
            for command, shown in commands(name):
                with self.subTest(command=command):
                    done = subprocess.run(command.replace("./attnspec", str(build / "fuzz/attnspec")), shell=True,
                                          cwd=folder / "tree", text=True, capture_output=True)
                    code = 1 if any(line.startswith("FAIL ") for line in shown) else 0
                    self.assertEqual(done.returncode, code, done.stdout + done.stderr)
                    for line in shown:
                        self.assertIn(line.split("...")[0].rstrip(), done.stdout, command)
                ran += 1
            self.assertGreater(ran, 0, name)


if __name__ == "__main__":
    unittest.main(verbosity=2, argv=[sys.argv[0], *sys.argv[1:]])
