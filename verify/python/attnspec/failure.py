"""The text of a failed test, from what the judge says with details."""

from __future__ import annotations

import re

MAX_FAILURES = 3
"""Failing cases that are shown; the rest are counted."""


def summary(said: str) -> str:
    """The judge's last line of counts: "63 cases: 61 pass, 2 value-out-of-bound"."""
    found = re.findall(r"^\d+ cases: .*$", said, flags=re.MULTILINE)
    return found[-1] if found else "nothing was judged"


def failure_text(said: str, what: str, function: str | None) -> str:
    """Of the first failing cases: the failure line, the line on what all errors of an output have in common, and the
    command that repeats the case. function: how check is called with a function that the program cannot find, as
    "name, 'dense'"."""
    failures = list(blocks(said))
    lines = []
    for block in failures[:MAX_FAILURES]:
        failure, _, command = block[-1].rpartition(" | ")
        lines += [failure, *common(block), f"  repeat: {repeat(command, function)}"]
    if len(failures) > MAX_FAILURES:
        lines.append(f"... and {len(failures) - MAX_FAILURES} more cases with findings")
    if not failures:
        lines.append("nothing is wrong, but the judgement is inconclusive: rows are undecided, or no case is supported")
    after = said[said.rfind(summary(said)) :].splitlines()[1:]
    hints = [line for line in after if " not held to the laws " not in line]
    return "\n".join([*lines, *hints, f"judged: {what}: {summary(said)}"])


def blocks(said: str) -> list[list[str]]:
    """The lines of each failing case, from the case itself to its failure line."""
    found: list[list[str]] = []
    block: list[str] = []
    for line in said.splitlines():
        if re.match(r"[a-z_]+\(.*\)$", line):
            block = []
        block.append(line)
        if line.startswith("FAIL "):
            found.append(block[:])
    return found


def common(block: list[str]) -> list[str]:
    """What all errors of an output have in common: the directions that they add up in, a pattern of the rows."""
    return [line for line in block if line.strip().startswith("pattern")
            or ", in deviations: " in line and re.search(r" -?(?!0\.0\b)\d+\.\d", line)]


def repeat(command: str, function: str | None) -> str:
    """The command that repeats a case; of a function that the program cannot find, the call."""
    case = re.search(r"'([a-z_]+\(.*\))'", command)
    if function is None or case is None:
        return command
    return f'attnspec.check({function}, cases=["{case[1]}"], details=True)'
