"""Judges functions in this process: check prints, assert_correct raises."""

from __future__ import annotations

import ctypes
import json
from typing import TYPE_CHECKING, Any, Callable, Iterable

from . import places
from .abi import Kernel, Print
from .bridge import Bridge
from .declaration import Declaration, declaration_of
from .failure import failure_text
from .loading import program_name

if TYPE_CHECKING:
    from typing_extensions import Unpack

    from .declaration import Options

PASSED, COULD_NOT_RUN = 0, 2


def library() -> ctypes.CDLL:
    """The judge. Raises FileNotFoundError."""
    judge = ctypes.CDLL(places.library())
    what = (ctypes.POINTER(Kernel), ctypes.c_char_p, ctypes.c_int, ctypes.c_char_p)
    judge.attnspec_check.argtypes = (*what, ctypes.c_int, Print, ctypes.c_void_p)
    judge.attnspec_judge.argtypes = (*what, Print, ctypes.c_void_p)
    return judge


def encoded(cases: Iterable[str] | None) -> bytes | None:
    """Cases as the library takes them."""
    return None if cases is None else "\n".join(cases).encode()


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
    bridge = Bridge(fn, declared_of(fn, operator, options))
    show = Print(lambda text, _: print(text.decode(), end="", flush=True))
    code: int = library().attnspec_check(bridge.kernel, (name or fn.__name__).encode(), level, encoded(cases), details,
                                         show, None)
    return code


def assert_correct(fn: Callable[..., Any], level: int = 1, *, operator: str | None = None,
                   cases: Iterable[str] | None = None, **options: Unpack[Options]) -> str:
    """Judges a function and returns one line that says what was judged: "moba, level 1: 133 cases: 133 pass".

    Raises AssertionError on a finding, with the failure line, what the errors look like and the command that repeats
    the case; and where nothing is wrong but the judgement is inconclusive. Raises ValueError, in one line, where the
    function could not be judged. Arguments as of check."""
    __tracebackhide__ = True
    declared = declared_of(fn, operator, options)
    name = program_name(fn) if operator is None else None
    bridge = Bridge(fn, declared)
    said: list[bytes] = []
    code = library().attnspec_judge(bridge.kernel, (name or fn.__name__).encode(), level, encoded(cases),
                                    Print(lambda text, _: said.append(text)), None)
    *results, judgement = map(json.loads, said)
    if code == COULD_NOT_RUN:
        raise ValueError(judgement["error"])
    what = f"{declared.operator}, " + (f"level {level}" if cases is None else "cases given")
    if code != PASSED:
        function = None if name else f"{fn.__name__}, {declared.operator!r}"
        raise AssertionError(failure_text(results, judgement, what, function))
    return f"{what}: {judgement['totals']}"
