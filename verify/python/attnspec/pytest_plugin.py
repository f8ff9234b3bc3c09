"""Kernels as tests: pytest mine.py judges every function of a collected file that is decorated with
attnspec.kernel.

A kernel is collected from the file that defines it, if pytest collects that file: test_*.py, or any file that is named
on the command line. --attnspec-level says how much is judged."""

from __future__ import annotations

from typing import Any, Callable

import pytest

from .declaration import declaration_of
from .judging import assert_correct
from .loading import kernels_of
from .memory import memory_of_calls


def pytest_addoption(parser: pytest.Parser) -> None:
    parser.getgroup("attnspec").addoption(
        "--attnspec-level", type=int, choices=(1, 2), default=1,
        help="level that kernels decorated with attnspec.kernel are judged on: 1 within a minute, 2 some minutes")


def pytest_pycollect_makeitem(collector: pytest.Collector, name: str, obj: Any) -> pytest.Item | None:
    declared = declaration_of(obj)
    if declared is None or not isinstance(collector, pytest.Module) or name not in kernels_of(collector.obj):
        return None
    level = collector.config.getoption("--attnspec-level")
    item: pytest.Item = KernelItem.from_parent(collector, name=f"{name}[{declared.operator}-level{level}]", fn=obj,
                                               level=level)
    return item


class KernelItem(pytest.Item):
    """A kernel, to be judged on the cases of a level."""

    def __init__(self, *, fn: Callable[..., Any], level: int, **rest: Any):
        super().__init__(**rest)
        self.fn, self.level = fn, level

    def setup(self) -> None:
        declared = declaration_of(self.fn)
        assert declared is not None
        try:
            memory_of_calls(declared.tensors, declared.device)
        except ValueError as error:
            pytest.skip(str(error))

    def runtest(self) -> None:
        assert_correct(self.fn, self.level)

    def repr_failure(self, excinfo: pytest.ExceptionInfo[BaseException], style: Any = None) -> Any:
        if isinstance(excinfo.value, (AssertionError, ValueError, FileNotFoundError)):
            return str(excinfo.value)
        return super().repr_failure(excinfo, style)

    def reportinfo(self) -> tuple[Any, int | None, str]:
        return self.path, self.fn.__code__.co_firstlineno - 1, self.name
