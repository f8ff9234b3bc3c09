#!/usr/bin/env python3
"""Builds the CUDA extension of a folder of mit-han-lab/flash-moba: bf16, causal, 64 and 128 features.

    ATTNSPEC_PUBLIC=/sources verify/public/build_flash_moba.py

Needs nvcc, ninja and CUTLASS's headers in csrc/cutlass/include, or a folder cutlass/include beside flash_moba/. The
project's setup.py builds 73 files; these sixteen take some three minutes on sixteen cores. The forward without a causal
mask is among them: the package calls it where no sequence has more than one query. What the other files would define is
left undefined and found missing only when it is called.
"""

import importlib.util
import os
import pathlib
import sys

NAME = "flash_moba_cuda"
KINDS = ["flash_moba/src/flash_moba_fwd", "flash_moba/src/flash_moba_bwd", "flash_topk/src/flash_topk16",
         "flash_topk/src/flash_topk32", "flash_topk/src/flash_topk64"]


def built(folder):
    return pathlib.Path(folder) / "build_attnspec" / f"{NAME}.so"


def load(folder):
    """Imports the extension. Raises an ImportError in one line where it is not built."""
    path = built(folder)
    if importlib.util.find_spec(NAME) is not None:
        return
    if not path.is_file():
        raise ImportError("needs the extension of mit-han-lab/flash-moba: verify/public/build_flash_moba.py builds "
                          f"{path}")
    flags = sys.getdlopenflags()
    sys.setdlopenflags(os.RTLD_LAZY)  # what was not built is undefined
    try:
        spec = importlib.util.spec_from_file_location(NAME, path)
        sys.modules[NAME] = importlib.util.module_from_spec(spec)
        spec.loader.exec_module(sys.modules[NAME])
    finally:
        sys.setdlopenflags(flags)


def not_causal(csrc, size):
    """The file of a forward without a causal mask. The project generates such files; where a copy of it lacks this one
    it is made from its causal sibling, from which it differs in one constant."""
    name = f"flash_moba/src/flash_moba_fwd_hdim{size}_bf16_sm80.cu"
    if not (csrc / name).is_file():
        causal = (csrc / name.replace("_sm80", "_causal_sm80")).read_text()
        if causal.count(", true>") != 2:
            sys.exit(f"build_flash_moba: {name} is missing, and its causal sibling is not as expected")
        (csrc / name).write_text(causal.replace(", true>", ", false>"))
    return name


def build(folder):
    from torch.utils import cpp_extension
    csrc, output = folder / "csrc", built(folder).parent
    cutlass = next((path for path in (csrc / "cutlass/include", folder.parent / "cutlass/include")
                    if (path / "cutlass/cutlass.h").is_file()), None)
    if cutlass is None:
        sys.exit(f"build_flash_moba: needs CUTLASS's headers in {csrc}/cutlass/include or "
                 f"{folder.parent}/cutlass/include")
    output.mkdir(exist_ok=True)
    os.environ.setdefault("TORCH_CUDA_ARCH_LIST", "9.0")
    os.environ.setdefault("MAX_JOBS", str(os.cpu_count()))
    sources = ["flash_moba_binding.cpp", "flash_moba/flash_moba_api.cpp", "flash_topk/flash_topk_api.cpp",
               "flash_topk/src/varlen_sort.cu"]
    sources += [f"{kind}_hdim{size}_bf16_causal_sm80.cu" for kind in KINDS for size in (64, 128)]
    sources += [not_causal(csrc, size) for size in (64, 128)]
    without = ["-DFLASHMOBA_DISABLE_DROPOUT", "-DFLASHMOBA_DISABLE_ALIBI", "-DFLASHMOBA_DISABLE_SOFTCAP"]
    includes = [csrc / name for name in ("flash_moba", "flash_moba/src", "flash_topk", "flash_topk/src")] + [cutlass]
    cpp_extension.load(
        NAME, [str(csrc / source) for source in sources], extra_cflags=["-O3", "-std=c++17", *without],
        extra_cuda_cflags=["-O3", "-std=c++17", "-U__CUDA_NO_HALF_OPERATORS__", "-U__CUDA_NO_HALF_CONVERSIONS__",
                           "-U__CUDA_NO_HALF2_OPERATORS__", "-U__CUDA_NO_BFLOAT16_CONVERSIONS__",
                           "--expt-relaxed-constexpr", "--expt-extended-lambda", "--use_fast_math", *without],
        extra_ldflags=["-Wl,-z,lazy"], extra_include_paths=[str(path) for path in includes],
        build_directory=str(output), verbose=True)


def main():
    if len(sys.argv) > 1:
        folder = pathlib.Path(sys.argv[1])
    else:
        import common
        folder = common.source_folder("flash_moba")
    if folder is None or not (folder / "csrc").is_dir():
        sys.exit("build_flash_moba: needs a folder of mit-han-lab/flash-moba, as argument or in ATTNSPEC_PUBLIC")
    flags = sys.getdlopenflags()
    sys.setdlopenflags(os.RTLD_LAZY)
    try:
        build(folder.resolve())
    finally:
        sys.setdlopenflags(flags)
    print(built(folder))


if __name__ == "__main__":
    main()
