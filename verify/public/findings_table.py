#!/usr/bin/env python3
"""Prints the table of docs/findings.md from the results of run_all.py.

    verify/public/findings_table.py FOLDER[:PREFIX,PREFIX...]...

Takes FILE.FUNCTION.json of the folders, of a folder with prefixes only the kernels that begin with one of them. A
kernel that is in several folders is taken from the last one.
"""

import json
import pathlib
import sys

COLUMNS = ["kernel", "operator", "version", "declared arithmetic", "cases judged", "rows judged", "outside its limits",
           "verdict"]


def results(arguments):
    """The results by kernel; the last folder wins."""
    found = {}
    for argument in arguments:
        folder, _, prefixes = argument.partition(":")
        for path in sorted(pathlib.Path(folder).glob("*.json")):
            if path.name.startswith(tuple(prefixes.split(","))):
                found[path.stem] = json.loads(path.read_text())
    return [found[name] for name in sorted(found)]


def verdict(result):
    """One word, and how many cases failed or what was missing."""
    if result["verdict"] == "finding":
        number = len(result["findings"])
        notes = "".join(f"; {note}" for note in result["notes"])
        return f"{number} case{'s' * (number != 1)} with findings{notes}"
    if result["verdict"] in ("not run", "inconclusive"):
        return f"{result['verdict']}: {'; '.join(result['notes']) or 'rows stay undecided'}"
    return result["verdict"]


def table(all_results):
    """A Markdown table."""
    lines = [f"| {' | '.join(COLUMNS)} |", f"|{' --- |' * len(COLUMNS)}"]
    for r in all_results:
        arithmetic = ", ".join(f"`{option}`" for option in r["arithmetic"].split("+")) if r["arithmetic"] else "plain"
        file, function = pathlib.Path(r["kernel"].rpartition(":")[0]).stem, r["kernel"].rpartition(":")[2]
        cells = [f"`{file}.py:{function}`", f"`{r['operator']}`", r["version"], arithmetic, f"{r['cases']:,}",
                 f"{r['rows']:,}", f"{r['not_supported']:,}", verdict(r)]
        lines.append(f"| {' | '.join(cells)} |")
    return "\n".join(lines)


if __name__ == "__main__":
    if len(sys.argv) < 2:
        sys.exit(__doc__.strip())
    print(table(results(sys.argv[1:])))
