#!/usr/bin/env python3
"""Whether the quick tests notice faults of the judge itself: each mutant of mutants.toml is one.

All mutants are planted in a copy of the tree, as switches that the environment variable ATTNSPEC_MUTANT turns on. The
copy is built once. Then the quick tests run for each mutant until one fails, several
mutants at a time."""

import argparse
import os
import re
import subprocess
import sys
import time
from concurrent.futures import ThreadPoolExecutor, as_completed
from pathlib import Path

import mutants
from mutants import Mutant

TREE = Path(__file__).resolve().parents[3]
OWN_TESTS = "_slow|docs|mutation"  # labels of those that are not quick, or read the sources, which are others here
WITH_SIMULATOR = "HelpOfEveryCommand"  # names of those that need it, which is not built
TIMEOUT = 300  # seconds for a test, which a mutant may make endless
FAILED = re.compile(r"Test +#\d+: (\S+) .*\*\*\*(Failed|Timeout|Exception: \w+|Not Run)", re.MULTILINE)


def copy_tree(folder: Path, listed: list[Mutant]) -> None:
    """Copies what git tracks, with the mutants planted. Files that are there and equal stay untouched."""
    tracked = subprocess.run(["git", "ls-files", "-z"], cwd=TREE, check=True, capture_output=True, text=True)
    for name in filter(None, tracked.stdout.split("\0")):
        source, copy = TREE / name, folder / name
        if not source.is_file():
            continue
        content = source.read_bytes()
        if own := [mutant for mutant in listed if mutant.file == name]:
            content = mutants.planted(name, content.decode(), own).encode()
        if copy.exists() and copy.read_bytes() == content:
            continue
        copy.parent.mkdir(parents=True, exist_ok=True)
        copy.write_bytes(content)
        copy.chmod(source.stat().st_mode)


def build(folder: Path, jobs: int) -> None:
    """Without the simulator, whose kernels are not what is mutated."""
    options = ["-DATTNSPEC_TESTS=ON", "-DATTNSPEC_SIMULATOR=OFF"]
    subprocess.run(["cmake", "--preset", "release", *options], cwd=folder, check=True, stdout=subprocess.DEVNULL)
    subprocess.run(["cmake", "--build", "--preset", "release", "-j", str(jobs)], cwd=folder, check=True)


def first_failure(folder: Path, jobs: int, number: int, only: str = "") -> str:
    """The first of the quick tests that fails, and how; empty where none does."""
    command = ["ctest", "--preset", "release", "-LE", OWN_TESTS, "-E", WITH_SIMULATOR, "--no-tests=error",
               "--stop-on-failure", "--timeout", str(TIMEOUT), "-j", str(jobs)]  # fmt: skip
    if only:
        command += ["-R", only]
    environment = os.environ | {"ATTNSPEC_MUTANT": str(number)}
    run = subprocess.run(command, cwd=folder, env=environment, capture_output=True, text=True, check=False)
    if run.returncode == 0:
        return ""
    if not (failed := FAILED.search(run.stdout)):
        sys.exit(f"mutation: ctest failed without a test that did:\n{run.stdout}{run.stderr}")
    test, how = failed.groups()
    return test if how == "Failed" else f"{test} ({how})"


def fate(folder: Path, mutant: Mutant) -> tuple[str, str]:
    """The test that sees the mutant, empty where none does; and a line that says so."""
    start = time.monotonic()
    test = mutant.first and first_failure(folder, 1, mutant.number, mutant.first)
    test = test or first_failure(folder, 1, mutant.number)
    seconds = time.monotonic() - start
    return test, f"{mutant.number:4} {seconds:4.0f} s {mutant.name}: {f'killed by {test}' if test else 'LIVES'}"


def parsed_arguments() -> argparse.Namespace:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("folder", nargs="?", type=Path, default=TREE / "build" / "mutation", help="where the copy goes")
    parser.add_argument("--jobs", type=int, default=os.cpu_count(), help="mutants and compilers at once (%(default)s)")
    parser.add_argument("--only", default="", metavar="REGEX", help="only the mutants whose name or file it matches")
    parser.add_argument("--list", action="store_true", help="list the mutants and end")
    parser.add_argument("--skip-check", action="store_true", help="do not first run all quick tests without a mutant")
    return parser.parse_args()


def main() -> int:
    arguments = parsed_arguments()
    listed = mutants.read()
    chosen = [m for m in listed if re.search(arguments.only, m.name) or re.search(arguments.only, m.file)]
    if arguments.list:
        for mutant in chosen:
            print(f"{mutant.number:4} {mutant.file}: {mutant.name}" + (" (equivalent)" if mutant.equivalent else ""))
        return 0
    folder = arguments.folder.resolve()
    copy_tree(folder, listed)
    build(folder, arguments.jobs)
    if not arguments.skip_check and (failed := first_failure(folder, arguments.jobs, 0)):
        sys.exit(f"mutation: {failed} fails without a mutant")
    for mutant in chosen:
        if mutant.equivalent:
            print(f"{mutant.number:4} equivalent: {mutant.name} ({mutant.equivalent})")
    killed = lives = 0
    with ThreadPoolExecutor(arguments.jobs) as pool:
        fates = [pool.submit(fate, folder, mutant) for mutant in chosen if not mutant.equivalent]
        for done in as_completed(fates):
            test, line = done.result()
            killed, lives = killed + bool(test), lives + (not test)
            print(line, flush=True)
    print(f"{killed} of {killed + lives} mutants killed, {100 * killed / max(killed + lives, 1):.0f} %")
    return 1 if lives > 0 else 0


if __name__ == "__main__":
    sys.exit(main())
