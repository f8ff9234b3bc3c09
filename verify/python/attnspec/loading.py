"""Functions by name: FILE.py:FUNCTION."""

from __future__ import annotations

import importlib.util
import os
import pathlib
import sys
from types import ModuleType
from typing import Any, Callable

from .declaration import declaration_of


def find_function(text: str) -> Callable[..., Any]:
    """FILE.py:FUNCTION as a function, or FILE.py as its only kernel. Raises ValueError in one line."""
    path, _, name = (text, "", "") if text.endswith(".py") else text.rpartition(":")
    if not path.endswith(".py") or not os.path.exists(path):
        raise ValueError(f"kernel '{text}': there is no such file")
    spec = importlib.util.spec_from_file_location(pathlib.Path(path).stem, path)
    assert spec is not None and spec.loader is not None
    module = importlib.util.module_from_spec(spec)
    sys.path.append(os.path.dirname(os.path.abspath(path)))  # last, so that its random.py is not everybody's
    try:
        spec.loader.exec_module(module)
    except Exception as error:
        raise ValueError(f"kernel '{text}': {type(error).__name__}: {error}".replace("\n", " ")) from error
    if not name:
        return only_kernel(module, text)
    fn: Callable[..., Any] | None = getattr(module, name, None)
    if fn is None:
        raise ValueError(f"kernel '{text}': the file has no {name}")
    if declaration_of(fn) is None:
        raise ValueError(f"kernel '{text}': is not decorated with attnspec.kernel")
    return fn


def kernels_of(module: ModuleType) -> dict[str, Callable[..., Any]]:
    """The decorated functions that a module defines, by name, in its order; of several names for one, the first."""
    kernels: dict[int, tuple[str, Callable[..., Any]]] = {}
    for name, value in vars(module).items():
        if declaration_of(value) is not None and getattr(value, "__module__", None) == module.__name__:
            kernels.setdefault(id(value), (name, value))
    return dict(kernels.values())


class SeveralKernels(ValueError):
    """A file has several kernels where one is wanted; names: FILE.py:FUNCTION of each, in the order of the file."""

    def __init__(self, text: str, names: list[str]) -> None:
        super().__init__(f"kernel '{text}': the file has several kernels, name one: {', '.join(names)}")
        self.names = names


def only_kernel(module: ModuleType, text: str) -> Callable[..., Any]:
    """The only decorated function of a module. Raises SeveralKernels, or ValueError in one line if there is none."""
    kernels = kernels_of(module)
    if len(kernels) == 1:
        return next(iter(kernels.values()))
    if not kernels:
        raise ValueError(f"kernel '{text}': the file has no function that is decorated with attnspec.kernel")
    raise SeveralKernels(text, [f"{text}:{name}" for name in kernels])


def program_name(fn: Callable[..., Any]) -> str | None:
    """FILE.py:FUNCTION of a decorated function of a module, as the program would find it; else None."""
    module = sys.modules.get(getattr(fn, "__module__", ""))
    file, name = getattr(module, "__file__", None), getattr(fn, "__name__", "")
    if declaration_of(fn) is None or not file or not file.endswith(".py") or getattr(module, name, None) is not fn:
        return None
    relative = os.path.relpath(file)
    return f"{file if relative.startswith('..') else relative}:{name}"
