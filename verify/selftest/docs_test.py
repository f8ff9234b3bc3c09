#!/usr/bin/env python3
"""Tests the documentation: links, line widths (of Python too), the length of README.md, the index, and the commands on
the pages.

    ATTNSPEC_PROGRAM=build/release/fuzz/attnspec python3 verify/selftest/docs_test.py [PAGE.md...] [TEST...]

A fenced block with the info string `console` holds commands, each on a line that begins with "$ ", and what they print.
Every command runs, in the order of the page, with exit code 0. Where its output is shown, that output says otherwise: 1
with a line "FAIL ...", 2 with a line "attnspec: ...", 3 with a verdict "undecided" or "not-supported". Lines of the
output that begin with FAIL, verdict: or hint: must be printed. The commands of one page share a temporary folder, in
which everything that git tracks at the top of the repository is found. A block that begins ```python mine.py is written
there as mine.py. A block that cannot be run here says why: `console gpu`, network, build, yours or slow.
"""

import concurrent.futures
import os
import pathlib
import re
import subprocess
import sys
import tempfile
import unittest

TOP = pathlib.Path(__file__).resolve().parents[2]
MAX_COLUMNS, MAX_README_LINES = 120, 100
REASONS_NOT_TO_RUN = ("gpu", "network", "build", "yours", "slow")
SECONDS_OF_A_COMMAND = 240  # on a busy machine; 15 on an idle one
WORDS_OF_A_FAILURE = 3  # FAIL, verdict, kernel


def files_of_repository():
    """What git tracks or would track, as paths relative to the repository's top; without git, what is there."""
    listed = subprocess.run(["git", "ls-files", "--cached", "--others", "--exclude-standard"], cwd=TOP, text=True,
                            capture_output=True)
    if listed.returncode == 0:
        return sorted(name for name in listed.stdout.splitlines() if (TOP / name).exists())
    skipped = ("build", "findings")
    return sorted(str(path.relative_to(TOP)) for path in TOP.rglob("*")
                  if path.is_file() and path.relative_to(TOP).parts[0] not in skipped)


FILES = files_of_repository()
PAGES = [name for name in FILES if name.endswith(".md")]


class Block:
    """A fenced block: its info string, its lines, and where it begins (from 1)."""

    def __init__(self, info, lines, line):
        self.info, self.lines, self.line = info.split(), lines, line


def split(page):
    """The lines of a page with those of fenced blocks emptied, and the blocks."""
    prose, blocks, fence = [], [], None
    for number, line in enumerate((TOP / page).read_text(encoding="utf-8").splitlines(), 1):
        mark = re.match(r" {0,3}(`{3,}|~{3,})(.*)", line)
        if fence is None and mark:
            fence, block = mark[1], Block(mark[2], [], number)
        elif fence is not None and mark and mark[1].startswith(fence) and not mark[2].strip():
            blocks.append(block)
            fence = None
        elif fence is not None:
            block.lines.append(line)
        else:
            prose.append(line)
            continue
        prose.append("")
    if fence is not None:
        raise ValueError(f"{page}:{block.line}: the block has no end")
    return prose, blocks


def without_code(text):
    """Text whose inline code is emptied."""
    return re.sub(r"(?<!`)(`+)(?!`).*?(?<!`)\1(?!`)", "``", text, flags=re.DOTALL)


def links(page):
    """The targets of a page's links and images, without titles."""
    text = without_code("\n".join(split(page)[0]))
    inline = re.findall(r"\]\(\s*<?([^)\s>]+)>?(?:\s+\"[^\"]*\")?\s*\)", text)
    return inline + re.findall(r"^ {0,3}\[[^\]]+\]:\s*<?(\S+?)>?(?:\s|$)", text, flags=re.MULTILINE)


def anchors(page):
    """The anchors that GitHub gives to the headings of a page."""
    found, counts = set(), {}
    for line in split(page)[0]:
        found.update(re.findall(r"<a\s+(?:id|name)=\"([^\"]+)\"", line))
        heading = re.match(r" {0,3}#{1,6}\s+(.*?)\s*#*$", line)
        if not heading:
            continue
        text = re.sub(r"!?\[([^\]]*)\]\([^)]*\)", r"\1", heading[1]).lower()
        anchor = re.sub(r"[^\w\- ]", "", text).replace(" ", "-")
        count = counts.get(anchor, 0)
        counts[anchor] = count + 1
        found.add(f"{anchor}-{count}" if count else anchor)
    return found


def target_of(page, link):
    """The path that a relative link of a page names, relative to the top, and its anchor."""
    path, _, anchor = link.partition("#")
    full = os.path.normpath(os.path.join(os.path.dirname(page), path)) if path else page
    return full, anchor


def is_relative(link):
    return not re.match(r"[a-zA-Z][a-zA-Z0-9+.-]*:", link)


def pages_linked_from(page):
    return {target_of(page, link)[0] for link in links(page) if is_relative(link)}


class Command:
    """A command of a page and the output that the page shows."""

    def __init__(self, line, text, shown):
        self.line, self.text, self.shown = line, text, shown

    def expected_code(self):
        if any(line.startswith("FAIL ") for line in self.shown):
            return 1
        if any(line.startswith("attnspec: ") for line in self.shown):
            return 2
        return 3 if any(re.match(r"verdict: (undecided|not-supported)", line) for line in self.shown) else 0

    def what_is_wrong(self, code, output):
        """Empty where the command did what the page says."""
        if code != self.expected_code():
            return f"exit code {code} where the page says {self.expected_code()}"
        for line in self.shown:
            if line.startswith("FAIL "):
                told = " ".join(line.split()[:WORDS_OF_A_FAILURE])
            elif line.startswith(("verdict:", "hint:")):
                told = line.split("...")[0].rstrip()
            else:
                continue
            if told not in output:
                return f"the output has no '{told}'"
        return ""


def commands(block, line):
    """The commands of a console block; line: of its first line."""
    found = []
    continues = False
    for number, text in enumerate(block.lines, line):
        if continues:
            found[-1].text += "\n" + text
        elif text.startswith("$ "):
            found.append(Command(number, text[2:], []))
        elif found:
            found[-1].shown.append(text)
            continue
        else:
            raise ValueError(f"line {number}: a console block begins with a command: '$ ...'")
        continues = text.endswith("\\")
    if not found:
        raise ValueError(f"line {line}: a console block has no command")
    return found


def make_folder(folder, program):
    """What is at the top of the repository, as links, and ./attnspec, which starts the program without building it."""
    for name in {pathlib.PurePath(name).parts[0] for name in FILES} - {"attnspec"}:
        os.symlink(TOP / name, os.path.join(folder, name))
    script = pathlib.Path(folder, "attnspec")
    script.write_text(f"#!/bin/sh\nexec '{program}' \"$@\"\n")
    script.chmod(0o755)


def run_page(page, program):
    """Runs the commands of a page. Returns what went wrong, one text for each command; after a failure the rest of the
    page runs all the same."""
    wrong = []
    with tempfile.TemporaryDirectory() as folder:
        make_folder(folder, program)
        environment = {**os.environ, "OMP_NUM_THREADS": "1", "PYTHONDONTWRITEBYTECODE": "1"}
        for block in split(page)[1]:
            if len(block.info) > 1 and block.info[0] != "console" and re.fullmatch(r"\w+\.\w+", block.info[1]):
                pathlib.Path(folder, block.info[1]).write_text("\n".join(block.lines) + "\n", encoding="utf-8")
            if block.info != ["console"]:
                continue
            for command in commands(block, block.line + 1):
                try:
                    done = subprocess.run(["bash", "-c", command.text], cwd=folder, env=environment, text=True,
                                          stdin=subprocess.DEVNULL, capture_output=True, timeout=SECONDS_OF_A_COMMAND)
                    what = command.what_is_wrong(done.returncode, done.stdout + done.stderr)
                    output = (done.stdout + done.stderr)[-2000:]
                except subprocess.TimeoutExpired:
                    what, output = f"took more than {SECONDS_OF_A_COMMAND} s", ""
                if what:
                    wrong.append(f"{page}:{command.line}: {what}\n$ {command.text}\n{output}")
    return wrong


class Documentation(unittest.TestCase):
    pages = PAGES
    maxDiff = None

    def for_each_page(self, wrong_of):
        """Fails with everything that wrong_of(page) lists."""
        self.assertEqual([], [what for page in self.pages for what in wrong_of(page)])

    def test_links_lead_somewhere(self):
        def wrong(page):
            for link in filter(is_relative, links(page)):
                path, anchor = target_of(page, link)
                if path not in FILES and path != "." and not any(name.startswith(path + "/") for name in FILES):
                    yield f"{page}: ({link}) names no file of the repository"
                elif anchor and path.endswith(".md") and anchor not in anchors(path):
                    yield f"{page}: ({link}) names no heading of {path}"

        self.for_each_page(wrong)

    def test_lines_are_not_too_wide(self):
        self.for_each_page(lambda page: [
            f"{page}:{number}: {len(line)} columns" for number, line in enumerate(split(page)[0], 1)
            if len(line) > MAX_COLUMNS and not line.lstrip().startswith("|")])

    def test_lines_of_python_are_not_too_wide(self):
        for name in FILES:
            if name.endswith(".py"):
                for number, line in enumerate((TOP / name).read_text(encoding="utf-8").splitlines(), 1):
                    self.assertLessEqual(len(line), MAX_COLUMNS, f"{name}:{number}")

    def test_readme_is_short(self):
        if "README.md" in self.pages:
            self.assertLessEqual(len((TOP / "README.md").read_text(encoding="utf-8").splitlines()), MAX_README_LINES)

    def test_every_page_is_in_the_indexes(self):
        """README.md and docs/README.md list the pages of docs/; those of a folder below it are listed by its own
        README.md."""
        for index in ("README.md", "docs/README.md"):
            if index in self.pages:
                linked = pages_linked_from(index) | {index}
                pages = [page for page in PAGES if re.fullmatch(r"docs/([^/]+|[^/]+/README)\.md", page)]
                self.assertEqual([], [page for page in pages if page not in linked], f"not linked from {index}")
        for page in self.pages:
            if re.fullmatch(r"docs/.+/README\.md", page):
                folder = os.path.dirname(page)
                pages = {name for name in PAGES if os.path.dirname(name) == folder} - {page}
                self.assertEqual(set(), pages - pages_linked_from(page), f"not linked from {page}")

    def test_blocks_of_commands_are_marked(self):
        def wrong(page):
            for block in split(page)[1]:
                if block.info[:1] != ["console"]:
                    continue
                if len(block.info) > 2 or any(word not in REASONS_NOT_TO_RUN for word in block.info[1:]):
                    yield f"{page}:{block.line}: '{' '.join(block.info)}': no more than one of {REASONS_NOT_TO_RUN}"
                try:
                    commands(block, block.line + 1)
                except ValueError as error:
                    yield f"{page}: {error}"

        self.for_each_page(wrong)

    def test_commands_run(self):
        program = os.environ.get("ATTNSPEC_PROGRAM")
        if program is None:
            self.skipTest("ATTNSPEC_PROGRAM does not name the program")
        with concurrent.futures.ThreadPoolExecutor(2) as pool:
            wrong = [text for texts in pool.map(lambda page: run_page(page, os.path.abspath(program)), self.pages)
                     for text in texts]
        self.assertEqual("", "\n\n".join(wrong))


class ThisTest(unittest.TestCase):
    """What the rules above take for right and wrong."""

    def test_anchors_are_those_of_github(self):
        with tempfile.NamedTemporaryFile("w", suffix=".md") as file:
            file.write("# Laws: what needs `no` tolerance\n## A\n## A\n### `scaled_q`, `scaled_q_log2`\n"
                       "```\n# no heading\n```\n## [A link](x.md) & more\n")
            file.flush()
            self.assertEqual(anchors(file.name), {"laws-what-needs-no-tolerance", "a", "a-1", "scaled_q-scaled_q_log2",
                                                  "a-link--more"})

    def test_a_command_goes_on_after_a_backslash(self):
        block = Block("console", ["$ ./attnspec replay \\", "  'x'", "FAIL v k o", "$ true"], 1)
        first, second = commands(block, 2)
        self.assertEqual((first.text, first.shown, first.expected_code()),
                         ("./attnspec replay \\\n  'x'", ["FAIL v k o"], 1))
        self.assertEqual((second.text, second.line, second.expected_code()), ("true", 5, 0))

    def test_shown_verdicts_must_be_printed(self):
        command = Command(1, "", ["FAIL hang k call => did not", "..."])
        self.assertEqual(command.what_is_wrong(1, "FAIL hang k call => did not return"), "")
        self.assertIn("FAIL hang k", command.what_is_wrong(1, "FAIL crash k call"))
        self.assertIn("exit code 0", command.what_is_wrong(0, ""))


if __name__ == "__main__":
    named = [argument for argument in sys.argv[1:] if argument.endswith(".md")]
    for name in named:
        if not (TOP / name).is_file():
            sys.exit(f"docs_test.py: {name}: there is no such page")
    if named:
        Documentation.pages = [os.path.relpath((TOP / name).resolve(), TOP) for name in named]
    unittest.main(argv=[argument for argument in sys.argv if argument not in named])
