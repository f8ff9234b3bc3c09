"""A function as an AttnspecKernel: its calls, and what is said of its exceptions."""

from __future__ import annotations

import ctypes
import inspect
import os
import sys
import traceback
from typing import Any, Callable

from .abi import ABI_VERSION, FUNCTIONS, OPERATORS, Kernel
from .declaration import Declaration
from .fields import fields_of
from .memory import memory_of_calls


def where_raised(error: BaseException, fn: Callable[..., Any]) -> str:
    """FILE.py:LINE of an exception: the innermost line in the folder of the kernel's file; elsewhere, the innermost
    line of all; if the function could not be entered, its first line. Empty where Python does not know."""
    code = getattr(inspect.unwrap(fn), "__code__", None)
    lines = [(frame.f_code.co_filename, line) for frame, line in traceback.walk_tb(error.__traceback__)]
    lines = [(file, line) for file, line in lines if file != where_raised.__code__.co_filename]
    folder = os.path.dirname(code.co_filename) if code else None
    of_kernel = [(file, line) for file, line in lines if os.path.dirname(file) == folder]
    if not lines and code:
        lines = [(code.co_filename, code.co_firstlineno)]
    for file, line in (of_kernel or lines)[-1:]:
        return f"{os.path.basename(file)}:{line}"
    return ""


class Bridge:
    """A function as an AttnspecKernel, which lives as long as this."""

    def __init__(self, fn: Callable[..., Any], declaration: Declaration, prints: bool = True):
        """prints: tracebacks go to standard error, one for each place where the function raises. Without it they follow
        the message of every call that failed, for the judge to print. Raises ValueError in one line where a library or
        a device is missing."""
        self.message: Any = None  # what the last call that failed said
        self.prints = prints
        self.printed: set[tuple[str, str]] = set()
        self.make_memory = memory_of_calls(declaration.tensors, declaration.device)
        op = declaration.operator
        self.kernel = Kernel(
            ctypes.sizeof(Kernel), ABI_VERSION, 1, fn.__name__.encode(),
            (declaration.summary or "a Python function").encode(), declaration.arithmetic.encode(),
            1 << OPERATORS.index(op), declaration.promises)
        setattr(self.kernel, "limits", declaration.limits)
        self.set(op, fn)
        if declaration.backward is not None:
            self.set(op + "_backward", declaration.backward)

    def set(self, name: str, fn: Callable[..., Any]) -> None:
        _, pointer, params_type = FUNCTIONS[name]

        def call(params: Any) -> int | None:
            try:
                self.run(params[0], params_type, fn)
            except BaseException as error:  # nothing may pass through C
                self.message = ctypes.create_string_buffer(self.describe(error, fn).encode(errors="replace"))
                return ctypes.addressof(self.message)
            return None

        setattr(self.kernel, name, pointer(call))

    def run(self, params: Any, params_type: type[ctypes.Structure], fn: Callable[..., Any]) -> None:
        """Calls the function with the fields of a struct."""
        is_backward = hasattr(params, "forward")
        given = params.struct_size if is_backward else params.call.struct_size
        if given < ctypes.sizeof(params_type):
            raise ValueError(f"struct_size={given}: this module has {ctypes.sizeof(params_type)}")
        memory = self.make_memory()
        fields = fields_of(params.forward[0], memory) if is_backward else {}
        fields.update(fields_of(params, memory))
        fn(**fields)
        memory.collect()

    def describe(self, error: BaseException, fn: Callable[..., Any]) -> str:
        """mine.py:312: ValueError: shapes differ; and the traceback after it, unless this prints it."""
        place = (where_raised(error, fn), type(error).__name__)
        line = ": ".join(filter(None, (*place, str(error).replace("\n", " "))))
        trace = "".join(traceback.format_exception(type(error), error, of_kernel(error)))
        if not self.prints:
            return f"{line}\n{trace}"
        if place not in self.printed:
            self.printed.add(place)
            print(trace, end="", file=sys.stderr)
        return line


def of_kernel(error: BaseException) -> Any:
    """The traceback from the kernel's own first line on; whole, if the function could not be entered."""
    trace = error.__traceback__
    while trace is not None and trace.tb_frame.f_code.co_filename == of_kernel.__code__.co_filename:
        trace = trace.tb_next
    return trace or error.__traceback__
