"""What the adapters share: where the public sources are, packed tensors, sequences, padding.

An adapter imports this file first: it says in one line what is missing.
"""

import importlib
import os
import pathlib
import subprocess
import sys

try:
    import torch
except ImportError as error:
    raise ImportError(f"needs PyTorch 2.11 in the python3 that runs it ({error}); ATTNSPEC_PYTHON names "
                      "another") from None

# The tests of the adapters set this to "cpu", where PyTorch has the operator without a GPU.
DEVICE = os.environ.get("ATTNSPEC_PUBLIC_DEVICE", "cuda")
ON_DEVICE = {"tensors": "torch", "device": DEVICE}  # of every kernel

# Subfolders of ATTNSPEC_PUBLIC, and the repositories that belong there.
PROJECTS = {
    "moba": "MoonshotAI/MoBA",
    "flash_moba": "mit-han-lab/flash-moba",
    "fla": "fla-org/flash-linear-attention",
    "xunhaolai": "XunhaoLai/native-sparse-attention-triton",
    "fsa": "Relaxed-System-Lab/Flash-Sparse-Attention",
    "mdy666": "mdy666/Scalable-Flash-Native-Sparse-Attention",
}


# ---- What an adapter needs ----


def need_gpu():
    """Raises an ImportError in one line where there is no GPU."""
    if DEVICE != "cpu" and not torch.cuda.is_available():
        raise ImportError("needs a CUDA GPU that PyTorch sees (torch.cuda.is_available() is false)")


def source_folder(project):
    """The folder that the environment names for a project, or None: ATTNSPEC_PUBLIC_<PROJECT>, else the subfolder of
    ATTNSPEC_PUBLIC, if it is there."""
    single = os.environ.get("ATTNSPEC_PUBLIC_" + project.upper())
    if single:
        return pathlib.Path(single)
    folder = os.environ.get("ATTNSPEC_PUBLIC")
    return pathlib.Path(folder) / project if folder and (pathlib.Path(folder) / project).is_dir() else None


def needs(project):
    """What to do where a project is missing, for one line."""
    return (f"needs {PROJECTS[project]}: install its package, or check it out and name its folder in "
            f"ATTNSPEC_PUBLIC_{project.upper()} (or the folder above {project}/ in ATTNSPEC_PUBLIC)")


def load(project, *modules):
    """Modules of a public project, from the folder in the environment or else as installed. Raises an ImportError in
    one line."""
    folder = source_folder(project)
    if folder is not None:
        if not folder.is_dir():
            raise ImportError(f"{needs(project)}; {folder} is no folder")
        sys.path.insert(0, str(folder))
    loaded = []
    for name in modules:
        try:
            loaded.append(importlib.import_module(name))
        except ModuleNotFoundError as error:
            if error.name is not None and name.startswith(error.name):
                raise ImportError(needs(project)) from None
            raise ImportError(f"{PROJECTS[project]} needs the Python package {error.name}, which is missing") from None
        except Exception as error:
            raise ImportError(f"{PROJECTS[project]}: {name} cannot be imported: {type(error).__name__}: "
                              f"{' '.join(str(error).split())}") from None
    return loaded


def version(project, package=""):
    """The commit of a project's folder, from its file COMMIT or from git; else the version of the installed package."""
    folder = source_folder(project)
    if folder is None:
        from importlib import metadata
        try:
            return metadata.version(package or project)
        except metadata.PackageNotFoundError:
            return "unknown"
    if (folder / "COMMIT").is_file():
        return (folder / "COMMIT").read_text().strip()[:7]
    if (folder / ".git").exists():
        done = subprocess.run(["git", "-C", str(folder), "rev-parse", "--short=7", "HEAD"], capture_output=True,
                              text=True)
        if done.returncode == 0:
            return done.stdout.strip()
    return "unknown"


# ---- Tensors ----


def packed(tensor):
    """A packed copy."""
    return tensor.clone(memory_format=torch.contiguous_format)


def write(output, tensor):
    """Writes a tensor into an output. Equal formats keep their bits, NaN's too; fp32 is rounded once; a 16-bit tensor
    does not fit another format, which would hide a rounding."""
    tensor = tensor.detach()
    if tensor.dtype not in (output.dtype, torch.float32):
        raise TypeError(f"a {tensor.dtype} tensor for an output of {output.dtype}")
    if tensor.shape != output.shape:
        raise ValueError(f"a tensor of shape {tuple(tensor.shape)} for an output of shape {tuple(output.shape)}")
    if tensor.dtype == output.dtype and tensor.element_size() == 2:  # as integers: a copy of floats may change NaN
        output, tensor = output.view(torch.int16), tensor.view(torch.int16)
    output.copy_(tensor)


def pad_features(tensor, size):
    """Zeros after the features, up to `size`: they change no product, and their gradients are left out."""
    return torch.nn.functional.pad(tensor, (0, size - tensor.shape[-1])) if tensor.shape[-1] < size else tensor


def up_to(size, multiple):
    """The next multiple."""
    return -(-size // multiple) * multiple


def power_of_two(size, at_least=1):
    """The next power of two."""
    return max(at_least, 1 << (size - 1).bit_length())


def pad_front(tensor, rows):
    """Rows of zeros before the rows."""
    return torch.cat([tensor.new_zeros(rows, *tensor.shape[1:]), tensor]) if rows > 0 else tensor


def pad_group(tensor, kv_heads, size):
    """Heads of zeros, so that each group of query heads has `size`: [tokens, heads, dim]. A head with q = 0 and d_o = 0
    adds exactly nothing to dk and dv."""
    group = tensor.shape[1] // kv_heads
    if group == size:
        return tensor
    groups = tensor.unflatten(1, (kv_heads, group))
    return torch.nn.functional.pad(groups, (0, 0, 0, size - group)).flatten(1, 2)


def cut_group(tensor, kv_heads, group):
    """The inverse: the first heads of every group."""
    return tensor.unflatten(1, (kv_heads, -1))[:, :, :group].flatten(1, 2)


def repeat_heads(tensor, group):
    """Keys or values, once for each query head of a group."""
    return tensor.repeat_interleave(group, 1) if group > 1 else tensor


def sum_group(gradient, group):
    """The gradients of a group's repeated keys, summed in fp32: [tokens, heads, dim]."""
    return gradient.float().unflatten(1, (-1, group)).sum(2) if group > 1 else gradient


# ---- Sequences ----


class Sequence:
    """A sequence of a call: its rows of queries and of keys."""

    def __init__(self, number, q_begin, q_end, k_begin, k_end):
        self.number = number
        self.queries, self.keys = slice(q_begin, q_end), slice(k_begin, k_end)
        self.num_queries, self.num_keys = q_end - q_begin, k_end - k_begin


def sequences(q_offsets, k_offsets):
    """All sequences of a call, empty ones too."""
    queries, keys = q_offsets.tolist(), k_offsets.tolist()
    return [Sequence(s, *queries[s:s + 2], *keys[s:s + 2]) for s in range(len(queries) - 1)]


def rows_with_keys(sequence, causal):
    """The queries of a sequence that see a key at all, as rows of the call."""
    queries, keys = sequence.num_queries, sequence.num_keys
    first = queries if keys == 0 else max(0, queries - keys) if causal else 0
    return slice(sequence.queries.start + first, sequence.queries.stop)


def no_keys(o, lse):
    """Writes what rows without keys have: o = 0, lse = -infinity."""
    o.zero_()
    lse.fill_(-torch.inf)


def zero(*gradients):
    """Writes zeros."""
    for gradient in gradients:
        gradient.zero_()


def positive_scale(q, scale):
    """Query and scale for kernels that take a scale above 0 alone: -q, or 0 for a scale of 0. Both are exact."""
    if scale > 0:
        return q, scale
    return (-q, -scale) if scale < 0 else (torch.zeros_like(q), 1.0)


def positive_scale_gradient(dq, scale):
    """dq of what positive_scale gave."""
    return dq if scale > 0 else -dq if scale < 0 else torch.zeros_like(dq)


# ---- lse ----


def lse_from_kernel(lse):
    """lse of a kernel that writes +infinity for rows without keys, which this project writes as -infinity."""
    return torch.where(lse == torch.inf, -torch.inf, lse)


def lse_to_kernel(lse):
    """The inverse, for that kernel's backward."""
    return torch.where(lse == -torch.inf, torch.inf, lse)


def natural(lse_log2):
    """A log-sum-exp to base 2 as one to base e."""
    return lse_log2 * 0.6931471805599453


def offsets_on_gpu(offsets):
    """Offsets as int32 on the GPU."""
    return offsets.to(DEVICE, torch.int32)


def longest(offsets):
    """The length of the longest sequence."""
    return max(offsets.diff().tolist(), default=0)


def selection_mask(selection, num_blocks):
    """A selection [rows, heads, slots] as a mask [rows, heads, blocks]; -1 and blocks beyond the last are left out."""
    given = selection.long()
    mask = torch.zeros(*given.shape[:2], num_blocks + 1, dtype=torch.bool, device=DEVICE)
    mask.scatter_(2, torch.where((given < 0) | (given >= num_blocks), num_blocks, given), True)
    return mask[:, :, :num_blocks]


# ---- Public sources as modules ----


def bare_package(project, name, subfolder=""):
    """Makes a package importable without running its __init__, which often imports what an adapter does not need. Of a
    folder from the environment, else of the installed package. Raises an ImportError in one line."""
    import importlib.util
    import re
    import types
    folder = source_folder(project)
    if folder is not None:
        path = folder / subfolder / name.replace(".", "/")
        if not path.is_dir():
            raise ImportError(f"{needs(project)}; {path} is no folder")
        paths = [str(path)]
    elif "." in name and name.rpartition(".")[0] in sys.modules:
        parent, _, last = name.rpartition(".")
        paths = [f"{p}/{last}" for p in sys.modules[parent].__path__]
    else:
        spec = importlib.util.find_spec(name)
        if spec is None or not spec.submodule_search_locations:
            raise ImportError(needs(project))
        paths = list(spec.submodule_search_locations)
    package = types.ModuleType(name)
    package.__path__ = paths
    for path in paths:  # which some packages import from themselves
        init = pathlib.Path(path) / "__init__.py"
        text = init.read_text() if init.is_file() else ""
        found = re.search(r"""^__version__ *= *['"]([^'"]+)""", text, re.MULTILINE)
        if found:
            package.__version__ = found[1]
    sys.modules[name] = package


def load_changed(project, name, changes):
    """A module of which lines of the source are other ones, in memory: {old: new}, each old one once. The adapter's
    summary has to say so."""
    import importlib.util
    import linecache
    import types
    try:
        spec = importlib.util.find_spec(name)
    except ModuleNotFoundError:
        spec = None
    if spec is None or not spec.origin:
        raise ImportError(needs(project))
    text = pathlib.Path(spec.origin).read_text()
    for old, new in changes.items():
        if text.count(old) != 1:
            raise ImportError(f"{PROJECTS[project]}: {name} has not the one line '{old.strip()}' that is to be changed")
        text = text.replace(old, new)
    module = types.ModuleType(name)
    module.__file__, module.__package__ = f"{spec.origin} (changed)", name.rpartition(".")[0]
    linecache.cache[module.__file__] = (len(text), None, text.splitlines(True), module.__file__)  # triton reads it
    sys.modules[name] = module
    exec(compile(text, module.__file__, "exec"), module.__dict__)
    return module


def one_config(*kernels):
    """Leaves an autotuned Triton kernel one configuration, that of four warps, unless ATTNSPEC_PUBLIC_AUTOTUNE=all:
    trying a dozen of them takes minutes for each class of shapes."""
    if os.environ.get("ATTNSPEC_PUBLIC_AUTOTUNE") == "all":
        return
    for kernel in kernels:
        while not hasattr(kernel, "configs") and hasattr(kernel, "fn"):
            kernel = kernel.fn
        configs = getattr(kernel, "configs", [])
        if len(configs) > 1:
            kernel.configs = [next((c for c in configs if c.num_warps == 4), configs[0])]


def few_variants(module, names):
    """Triton compiles a kernel again when an integer argument becomes 1 or a multiple of 16. Stops this for the
    arguments whose whole name matches the pattern: the same code runs, compiled for all values, and level 1 takes
    minutes less."""
    import re
    from triton.runtime.jit import JITFunction
    for kernel in vars(module).values():
        for parameter in kernel.params if isinstance(kernel, JITFunction) else []:
            if not parameter.is_constexpr and re.fullmatch(names, parameter.name):
                parameter.do_not_specialize = True


# ---- Selections as kernels want them ----


def kernel_block(block, smallest, largest):
    """The largest block size of a kernel, a power of two, that divides a block size."""
    size = largest
    while size > smallest and block % size:
        size //= 2
    return size


def packed_selection(selection, q_offsets, k_offsets, block, size, filler=-1):
    """A selection in blocks of `size` tokens, of which the blocks that the causal row sees come first, in ascending
    order, and `filler` after them; and which rows see a block at all. Blocks of the future are left out. int32 [rows,
    heads, slots], bool [rows, heads]."""
    parts, none = block // size, torch.iinfo(torch.int32).max
    given = selection.long()[..., None]
    split = torch.where(given < 0, none, given * parts + torch.arange(parts, device=given.device)).flatten(2)
    position = torch.cat([torch.arange(sequence.num_keys - sequence.num_queries, sequence.num_keys)
                          for sequence in sequences(q_offsets, k_offsets)])
    own = (position // size).to(split.device)  # below 0 for a row that sees no key
    split = torch.where(split > own[:, None, None], none, split).sort(2).values
    return torch.where(split == none, filler, split).int(), (split != none).any(2)


def without_empty(offsets):
    """The offsets of the sequences that are not empty."""
    return offsets.unique_consecutive()


def write_selection(selection, blocks):
    """Writes blocks [rows, heads, slots] into a selection with at least as many slots; -1 after them."""
    selection.fill_(-1)
    slots = min(selection.shape[2], blocks.shape[2])
    extra = blocks[:, :, slots:]
    if (extra >= 0).any():
        raise ValueError(f"the kernel selected more blocks than the {slots} slots of a row")
    selection[:, :, :slots] = blocks[:, :, :slots]
