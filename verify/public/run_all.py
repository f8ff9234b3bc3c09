#!/usr/bin/env python3
"""Judges every adapter of a public kernel that is in this folder, and writes a table.

    verify/public/run_all.py --seconds 60 --out results

For each function: `./attnspec check` (the fixed cases), the cases of cases/FILE.FUNCTION.cases and of --cases, and
`./attnspec fuzz`. Writes
OUT/table.md, and for each kernel OUT/<file>.<function>.json with all findings and OUT/<file>.<function>.log with what
the program printed. A kernel that is missing, crashes or takes too long is a line of the table and no more.
"""

import argparse
import ast
import concurrent.futures
import json
import os
import pathlib
import re
import signal
import subprocess
import sys
import time
import xml.etree.ElementTree

HERE = pathlib.Path(__file__).resolve().parent
TOP = HERE.parents[1]
COLUMNS = ["kernel", "version", "operator", "arithmetic", "cases judged", "rows judged", "not supported", "verdict",
           "first finding"]

# Imports an adapter where the kernel will run, and prints what its functions declare.
PROBE = """
import json, sys
sys.path[:0] = [{python!r}, {folder!r}]
import attnspec
try:
    fn = attnspec.find_function({kernel!r})
    print("\\n" + json.dumps({{"version": fn.__globals__.get("VERSION", "unknown"),
                              "arithmetic": fn.attnspec.arithmetic,
                              "summary": fn.attnspec.summary}}))
except ValueError as error:
    print("\\n" + json.dumps({{"missing": str(error)}}))
"""


class Kernel:
    """A function of an adapter: its file, its name and the operator that it is decorated with."""

    def __init__(self, path, function, operator):
        self.path, self.function, self.operator = pathlib.Path(path), function, operator
        self.text = f"{os.path.relpath(self.path, TOP) if TOP in self.path.parents else self.path}:{function}"
        self.label = f"{self.path.stem}.{function}"


def kernels_of(path):
    """The functions of a file that are decorated with attnspec.kernel, without importing it."""
    found = []
    for node in ast.parse(path.read_text()).body:
        for decorator in getattr(node, "decorator_list", []):
            if isinstance(decorator, ast.Call) and ast.unparse(decorator.func) == "attnspec.kernel":
                found.append(Kernel(path, node.name, ast.literal_eval(decorator.args[0])))
    return found


def literals(path, name):
    """The texts that a file gives as an argument or key of a name, without importing it."""
    found = []
    for node in ast.walk(ast.parse(path.read_text())):
        pairs = [(node.arg, node.value)] if isinstance(node, ast.keyword) else []
        if isinstance(node, ast.Dict):
            pairs = [(key.value, value) for key, value in zip(node.keys, node.values) if isinstance(key, ast.Constant)]
        found += [value.value for key, value in pairs if key == name and isinstance(value, ast.Constant)]
    return found


def adapters(folder=HERE):
    """All kernels of a folder."""
    return [kernel for path in sorted(folder.glob("*.py")) for kernel in kernels_of(path)]


class TimeLimit(Exception):
    """A kernel's time is over."""


class Session:
    """The commands of one kernel: their environment, their log, and the time that is left."""

    def __init__(self, out, kernel, time_limit):
        self.log_path = out / f"{kernel.label}.log"
        self.log_path.write_text("")
        self.end = time.monotonic() + time_limit
        self.environment = {"ATTNSPEC_PYTHON": sys.executable, **os.environ}

    def run(self, *command):
        """Exit code, standard output and error. Ends the command, with its children, when the time is over."""
        left = self.end - time.monotonic()
        if left <= 0:
            raise TimeLimit
        with open(self.log_path, "a") as log:
            words = ["PROBE" if "\n" in word else word for word in map(str, command)]
            log.write(f"$ {' '.join(words)}\n")
        process = subprocess.Popen(list(map(str, command)), cwd=TOP, env=self.environment, text=True, errors="replace",
                                   stdin=subprocess.DEVNULL, stdout=subprocess.PIPE, stderr=subprocess.PIPE,
                                   start_new_session=True)
        is_over = False
        try:
            out, err = process.communicate(timeout=left)
        except subprocess.TimeoutExpired:
            is_over = True
            os.killpg(process.pid, signal.SIGKILL)
            out, err = process.communicate()
        with open(self.log_path, "a") as log:
            log.write(f"{out}{err}exit code {process.returncode}\n\n")
        if is_over:
            raise TimeLimit
        return process.returncode, out, err


def program_options(program):
    """The option of a call's timeout, whose name depends on the version."""
    done = subprocess.run([*program, "check", "--help"], capture_output=True, text=True, cwd=TOP)
    return next((name for name in ("--timeout", "--patience") if name in done.stdout), None)


def read_junit(path):
    """Cases by outcome, and findings, of the XML that `check --junit` writes."""
    counts = {"passed": 0, "failed": 0, "not_supported": 0, "undecided": 0}
    findings, reasons = [], {}
    for test in xml.etree.ElementTree.parse(path).iter("testcase"):
        failure, skipped = test.find("failure"), test.find("skipped")
        if failure is not None:
            counts["failed"] += 1
            findings.append({"case": test.get("name"), "message": failure.get("message"),
                             "lines": (failure.text or "").strip().split("\n")})
        elif skipped is not None:
            kind = "undecided" if skipped.get("message") == "undecided" else "not_supported"
            counts[kind] += 1
            if kind == "not_supported":
                reasons[skipped.get("message")] = reasons.get(skipped.get("message"), 0) + 1
        else:
            counts["passed"] += 1
    return counts, findings, reasons


def rows_of_check(text, kernel):
    """Rows judged, of the table that `check` prints: kernel, operator, cases, rows judged, ..."""
    for line in text.splitlines():
        match = re.match(rf"{re.escape(kernel.text)} +{kernel.operator} +\d+ +(\d+) ", line)
        if match:
            return int(match[1])
    return 0


def counts_of_fuzz(text, operator):
    """Cases, rows and verdicts of the table of `fuzz`: operator, cases, rows judged, worst R, undecided rows."""
    for line in text.splitlines():
        match = re.match(rf"{operator} +(\d+) +(\d+) +\S+ +\d+  ?(.*)", line)
        if match:
            verdicts = {name: int(n) for n, name in re.findall(r"(\d+) ([a-z-]+)", match[3])}
            return {"cases": int(match[1]), "rows": int(match[2]), "verdicts": verdicts}
    return {"cases": 0, "rows": 0, "verdicts": {}}


def read_replay(text):
    """Counts and findings of what `replay` prints of each case: the case, its outputs with their rows, the verdict, and
    after it the lines of its findings."""
    counts = {"cases": 0, "rows": 0, "not_supported": 0, "undecided": 0}
    findings, case = [], ""
    for line in text.splitlines():
        if output := re.match(r"  \S+ +(\d+) +\S+ +\S+ +\d+ +\d+$", line):
            counts["rows"] += int(output[1])
        elif verdict := re.match(r"verdict: ([a-z-]+)", line):
            kind = {"not-supported": "not_supported", "undecided": "undecided"}.get(verdict[1])
            counts["cases"] += kind != "not_supported"
            if kind:
                counts[kind] += 1
        elif line.startswith("FAIL "):
            if not findings or findings[-1]["case"] != case:
                findings.append({"case": case, "lines": []})
            findings[-1]["lines"].append(line)
        elif re.match(r"[a-z_]+\(.*\)$", line):
            case = line
    return counts, findings


def failure_lines(text):
    return [line for line in text.splitlines() if line.startswith("FAIL ")]


def cases_of(path, operator):
    """The lines of a case file that are cases of an operator."""
    lines = [line.split("#")[0].strip() for line in pathlib.Path(path).read_text().splitlines()]
    return [line for line in lines if line.startswith(operator + "(")]


def probe(session, kernel):
    program = PROBE.format(python=str(TOP / "verify/python"), folder=str(kernel.path.parent),
                           kernel=f"{kernel.path}:{kernel.function}")
    code, out, err = session.run(session.environment["ATTNSPEC_PYTHON"], "-c", program)
    if code != 0 or not out.strip():
        lines = err.strip().splitlines()
        return {"missing": f"importing it ended with exit code {code}" + (f": {lines[-1]}" if lines else "")}
    declared = json.loads(out.strip().splitlines()[-1])
    if "missing" in declared:  # without the name of the file, which the table has
        declared["missing"] = re.sub(r"^kernel '[^']*': (ImportError: )?", "", declared["missing"])
    return declared


def judge(kernel, options):
    """All that is found out about one kernel. Never raises."""
    result = {"kernel": kernel.text, "operator": kernel.operator, "version": "", "arithmetic": "", "cases": 0,
              "rows": 0,
              "not_supported": 0, "undecided": 0, "findings": [], "why_not_supported": {}, "verdict": "", "notes": [],
              "seconds": 0.0}
    begin = time.monotonic()
    session = Session(options.out, kernel, options.time_limit)
    try:
        declared = probe(session, kernel)
        if "missing" in declared:
            result["verdict"], result["notes"] = "not run", [declared["missing"]]
        else:
            result["version"], result["arithmetic"] = declared["version"], declared["arithmetic"]
            patience = [options.timeout_option, options.timeout] if options.timeout_option else []
            for stage in (check, replay, fuzz):
                stage(kernel, options, session, patience, result)
    except TimeLimit:
        result["notes"].append(f"the time limit of {options.time_limit:g} s was over")
    except Exception as error:  # a kernel of the list must not end the list
        result["notes"].append(f"{type(error).__name__}: {error}")
    if not result["verdict"]:
        result["verdict"] = ("finding" if result["findings"] else "inconclusive"
                             if result["notes"] or result["undecided"] or result["cases"] == 0 else "pass")
    result["seconds"] = round(time.monotonic() - begin, 1)
    (options.out / f"{kernel.label}.json").write_text(json.dumps(result, indent=1) + "\n")
    return result


def check(kernel, options, session, patience, result):
    if options.level == 0:
        return
    junit = options.out / f"{kernel.label}.xml"
    try:
        code, out, err = session.run(*options.program, "check", kernel.text, "--level", options.level, "--junit", junit,
                                     *patience)
    except TimeLimit:
        result["notes"].append("check was not finished")
        lines = failure_lines(session.log_path.read_text())
        result["findings"] += [{"stage": "check", "case": "", "lines": [line]} for line in lines]
        raise
    if code not in (0, 1, 3):
        result["notes"].append(f"check ended with exit code {code}: {' '.join(err.split())[-300:]}")
        return
    counts, findings, result["why_not_supported"] = read_junit(junit)
    result["findings"] += [{"stage": "check", **finding} for finding in findings]
    result["cases"] += counts["passed"] + counts["failed"] + counts["undecided"]
    result["not_supported"] += counts["not_supported"]
    result["undecided"] += counts["undecided"]
    result["rows"] += rows_of_check(out, kernel)
    junit.unlink()


def replay(kernel, options, session, patience, result):
    own = kernel.path.parent / "cases" / f"{kernel.label}.cases"
    files = ([own] if own.is_file() else []) + ([options.cases] if options.cases else [])
    cases = [case for file in files for case in cases_of(file, kernel.operator)]
    if not cases:
        return
    path = options.out / f"{kernel.label}.cases"
    path.write_text("\n".join(cases) + "\n")
    code, out, err = session.run(*options.program, "replay", path, "--kernel", kernel.text, *patience)
    path.unlink()
    if code not in (0, 1, 3):
        result["notes"].append(f"replay ended with exit code {code}: {' '.join(err.split())[-300:]}")
        return
    counts, findings = read_replay(out)
    for name in ("cases", "rows", "not_supported", "undecided"):
        result[name] += counts[name]
    result["findings"] += [{"stage": "cases", **finding} for finding in findings]


def fuzz(kernel, options, session, patience, result):
    if options.seconds <= 0:
        return
    seed = ["--seed", options.seed] if options.seed is not None else []
    code, out, err = session.run(*options.program, "fuzz", kernel.text, "--seconds", options.seconds, "--keep-going",
                                 "--findings", options.out / "findings" / kernel.label, *seed, *patience)
    if code not in (0, 1, 3):
        result["notes"].append(f"fuzz ended with exit code {code}: {' '.join(err.split())[-300:]}")
        return
    counts = counts_of_fuzz(out, kernel.operator)
    unsupported = counts["verdicts"].get("not-supported", 0)
    result["cases"] += counts["cases"] - unsupported
    result["not_supported"] += unsupported
    result["undecided"] += counts["verdicts"].get("undecided", 0)
    result["rows"] += counts["rows"]
    result["findings"] += [{"stage": "fuzz", "case": "", "lines": [line]} for line in failure_lines(out)]


def first_finding(result):
    """One cell: the first finding without its command, or the note; and how many findings there are."""
    if not result["findings"]:
        return "; ".join(result["notes"])
    line = result["findings"][0]["lines"][0].removeprefix("FAIL ").replace(result["kernel"] + " ", "")
    text, _, command = line.partition(" | ")
    case = re.search(r"'([^']*)'", command)
    count = len(result["findings"])
    text += f" `{case[1]}`" if case else ""
    notes = [f"{count} findings"] if count > 1 else []
    return "; ".join([text, *notes, *result["notes"]])


def table(results):
    """The results as Markdown."""
    lines = ["| " + " | ".join(COLUMNS) + " |", "|" + " --- |" * len(COLUMNS)]
    for r in results:
        arithmetic = "" if r["verdict"] == "not run" else r["arithmetic"].replace("+", " + ") or "plain"
        cells = [r["kernel"].removeprefix("verify/public/"), r["version"], r["operator"], arithmetic, r["cases"],
                 r["rows"], r["not_supported"], r["verdict"], first_finding(r)]
        lines.append("| " + " | ".join(str(cell).replace("|", "\\|").replace("\n", " ") for cell in cells) + " |")
    return "\n".join(lines) + "\n"


def parse(arguments=None):
    parser = argparse.ArgumentParser(description=__doc__.split("\n")[0])
    parser.add_argument("--only", nargs="+", default=[], metavar="TEXT",
                        help="kernels whose FILE.FUNCTION contains one of these texts")
    parser.add_argument("--level", type=int, choices=[0, 1, 2], default=1, help="of check; 0: no check (default: 1)")
    parser.add_argument("--seconds", type=float, default=30, help="of fuzz for each kernel; 0: no fuzz (default: 30)")
    parser.add_argument("--seed", type=int, help="of fuzz (default: another every time)")
    parser.add_argument("--cases", type=pathlib.Path, help="a file of cases that are judged as well")
    parser.add_argument("--jobs", type=int, default=2, help="kernels at the same time (default: 2)")
    parser.add_argument("--time-limit", type=float, default=600, help="seconds for each kernel (default: 600)")
    parser.add_argument("--timeout", type=float, default=180,
                        help="seconds for one call, which may compile (default: 180)")
    parser.add_argument("--out", type=pathlib.Path, default=pathlib.Path("results"), help="folder (default: results)")
    parser.add_argument("--folder", type=pathlib.Path, default=HERE, help="of the adapters (default: this one)")
    parser.add_argument("--program", nargs="+", default=[str(TOP / "attnspec")],
                        help="the command of the program (default: ./attnspec)")
    options = parser.parse_args(arguments)
    options.out = options.out.resolve()
    if options.cases is not None and not options.cases.is_file():
        parser.error(f"--cases {options.cases}: there is no such file")
    return options


def main(arguments=None):
    options = parse(arguments)
    options.out.mkdir(parents=True, exist_ok=True)
    options.timeout_option = program_options(options.program)
    kernels = [k for k in adapters(options.folder.resolve())
               if not options.only or any(text in k.label for text in options.only)]
    if not kernels:
        print("run_all: there is no such kernel", file=sys.stderr)
        return 2
    results = {}
    with concurrent.futures.ThreadPoolExecutor(max(1, options.jobs)) as pool:
        running = {pool.submit(judge, kernel, options): kernel for kernel in kernels}
        for number, future in enumerate(concurrent.futures.as_completed(running), 1):
            kernel, result = running[future], future.result()
            results[kernel.label] = result
            print(f"{number}/{len(kernels)} {kernel.label} {kernel.operator}: {result['verdict']}, {result['cases']} "
                  f"cases, {result['rows']} rows, {result['seconds']:.0f} s {first_finding(result)[:200]}".rstrip(),
                  flush=True)
            done = [results[k.label] for k in kernels if k.label in results]
            (options.out / "table.md").write_text(table(done))  # after each, for whoever is stopped
    print(f"\n{(options.out / 'table.md').read_text()}")
    verdicts = {r["verdict"] for r in results.values()}
    return 1 if "finding" in verdicts else 0 if verdicts == {"pass"} else 3


if __name__ == "__main__":
    sys.exit(main())
