#!/usr/bin/env python3
"""What check, replay and fuzz write with --report and --json: the JSON fits docs/report.schema.json, and a browser
shows the page without an error. ATTNSPEC_PROGRAM names the program.

    python3 fuzz/selftest/report_files_test.py Files       needs jsonschema
    python3 fuzz/selftest/report_files_test.py Page        skipped where there is no Chromium
"""

import html.parser
import json
import os
import pathlib
import re
import shutil
import subprocess
import sys
import tempfile
import unittest

TOP = pathlib.Path(__file__).resolve().parents[2]
PROGRAM = os.environ["ATTNSPEC_PROGRAM"]
SECTIONS = ["summary", "findings", "detection", "errors", "selection", "laws", "defects", "declared", "timings"]

# Commands that write every part of a report, with their exit codes.
COMMANDS = {
    "passes": (0, ["check", "model:moba", "--operator", "moba_select"]),
    "fails": (1, ["check", "defect:future_token_visible", "model:moba", "--cases", "few.cases"]),
    "tiny": (1, ["replay", "moba(lens=2,dk=1,block=2)", "--kernel", "defect:future_token_visible"]),
    "law": (1, ["replay", "moba_select(lens=3+1,dk=3,block=1,top_k=2,regime=tie,law=packing)", "--kernel",
                "defect:ties_decided_by_neighbours"]),
    "found": (1, ["fuzz", "defect:importance_of_one_tile", "--seed", "7", "--findings", "found"]),
    "phi": (1, ["replay", "nsa_compress(lens=64,dk=4,phi=linear)", "--kernel", "defect:position_gradient_missing"]),
}
FEW_CASES = """moba(lens=100+37,heads=4,kv_heads=2,block=32)
moba(lens=193,heads=2,block=16,dtype=fp32)
moba(lens=40,q_lens=0,block=16)
moba(lens=64,block=16,law=future)
"""


def run(name, directory, options):
    code, arguments = COMMANDS[name]
    (directory / "few.cases").write_text(FEW_CASES)
    ran = subprocess.run([PROGRAM, *arguments, *options], cwd=directory, text=True, capture_output=True)
    if ran.returncode != code:
        raise AssertionError(f"{name}: exit code {ran.returncode} instead of {code}\n{ran.stdout}{ran.stderr}")
    return ran


class Files(unittest.TestCase):
    @classmethod
    def setUpClass(cls):
        import jsonschema
        schema = json.loads((TOP / "docs/report.schema.json").read_text())
        jsonschema.Draft202012Validator.check_schema(schema)

        def close(part):  # so that no member is written that the schema does not have
            for inner in part.values() if isinstance(part, dict) else part if isinstance(part, list) else ():
                close(inner)
            if isinstance(part, dict) and isinstance(part.get("properties"), dict) and part.get("type") == "object":
                part["additionalProperties"] = False

        close(schema)
        cls.validator = jsonschema.Draft202012Validator(schema)

    def setUp(self):
        folder = tempfile.TemporaryDirectory()
        self.addCleanup(folder.cleanup)
        self.directory = pathlib.Path(folder.name)

    def report(self, name):
        run(name, self.directory, ["--json", "report.json"])
        report = json.loads((self.directory / "report.json").read_text())
        errors = [f"{error.json_path}: {error.message[-200:]}" for error in self.validator.iter_errors(report)]
        self.assertEqual([], errors[:5], name)
        return report

    def test_every_json_fits_the_schema(self):
        for name, (code, arguments) in COMMANDS.items():
            report = self.report(name)
            self.assertEqual({0: "pass", 1: "fail"}[code], report["outcome"])
            self.assertEqual(arguments[0], report["command"])
            self.assertTrue(report["is_complete"])
            self.assertEqual(code == 1, len(report["failing"]) > 0)

    def test_a_pass_says_what_it_would_have_seen(self):
        report = self.report("passes")
        kernel, = report["kernels"]
        self.assertEqual([], [defect["defect"] for defect in kernel["planted_defects"] if "caught_by" not in defect])
        selection, = kernel["operators"][0]["outputs"]
        self.assertEqual(0, selection["wrong"])
        self.assertGreater(sum(count for _, count in selection["clearances"]), 100)
        self.assertTrue(all(law["passed"] > 0 for law in kernel["laws"]))

    def test_a_finding_has_its_map_and_numbers(self):
        failing, = self.report("tiny")["failing"]
        self.assertEqual({"o", "lse"}, {map["output"] for map in failing["maps"]} & {"o", "lse"})
        wrong = failing["maps"][0]
        self.assertEqual([2], wrong["lengths"])
        self.assertEqual([{"sequence": 0, "head": 0, "first_token": 0, "last_token": 0}], wrong["wrong"])
        inputs = {tensor["tensor"]: [row["values"] for row in tensor["rows"]] for tensor in failing["inputs"]}
        self.assertEqual([1, 1], [len(row) for row in inputs["v"]])
        o = next(row for row in failing["wrong_rows"] if row["output"] == "o")
        self.assertEqual(inputs["v"][0], o["expected"])  # the first token sees itself alone

    def test_findings_of_a_search_can_be_repeated(self):
        failing, = self.report("found")["failing"]
        self.assertIn("drawn", failing)
        repeated = subprocess.run(failing["repeat"].replace("./attnspec", PROGRAM, 1), shell=True, cwd=self.directory,
                                  capture_output=True)
        self.assertEqual(1, repeated.returncode)

    def test_a_file_that_cannot_be_written_is_told_before_anything_is_judged(self):
        for option in "--report", "--json":
            ran = subprocess.run([PROGRAM, "check", "model:moba", option, "/nowhere/report"], text=True,
                                 capture_output=True)
            self.assertEqual((2, "", f"attnspec: {option} /nowhere/report: cannot be written\n"),
                             (ran.returncode, ran.stdout, ran.stderr))


def find_chromium():
    return next(filter(None, map(shutil.which, ("chromium", "chromium-browser", "google-chrome"))), None)


class Elements(html.parser.HTMLParser):
    """Ids of a page's sections, its links, and elements that are open at its end."""

    VOID = {"meta", "br", "path", "rect"}

    def __init__(self, text):
        super().__init__()
        self.sections, self.links, self.sources, self.open = [], [], [], []
        self.feed(text)

    def handle_starttag(self, tag, attributes):
        attributes = dict(attributes)
        if tag == "section":
            self.sections.append(attributes["id"])
        self.links += [attributes["href"]] if "href" in attributes else []
        self.sources += [attributes["src"]] if "src" in attributes else []
        if tag not in self.VOID:
            self.open.append(tag)

    def handle_startendtag(self, tag, attributes):
        pass

    def handle_endtag(self, tag):
        if tag in self.VOID:
            return
        if not self.open or self.open.pop() != tag:
            raise AssertionError(f"</{tag}> closes no <{tag}>, line {self.getpos()[0]}")


class Page(unittest.TestCase):
    @classmethod
    def setUpClass(cls):
        cls.folder = tempfile.TemporaryDirectory()
        cls.directory = pathlib.Path(cls.folder.name)
        cls.pages = {}
        for name in COMMANDS:
            run(name, cls.directory, ["--report", f"{name}.html"])
            cls.pages[name] = cls.directory / f"{name}.html"

    @classmethod
    def tearDownClass(cls):
        cls.folder.cleanup()

    def chromium(self, page, *options):
        """What the browser prints, after its console had no message."""
        ran = subprocess.run([find_chromium(), "--headless", "--no-sandbox", "--disable-gpu", "--enable-logging=stderr",
                              f"--user-data-dir={self.directory / 'profile'}", *options, page.as_uri()],
                             text=True, capture_output=True, timeout=120)
        self.assertEqual(0, ran.returncode, ran.stderr)
        self.assertEqual([], [line for line in ran.stderr.splitlines() if "CONSOLE" in line], page.name)
        return ran.stdout

    def test_has_every_section_and_needs_no_network(self):
        for name, page in self.pages.items():
            elements = Elements(page.read_text(encoding="utf-8"))
            self.assertEqual(SECTIONS, elements.sections, name)
            self.assertEqual(["#" + section for section in SECTIONS], elements.links)
            self.assertEqual([], elements.sources)
            self.assertEqual([], elements.open)

    def test_a_browser_shows_every_section_without_an_error(self):
        for name, page in self.pages.items():
            self.assertEqual(SECTIONS, re.findall(r'<section id="(\w+)">', self.chromium(page, "--dump-dom")), name)

    def test_a_console_message_would_fail(self):
        bad = self.directory / "bad.html"
        bad.write_text(self.pages["tiny"].read_text(encoding="utf-8").replace("</main>", '<img src="x.png"></main>'))
        with self.assertRaises(AssertionError):
            self.chromium(bad, "--dump-dom")

    def test_fits_a_phone_in_width(self):
        for name, page in self.pages.items():
            measured = self.directory / "measured.html"
            text = page.read_text(encoding="utf-8").replace("default-src 'none'", "script-src 'unsafe-inline'")
            measured.write_text(text + "<script>const page = document.documentElement; document.title = "
                                "page.scrollWidth - page.clientWidth + ' too wide'</script>")
            framed = self.directory / "framed.html"  # a window is never narrower than 500
            framed.write_text(f'<iframe src="{measured.name}" width="400" height="900"></iframe>'
                              "<script>onload = () => document.title = frames[0].document.title</script>")
            told = self.chromium(framed, "--dump-dom", "--allow-file-access-from-files")
            self.assertIn("<title>0 too wide</title>", told, name)

    def test_prints(self):
        pdf = self.directory / "fails.pdf"
        self.chromium(self.pages["fails"], f"--print-to-pdf={pdf}")
        self.assertGreater(pdf.stat().st_size, 10000)


if __name__ == "__main__":
    if "Page" in sys.argv and find_chromium() is None:
        sys.exit("skipped: there is no Chromium")
    unittest.main()
