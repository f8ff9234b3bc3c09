"""The program behind python -m attnspec, and the process that holds a kernel in Python."""

from __future__ import annotations

import ctypes
import os
import sys

from . import places
from .abi import Kernel
from .bridge import Bridge
from .declaration import declaration_of
from .loading import SeveralKernels, find_function


def main() -> int:
    """Becomes the program, which runs kernels in Python with this interpreter unless ATTNSPEC_PYTHON names another; or
    serves a kernel."""
    arguments = sys.argv[1:]
    if arguments[:1] == ["serve"]:
        if len(arguments) != 5:
            print("attnspec: serve is a part of attnspec, which starts it", file=sys.stderr)
            return 2
        serve(*arguments[1:])
        return 0
    try:
        program = places.program()
    except FileNotFoundError as error:
        print(f"attnspec: {error}", file=sys.stderr)
        return 2
    os.environ.setdefault("ATTNSPEC_PYTHON", sys.executable)
    sys.stdout.flush()
    os.execv(program, [program, *arguments])


def serve(library: str, text: str, socket: str, memory: str) -> None:
    """Serves the function FILE.py:FUNCTION to the judge at the other end of a socket; library: libattnspec_c.so."""
    refusal: ValueError | None = None
    try:
        fn = find_function(text)  # first, for what it imports: PyTorch wants its libraries loaded before others
        declaration = declaration_of(fn)
        assert declaration is not None
        try:
            bridge = Bridge(fn, declaration, prints=False)
        except ValueError as error:
            raise ValueError(f"kernel '{text}': {error}") from error
    except ValueError as error:
        refusal = error
    judge = ctypes.CDLL(library)
    if isinstance(refusal, SeveralKernels):
        judge.attnspec_offer(int(socket), "\n".join(refusal.names).encode())
        return
    if refusal is not None:
        judge.attnspec_refuse(int(socket), str(refusal).encode())
        return
    judge.attnspec_serve.argtypes = [ctypes.POINTER(Kernel), ctypes.c_char_p, ctypes.c_int, ctypes.c_int]
    judge.attnspec_serve(bridge.kernel, text.encode(), int(socket), int(memory))
