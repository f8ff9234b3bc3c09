"""The text of a failed test, from what attnspec_judge says."""

from __future__ import annotations

from typing import TYPE_CHECKING, TypedDict

if TYPE_CHECKING:
    from typing_extensions import NotRequired

MAX_FAILURES = 3
"""Failing cases that are shown; the rest are counted."""


class Finding(TypedDict):
    """What is wrong with a case; c_api.h explains the fields of this and of the other two."""

    verdict: str
    where: str
    failure: str


class CaseResult(TypedDict):
    """What was judged of a case."""

    kernel: str
    case: str
    verdict: str
    reason: NotRequired[str]
    rows_judged: int
    findings: list[Finding]
    directions: list[str]
    repeat: str


class Judgement(TypedDict):
    """What is said of all cases."""

    totals: str
    limits: NotRequired[str]
    hint: NotRequired[str]
    over_declaration: NotRequired[str]
    lse_not_judged: NotRequired[str]
    laws_not_held: NotRequired[str]


def failure_text(results: list[CaseResult], judgement: Judgement, what: str, function: str | None) -> str:
    """Of the first failing cases: the failure line, the directions that all errors of an output add up in, and the
    command that repeats the case. Then what may explain them. function: how check is called with a function that the
    program cannot find, as "name, 'dense'"."""
    failing = [result for result in results if result["findings"]]
    lines = []
    for result in failing[:MAX_FAILURES]:
        lines += [result["findings"][0]["failure"], *[f"  {line}" for line in result["directions"]],
                  f"  repeat: {repeat(result, function)}"]
    if len(failing) > MAX_FAILURES:
        lines.append(f"... and {len(failing) - MAX_FAILURES} more cases with findings")
    if not failing:
        lines.append("nothing is wrong, but the judgement is inconclusive: rows are undecided, no "
                     "case is supported, or no row would show a fault")
    for note in ("limits", "hint", "over_declaration", "lse_not_judged"):
        if note in judgement:
            lines.append(judgement[note])
    return "\n".join([*lines, f"judged: {what}: {judgement['totals']}"])


def repeat(result: CaseResult, function: str | None) -> str:
    """The command that repeats a case; of a function that the program cannot find, the call."""
    if function is None:
        return result["repeat"]
    return f'attnspec.check({function}, cases=["{result["case"]}"], details=True)'
