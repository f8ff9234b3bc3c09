"""The list of mutants fits the tree, and planting them gives what mutation.py says."""

import sys
import unittest
from collections import defaultdict
from pathlib import Path

FOLDER = Path(__file__).parent / "mutation"
TREE = Path(__file__).resolve().parents[2]
sys.path.insert(0, str(FOLDER))
sys.dont_write_bytecode = True

import mutants  # noqa: E402
from mutants import BadList, Mutant  # noqa: E402

TEXT = "int f(int a) {\n  g(a);\n  return a + 1;\n}\n"


def planted(*entries: dict) -> str:
    listed = [Mutant(number, f"m{number}", "f.cpp", **entry) for number, entry in enumerate(entries, 1)]
    return mutants.planted("f.cpp", TEXT, listed)


class List(unittest.TestCase):
    def test_is_long_and_can_be_planted(self):
        listed = mutants.read()
        self.assertGreaterEqual(len(listed), 65)
        by_file = defaultdict(list)
        for mutant in listed:
            by_file[mutant.file].append(mutant)
        for file, own in by_file.items():
            text = mutants.planted(file, (TREE / file).read_text(), own)
            for mutant in own:
                switches = text.count(f"attnspec_mutant({mutant.number})")
                self.assertEqual(switches, max(1, mutant.mutated.count("MUTANT")))


class Planting(unittest.TestCase):
    def test_switches_expressions_statements_and_text(self):
        mutated = planted({"code": "a + 1", "mutated": "a - 1"})
        self.assertIn("return (attnspec_mutant(1) ? (a - 1) : (a + 1));", mutated)
        self.assertIn(
            "{ if (attnspec_mutant(1)) { h(a); } else { g(a); } }",
            planted({"code": "g(a);", "mutated": "h(a);", "kind": "statement"}),
        )
        self.assertIn(
            "return a + (attnspec_mutant(1) ? 2 : 1);",
            planted({"code": "a + 1", "mutated": "a + (MUTANT ? 2 : 1)", "kind": "text"}),
        )

    def test_lets_mutants_share_a_place(self):
        self.assertIn(
            "(attnspec_mutant(2) ? (2) : ((attnspec_mutant(1) ? (1) : (a + 1))))",
            planted({"code": "a + 1", "mutated": "1"}, {"code": "a + 1", "mutated": "2"}),
        )

    def test_refuses_code_that_is_missing_repeated_or_overlaps(self):
        for entries in (
            [{"code": "b + 1", "mutated": "1"}],
            [{"code": "a", "mutated": "b"}],
            [{"code": "return a", "mutated": "return b"}, {"code": "a + 1", "mutated": "1"}],
        ):
            with self.assertRaises(BadList):
                planted(*entries)


if __name__ == "__main__":
    unittest.main()
