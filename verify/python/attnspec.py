"""Judges a Python function as a kernel: check(fn, "moba"). Pure ctypes over verify/kernel_abi.h and verify/c_api.h.

    import attnspec

    @attnspec.kernel("moba", arithmetic="fp32_weights", dtypes=["bf16", "fp32"])
    def attend(q, k, v, selection, o, lse, block, top_k, scale, causal, q_offsets, k_offsets, **_):
        ...                      # writes into selection, o and lse

    attnspec.check(attend)       # prints findings and a table; returns the exit code

A function is called with the fields of the operator's struct in kernel_abi.h as keywords; keywords("nsa") lists them.
Tensors are NumPy arrays over the judge's memory, [tokens, heads, dim], with strides. bf16 arrays are uint16: to_float32
reads them and store writes them. The function writes into the arrays of its outputs. A tensor without tokens is an array
of shape (0, heads, dim); an absent tensor is None. gate, phi_kind and activation are names, "top_k". Structs within a
struct (the branches of nsa, the parameters of phi) are namespaces: compressed.k, phi_k.position. A backward gets the
forward's fields and its own. An exception that the function raises is a finding: call-failed.

check calls the function in this process, which a crash ends. ./attnspec takes a decorated function by name, as
FILE.py:FUNCTION, and starts this file as a program to hold it in a process of its own:

    attnspec.py serve LIBRARY FILE.py[:FUNCTION] SOCKET MEMORY
"""

import ctypes
import importlib.util
import inspect
import os
import pathlib
import sys
import traceback
import types
from ctypes import CFUNCTYPE, POINTER, Structure, c_char_p, c_double, c_int, c_int32, c_int64, c_uint8, c_uint16
from ctypes import c_uint32, c_uint64, c_void_p

ABI_VERSION = 1

OPERATORS = ["dense", "selected", "moba_select", "moba", "nsa_compress", "nsa_compressed", "window", "nsa"]
DTYPES = ["bf16", "fp16", "fp32"]
EQUAL_BITS = ["none", "deterministic", "row-independent", "batch-invariant"]  # each with those before it
NAMES = {  # of fields that hold one bit
    "gate": ["top_k", "window", "sink"],
    "phi_kind": ["mean", "linear", "mlp"],
    "activation": ["relu", "silu", "gelu"],
}


# ---- The structs of kernel_abi.h and DLPack ----


class DLTensor(Structure):
    _fields_ = [
        ("data", c_void_p),
        ("device_type", c_int32),
        ("device_id", c_int32),
        ("ndim", c_int32),
        ("code", c_uint8),
        ("bits", c_uint8),
        ("lanes", c_uint16),
        ("shape", POINTER(c_int64)),
        ("strides", POINTER(c_int64)),
        ("byte_offset", c_uint64),
    ]


def struct(name, *fields):
    """A struct of (name, type) fields; those given by name alone are tensors."""
    return type(name, (Structure,), {"_fields_": [(f, DLTensor) if isinstance(f, str) else f for f in fields]})


Call = struct("Call", ("struct_size", c_uint64), ("num_sequences", c_int64), ("q_offsets", POINTER(c_int64)),
              ("k_offsets", POINTER(c_int64)), ("scale", c_double), ("causal", c_int32), ("reserved", c_int32),
              ("stream", c_void_p), ("workspace", c_void_p), ("workspace_bytes", c_int64))
Phi = struct("Phi", "position", "w", "w1", "b1", "w2", "b2")
Sizes = struct("Sizes", ("row_offsets", POINTER(c_int64)), *[(size, c_int64) for size in (
    "compress_block", "compress_stride", "block", "top_n", "initial_blocks", "local_blocks", "window_size")],
    ("phi_kind", c_int32), ("activation", c_int32))
Branch = struct("Branch", "k", "v", "o", "lse")
BranchGradients = struct("BranchGradients", "dk", "dv")

CALL, SIZES, BLOCK = ("call", Call), ("sizes", Sizes), ("block", c_int64)
MOBA = (BLOCK, ("top_k", c_int64), ("gate", c_int32), ("reserved", c_int32))
BRANCHES = ("compressed", "selected", "window")
FORWARD = {
    "dense": struct("Dense", CALL, "q", "k", "v", "o", "lse"),
    "selected": struct("Selected", CALL, BLOCK, "q", "k", "v", "selection", "o", "lse"),
    "moba_select": struct("MobaSelect", CALL, *MOBA, "q", "k", "selection"),
    "moba": struct("Moba", CALL, *MOBA, "q", "k", "v", "selection", "o", "lse"),
    "nsa_compress": struct("NsaCompress", CALL, SIZES, "tokens", ("phi", Phi), "rows"),
    "nsa_compressed": struct("NsaCompressed", CALL, SIZES, "q", "k", "v", "selection", "o", "lse"),
    "window": struct("Window", CALL, ("window_size", c_int64), "q", "k", "v", "o", "lse"),
    "nsa": struct("Nsa", CALL, SIZES, "q", *[(b, Branch) for b in BRANCHES], "gates", ("phi_k", Phi), ("phi_v", Phi),
                  "k_compressed", "v_compressed", "selection", "o"),
}
GRADIENTS = {op: ("d_o", "dq", "dk", "dv") for op in ("dense", "selected", "moba", "nsa_compressed", "window")}
GRADIENTS["nsa_compress"] = ("d_rows", "d_tokens", ("d_phi", Phi))
GRADIENTS["nsa"] = ("d_o", "dq", *[("d_" + b, BranchGradients) for b in BRANCHES], "d_gates", "dk_compressed",
                    "dv_compressed", ("d_phi_k", Phi), ("d_phi_v", Phi))
BACKWARD = {op: struct(op + "_backward", ("struct_size", c_uint64), ("forward", POINTER(FORWARD[op])), *fields)
            for op, fields in GRADIENTS.items()}

FUNCTIONS = {}  # name -> (operator, function pointer type, struct), in the order of the header
for op in OPERATORS:
    FUNCTIONS[op] = (op, CFUNCTYPE(c_void_p, POINTER(FORWARD[op])), FORWARD[op])
    if op in BACKWARD:
        FUNCTIONS[op + "_backward"] = (op, CFUNCTYPE(c_void_p, POINTER(BACKWARD[op])), BACKWARD[op])

LIMITS = ("dk", "dv", "group", "block", "top_k", "compress_block", "window_size")
Limit = struct("Limit", ("largest", c_int64), ("multiple_of", c_int64))
Limits = struct("Limits", ("dtypes", c_uint32), ("gates", c_uint32), ("phis", c_uint32), ("only_causal", c_int32),
                ("only_equal_dims", c_int32), ("only_equal_lengths", c_int32), *[(size, Limit) for size in LIMITS])
Kernel = struct("Kernel", ("struct_size", c_uint64), ("abi_version", c_int32), ("device_type", c_int32),
                ("name", c_char_p), ("summary", c_char_p), ("arithmetic", c_char_p), ("operators", c_uint32),
                ("promises", c_uint32), ("workspace_bytes", c_void_p),
                *[(name, pointer) for name, (_, pointer, _) in FUNCTIONS.items()], ("limits", Limits))
Print = CFUNCTYPE(None, c_char_p, c_void_p)


# ---- Tensors ----


def to_float32(array):
    """The values as float32, copied; uint16 holds bf16."""
    import numpy as np
    if array.dtype == np.uint16:
        return (array.astype(np.uint32) << 16).view(np.float32)
    return array.astype(np.float32)


def store(array, values):
    """Writes values into an output, rounded once to its format, to nearest with ties to even; uint16 holds bf16. What is
    too large becomes infinite."""
    import numpy as np
    values = np.asarray(values)
    with np.errstate(over="ignore", under="ignore"):
        if array.dtype != np.uint16:
            array[...] = values
            return
        if values.dtype.kind != "f":
            values = values.astype(np.float64)
        # First to float32, to odd: towards zero, and with a last bit of 1 where that is not exact. No such number lies
        # halfway between two bf16 numbers that the value itself is not halfway between, so that the second rounding
        # gives what one alone would.
        single = np.ascontiguousarray(values, np.float32)
        back = single.astype(values.dtype)
        bits = single.view(np.uint32) - (np.abs(back) > np.abs(values))
        bits = (bits | (back != values)).astype(np.uint32)
    rounded = (bits + (np.uint32(0x7FFF) + (bits >> 16 & 1))) >> 16
    array[...] = np.where(np.isnan(values), 0x7FC0, rounded).astype(np.uint16).reshape(values.shape)


def as_array(tensor):
    """A NumPy array over a tensor's memory, also where it has no tokens; None where it is absent."""
    import numpy as np
    if not tensor.data:
        return None
    dtype = {(0, 32): np.int32, (2, 32): np.float32, (2, 16): np.float16, (4, 16): np.uint16}[tensor.code, tensor.bits]
    shape, size = tensor.shape[:3], tensor.bits // 8
    if 0 in shape:
        return np.empty(shape, dtype)
    strides = [size * stride for stride in tensor.strides[:3]]
    span = sum((n - 1) * stride for n, stride in zip(shape, strides)) + size
    memory = (ctypes.c_char * span).from_address(tensor.data)
    return np.ndarray(shape, dtype, memory, strides=strides)


NOT_FOR_FUNCTIONS = ("struct_size", "reserved", "stream", "workspace", "workspace_bytes", "forward")


def names_of(struct_type):
    """The names that fields_of gives to the fields of a struct, in their order."""
    names = []
    for name, field_type in struct_type._fields_:
        if name in ("call", "sizes"):
            names += names_of(field_type)
        elif name not in NOT_FOR_FUNCTIONS:
            names.append(name)
    return names


def keywords(operator, backward=False):
    """The keywords that a function of an operator is called with. Those of a backward begin with the forward's."""
    return names_of(FORWARD[operator]) + (names_of(BACKWARD[operator]) if backward else [])


def fields_of(params):
    """The fields of a struct as a function gets them: tensors as arrays, sub-structs as namespaces, bits as names; those
    of call and sizes beside the others."""
    import numpy as np
    fields = {}
    for name, _ in params._fields_:
        value = getattr(params, name)
        if name in ("call", "sizes"):
            fields.update(fields_of(value))
        elif isinstance(value, DLTensor):
            fields[name] = as_array(value)
        elif isinstance(value, Structure):
            fields[name] = types.SimpleNamespace(**fields_of(value))
        elif name in NAMES:
            fields[name] = NAMES[name][value.bit_length() - 1]
        elif name not in NOT_FOR_FUNCTIONS:
            fields[name] = value
    if "num_sequences" in fields:
        for name in ("q_offsets", "k_offsets"):
            fields[name] = np.array(fields[name][: fields["num_sequences"] + 1])
    if "row_offsets" in fields and "num_sequences" in fields:
        fields["row_offsets"] = np.array(fields["row_offsets"][: fields["num_sequences"] + 1])
    if "causal" in fields:
        fields["causal"] = bool(fields["causal"])
    return fields


# ---- Kernels ----


class Declaration:
    """What a kernel declares beside its functions."""

    def __init__(self, operator, backward=None, arithmetic="", exports_selection=True, equal_bits="deterministic",
                 unordered_backward=False, summary="", dtypes=(), gates=(), phis=(), only_causal=False,
                 only_equal_dims=False, only_equal_lengths=False, **limits):
        """operator: one of OPERATORS; backward: a function, or None. equal_bits: one of EQUAL_BITS, each of which includes
        those before it; unordered_backward: it holds for the forward alone. Limits as in kernel_abi.h: dtypes, gates and
        phis as names, each size of LIMITS as largest or (largest, multiple_of). Raises ValueError that names field and
        value."""
        if operator not in OPERATORS:
            raise ValueError(f"operator '{operator}': is none of {', '.join(OPERATORS)}")
        if backward is not None and operator not in BACKWARD:
            raise ValueError(f"backward: {operator} has none")
        if equal_bits not in EQUAL_BITS:
            raise ValueError(f"equal_bits '{equal_bits}': is none of {', '.join(EQUAL_BITS)}")
        self.promises = exports_selection + (2 << EQUAL_BITS.index(equal_bits)) - 2 + 16 * unordered_backward
        self.operator, self.backward, self.arithmetic = operator, backward, arithmetic
        self.summary = summary
        self.limits = Limits(bits("dtype", dtypes, DTYPES), bits("gate", gates, NAMES["gate"]),
                             bits("phi", phis, NAMES["phi_kind"]), only_causal, only_equal_dims, only_equal_lengths)
        for name, limit in limits.items():
            if name not in LIMITS:
                raise ValueError(f"limit '{name}': is none of {', '.join(LIMITS)}")
            setattr(self.limits, name, Limit(*(limit if isinstance(limit, tuple) else (limit, 0))))


def bits(field, chosen, names):
    """The bits of names; 0, which is all of them, for none."""
    for name in chosen:
        if name not in names:
            raise ValueError(f"{field} '{name}': is none of {', '.join(names)}")
    return sum(1 << names.index(name) for name in chosen)


def kernel(operator, **declaration):
    """Declares a function to be a kernel, for check and for ./attnspec. Arguments as of Declaration."""

    def declare(fn):
        fn.attnspec = Declaration(operator, **declaration)
        return fn

    return declare


def where_raised(error, fn):
    """FILE.py:LINE of an exception: the innermost line in the folder of the kernel's file; elsewhere, the innermost line
    of all; if the function could not be entered, its first line. Empty where Python does not know."""
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

    def __init__(self, fn, declaration, prints=True):
        """prints: tracebacks go to standard error, one for each place where the function raises. Without it they follow
        the message of every call that failed, for the judge to print."""
        self.message = None  # what the last call that failed said
        self.prints, self.printed = prints, set()
        op = declaration.operator
        self.kernel = Kernel(
            ctypes.sizeof(Kernel), ABI_VERSION, 1, fn.__name__.encode(),
            (declaration.summary or "a Python function").encode(), declaration.arithmetic.encode(),
            1 << OPERATORS.index(op), declaration.promises)
        self.kernel.limits = declaration.limits
        self.set(op, fn)
        if declaration.backward is not None:
            self.set(op + "_backward", declaration.backward)

    def set(self, name, fn):
        _, pointer, params_type = FUNCTIONS[name]

        def call(params):
            try:
                fields = fields_of(params[0])
                given = params[0]
                if hasattr(given, "forward"):
                    fields = {**fields_of(given.forward[0]), **fields}
                else:
                    given = given.call
                if given.struct_size < ctypes.sizeof(params_type):
                    raise ValueError(f"struct_size={given.struct_size}: this module has {ctypes.sizeof(params_type)}")
                fn(**fields)
            except BaseException as error:  # nothing may pass through C
                self.message = ctypes.create_string_buffer(self.describe(error, fn).encode(errors="replace"))
                return ctypes.addressof(self.message)
            return None

        setattr(self.kernel, name, pointer(call))

    def describe(self, error, fn):
        """mine.py:312: ValueError: shapes differ; and the traceback after it, unless this prints it."""
        place = (where_raised(error, fn), type(error).__name__)
        line = ": ".join(filter(None, (*place, str(error).replace("\n", " "))))
        trace = "".join(traceback.format_exception(type(error), error, error.__traceback__))
        if not self.prints:
            return f"{line}\n{trace}"
        if place not in self.printed:
            self.printed.add(place)
            print(trace, end="", file=sys.stderr)
        return line


def library():
    """The judge. ATTNSPEC_LIBRARY names it; else it is the newest one under build/. Raises FileNotFoundError."""
    top = pathlib.Path(__file__).resolve().parents[2]
    path = os.environ.get("ATTNSPEC_LIBRARY")
    if path is None:
        built = sorted(top.glob("build/*/verify/libattnspec_c.so"), key=lambda p: p.stat().st_mtime)
        if not built:
            raise FileNotFoundError("libattnspec_c.so: is not built (ninja -C build/release attnspec_c)")
        path = str(built[-1])
    judge = ctypes.CDLL(path)
    judge.attnspec_check.argtypes = [POINTER(Kernel), c_char_p, c_int, c_char_p, c_int, Print, c_void_p]
    return judge


def check(fn, operator=None, *, level=1, cases=None, details=False, name=None, **declaration):
    """Judges a function, prints findings and a table, and returns the exit code: 0 all judged and passed, 1 a finding, 2
    could not run, 3 inconclusive.

    operator and declaration: as of Declaration, unless the function is decorated with kernel. cases: texts of cases
    instead of those of the level. details: also everything that was judged of each case."""
    if operator is None and not hasattr(fn, "attnspec"):
        raise ValueError(f"operator: is not given, and {fn.__name__} is not decorated with attnspec.kernel")
    declared = fn.attnspec if operator is None else Declaration(operator, **declaration)
    bridge = Bridge(fn, declared)
    show = Print(lambda text, _: print(text.decode(), end="", flush=True))
    text = None if cases is None else "\n".join(cases).encode()
    return library().attnspec_check(bridge.kernel, (name or fn.__name__).encode(), level, text, details, show, None)


# ---- The program ----


def find_function(text):
    """FILE.py:FUNCTION as a function, or FILE.py as its only kernel. Raises ValueError in one line."""
    path, _, name = (text, "", "") if text.endswith(".py") else text.rpartition(":")
    if not path.endswith(".py") or not os.path.exists(path):
        raise ValueError(f"kernel '{text}': there is no such file")
    spec = importlib.util.spec_from_file_location(pathlib.Path(path).stem, path)
    module = importlib.util.module_from_spec(spec)
    sys.modules.setdefault("attnspec", sys.modules[__name__])
    sys.path.append(os.path.dirname(os.path.abspath(path)))  # last, so that its random.py is not everybody's
    try:
        spec.loader.exec_module(module)
    except Exception as error:
        raise ValueError(f"kernel '{text}': {type(error).__name__}: {error}".replace("\n", " ")) from error
    if not name:
        return only_kernel(module, text)
    fn = getattr(module, name, None)
    if fn is None:
        raise ValueError(f"kernel '{text}': the file has no {name}")
    if not hasattr(fn, "attnspec"):
        raise ValueError(f"kernel '{text}': is not decorated with attnspec.kernel")
    return fn


class SeveralKernels(ValueError):
    """A file has several kernels where one is wanted; names: FILE.py:FUNCTION of each, in the order of the file."""

    def __init__(self, text, names):
        super().__init__(f"kernel '{text}': the file has several kernels, name one: {', '.join(names)}")
        self.names = names


def only_kernel(module, text):
    """The only decorated function of a module. Raises SeveralKernels, or ValueError in one line if there is none."""
    kernels = {}  # a function with two names has the first
    for name, value in vars(module).items():
        if isinstance(getattr(value, "attnspec", None), Declaration) and getattr(value, "__module__", None) == module.__name__:
            kernels.setdefault(id(value), (name, value))
    if len(kernels) == 1:
        return kernels.popitem()[1][1]
    names = [f"{text}:{name}" for name, _ in kernels.values()]
    if not names:
        raise ValueError(f"kernel '{text}': the file has no function that is decorated with attnspec.kernel")
    raise SeveralKernels(text, names)


def serve(path, text, socket, memory):
    """Serves the function FILE.py:FUNCTION to the judge at the other end of a socket; path: libattnspec_c.so."""
    fn, error = None, None
    try:
        fn = find_function(text)  # first, for what it imports: PyTorch wants its libraries loaded before others
    except ValueError as raised:
        error = raised
    judge = ctypes.CDLL(path)
    if isinstance(error, SeveralKernels):
        judge.attnspec_offer(int(socket), "\n".join(error.names).encode())
        return
    if error is not None:
        judge.attnspec_refuse(int(socket), str(error).encode())
        return
    judge.attnspec_serve.argtypes = [POINTER(Kernel), c_char_p, c_int, c_int]
    bridge = Bridge(fn, fn.attnspec, prints=False)
    judge.attnspec_serve(bridge.kernel, text.encode(), int(socket), int(memory))


if __name__ == "__main__":
    if sys.argv[1:2] != ["serve"] or len(sys.argv) != 6:
        sys.exit("attnspec.py: is a module, and what ./attnspec starts for FILE.py:FUNCTION")
    serve(*sys.argv[2:])
