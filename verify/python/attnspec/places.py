"""Where the program and the judge's library are: in the installed package, in the installation that it is a part of, or
in the build of the sources that it is a part of."""

from __future__ import annotations

import os
import pathlib

PACKAGE = pathlib.Path(__file__).resolve().parent


def program() -> str:
    """The program. Raises FileNotFoundError in one line."""
    return find("bin/attnspec", "fuzz/attnspec")


def library() -> str:
    """The judge; ATTNSPEC_LIBRARY names another. Raises FileNotFoundError in one line."""
    return os.environ.get("ATTNSPEC_LIBRARY") or find("lib/libattnspec_c.so", "verify/libattnspec_c.so")


def find(installed: str, built: str) -> str:
    """A file below a prefix, or else the newest one of any build."""
    for prefix in (PACKAGE, *PACKAGE.parents[3:4]):  # the wheel; PREFIX/share/attnspec/python/attnspec
        if (prefix / installed).is_file():
            return str(prefix / installed)
    builds = sorted(PACKAGE.parents[2].glob(f"build/*/{built}"), key=lambda path: path.stat().st_mtime)
    if not builds:
        raise FileNotFoundError(f"{pathlib.Path(built).name}: is not built (./attnspec --help builds it)")
    return str(builds[-1])
