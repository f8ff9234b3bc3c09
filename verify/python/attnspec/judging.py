"""Judges functions in this process: check prints, assert_correct raises."""

from __future__ import annotations

import ctypes
from typing import TYPE_CHECKING, Any, Callable, Iterable

from . import places
from .abi import Kernel, Print
from .bridge import Bridge
from .declaration import Declaration, declaration_of
from .failure import failure_text, summary
from .loading import program_name

if TYPE_CHECKING:
    from typing_extensions import Unpack

    from .declaration import Options

PASSED, COULD_NOT_RUN = 0, 2


def library() -> ctypes.CDLL:
    """The judge. Raises FileNotFoundError."""
    judge = ctypes.CDLL(places.library())
    judge.attnspec_check.argtypes = [ctypes.POINTER(Kernel), ctypes.c_char_p, ctypes.c_int, ctypes.c_char_p,
                                     ctypes.c_int, Print, ctypes.c_void_p]
    return judge


def judge(fn: Callable[..., Any], declared: Declaration, name: str, level: int, cases: Iterable[str] | None,
          details: bool, show: Callable[[str], None]) -> int:
    """Judges a function, gives `show` what is said, and returns the exit code."""
    bridge = Bridge(fn, declared)
    text = None if cases is None else "\n".join(cases).encode()
    callback = Print(lambda lines, _: show(lines.decode()))
    code: int = library().attnspec_check(bridge.kernel, name.encode(), level, text, details, callback, None)
    return code


def declared_of(fn: Callable[..., Any], operator: str | None, options: Options) -> Declaration:
    """What the arguments declare, or else the decorator."""
    if operator is not None:
        return Declaration(operator, **options)
    declared = declaration_of(fn)
    if declared is None:
        raise ValueError(f"operator: is not given, and {fn.__name__} is not decorated with attnspec.kernel")
    for field in options:
        raise ValueError(f"{field}: {fn.__name__} is decorated with attnspec.kernel, which declares it")
    return declared


def check(fn: Callable[..., Any], operator: str | None = None, *, level: int = 1, cases: Iterable[str] | None = None,
          details: bool = False, name: str | None = None, **options: Unpack[Options]) -> int:
    """Judges a function, prints findings and a table, and returns the exit code: 0 all judged and passed, 1 a finding,
    2 could not run, 3 inconclusive.

    operator and options: as of Declaration, unless the function is decorated with kernel. cases: texts of cases instead
    of those of the level. details: also everything that was judged of each case."""
    declared = declared_of(fn, operator, options)
    return judge(fn, declared, name or fn.__name__, level, cases, details,
                 lambda text: print(text, end="", flush=True))


def assert_correct(fn: Callable[..., Any], level: int = 1, *, operator: str | None = None,
                   cases: Iterable[str] | None = None, **options: Unpack[Options]) -> str:
    """Judges a function and returns one line that says what was judged: "moba, level 1: 133 cases: 133 pass".

    Raises AssertionError on a finding, with the failure line, what the errors look like and the command that repeats
    the case; and where nothing is wrong but the judgement is inconclusive. Raises ValueError, in one line, where the
    function could not be judged. Arguments as of check."""
    __tracebackhide__ = True
    declared = declared_of(fn, operator, options)
    name = program_name(fn) if operator is None else None
    text: list[str] = []
    code = judge(fn, declared, name or fn.__name__, level, cases, True, text.append)
    said = "".join(text)
    if code == COULD_NOT_RUN:
        raise ValueError(said.strip().removeprefix("attnspec: "))
    what = f"{declared.operator}, " + (f"level {level}" if cases is None else "cases given")
    if code != PASSED:
        raise AssertionError(failure_text(said, what, None if name else f"{fn.__name__}, {declared.operator!r}"))
    return f"{what}: {summary(said)}"
