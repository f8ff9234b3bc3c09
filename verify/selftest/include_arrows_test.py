#!/usr/bin/env python3
"""Tests that includes point down: a file includes files of its own floor and of those below it, and none includes
itself by way of others.

    python3 verify/selftest/include_arrows_test.py

The reference knows nothing of the judge, so that both can be read one after the other; kernels know neither, so that no
formula is shared with what judges them. Tests, benchmarks and examples may include anything.
"""

import collections
import pathlib
import re
import subprocess
import unittest

TOP = pathlib.Path(__file__).resolve().parents[2]

# From the ground up. A file is on the floor of the longest of these paths that it begins with.
FLOORS = (
    ("verify/abi/",),
    ("reference/",),
    ("reference/noise/",),
    ("verify/operators/", "verify/cases/"),
    ("verify/run/",),
    ("verify/model/", "verify/judge/", "verify/laws/"),
    ("verify/kernels.",),
    ("verify/calibration/", "verify/golden/", "verify/diagnosis/", "verify/xray/"),
    ("verify/abi/c_api.cpp",),
    ("fuzz/search/", "fuzz/bench/", "fuzz/power/"),
    ("fuzz/report/",),
    ("fuzz/command_line/",),
)
LEVEL = {path: level for level, floor in enumerate(FLOORS) for path in floor}
NOT_BUILT_IN = ("selftest", "benchmarks", "examples")
SHARED_WITH_KERNELS = {"verify/abi/kernel_abi.h", "reference/problem.hpp"}  # what cuda/ may include of the others
OF_CUDA = {"cuda/device.hpp", "cuda/timing.hpp", "cuda/kernels.hpp"}  # what the others may include of cuda/


def includes():
    """Every source file with the files of the repository that it includes."""
    listed = subprocess.run(["git", "ls-files", "--cached", "--others", "--exclude-standard"], cwd=TOP, text=True,
                            capture_output=True).stdout.splitlines()
    files = {name for name in listed if re.search(r"\.(h|hpp|cpp|cu|cuh)$", name) and (TOP / name).is_file()}
    found = {}
    for name in sorted(files):
        if not set(NOT_BUILT_IN) & set(name.split("/")):
            lines = (TOP / name).read_text(encoding="utf-8").splitlines()
            found[name] = [match[1] for line in lines if (match := re.match(r'#include "([^"]+)"', line))]
    return {name: [other for other in others if other in files] for name, others in found.items()}


def level(name):
    return LEVEL[max((path for path in LEVEL if name.startswith(path)), key=len)]


class IncludeArrows(unittest.TestCase):
    maxDiff = None

    def setUp(self):
        self.includes = includes()
        self.assertGreater(len(self.includes), 300)

    def test_point_down(self):
        wrong = [f"{name} includes {other}" for name, others in self.includes.items() if not name.startswith("cuda/")
                 for other in others if not other.startswith("cuda/") and level(other) > level(name)]
        self.assertEqual([], wrong)

    def test_kernels_share_nothing_with_the_judge(self):
        wrong = [f"{name} includes {other}" for name, others in self.includes.items() for other in others
                 if name.startswith("cuda/") != other.startswith("cuda/")
                 and other not in (SHARED_WITH_KERNELS if name.startswith("cuda/") else OF_CUDA)]
        self.assertEqual([], wrong)

    def test_have_no_circles(self):
        state = collections.defaultdict(int)  # 1: its includes are being visited; 2: they have been
        circles = []

        def visit(name, path):
            if state[name] == 1:
                circles.append(" -> ".join(path[path.index(name):] + [name]))
            if state[name] == 0:
                state[name] = 1
                for other in self.includes.get(name, []):
                    visit(other, path + [name])
                state[name] = 2

        for name in self.includes:
            visit(name, [])
        self.assertEqual([], circles)


if __name__ == "__main__":
    unittest.main()
