"""Installs the build to a fresh prefix, and uses what is there: the program, headers, and find_package(attnspec).

    install_test.py BUILD SOURCE VERSION GENERATOR C-COMPILER CXX-COMPILER
"""
import pathlib
import platform
import re
import subprocess
import sys
import tempfile

build, source, version, generator, c_compiler, cxx_compiler = sys.argv[1:]
example = pathlib.Path(source) / "verify/examples/find_package"


def run(*command):
    """Standard output of a command, which must succeed and write nothing that is an error."""
    result = subprocess.run([str(word) for word in command], capture_output=True, text=True)
    assert result.returncode == 0, f"{command}: {result.returncode}\n{result.stdout}{result.stderr}"
    return result.stdout


def unresolved_includes(headers):
    """Includes of headers of the project that are not installed."""
    for header in headers.rglob("*.h*"):
        for name in re.findall(r'#include "(.+)"', header.read_text()):
            if not (headers / name).is_file():
                yield f"{header.relative_to(headers)}: {name}"


def test_installed_files(prefix):
    for name in ("bin/attnspec", "libexec/attnspec_worker", "lib/libattnspec_c.so", "lib/libattnspec_reference.a",
                 "share/attnspec/golden/moba_0.safetensors",
                 "share/attnspec/activations/layer0.safetensors", "share/attnspec/bench/dense_baselines.py",
                 "include/attnspec/reference/moba/moba.hpp", "include/attnspec/verify/abi/kernel_abi.h"):
        assert (prefix / name).is_file(), name
    assert list((prefix / "share/attnspec/python").rglob("*.py"))
    missing = list(unresolved_includes(prefix / "include/attnspec"))
    assert not missing, missing
    for targets in (prefix / "lib/cmake/attnspec").glob("*.cmake"):
        text = targets.read_text()
        assert source not in text and build not in text, f"{targets} names a folder of the build"
        assert "-Werror" not in text, f"{targets} hands on the project's own warnings"


def test_program(prefix, binary):
    program = prefix / "bin/attnspec"
    assert run(program, "--version") == f"attnspec {version}\n"
    cases = pathlib.Path(source) / "verify/examples/c/dense_moba.cases"
    judged = run(program, "replay", cases, "--kernel", binary / "kernel.so")
    assert judged.count("verdict: pass") == 12, judged


def test_example(prefix, binary):
    # Instructions that the libraries were not compiled with: Eigen's memory changes hands all the same.
    wide = ["-DCMAKE_CXX_FLAGS=-march=native"] if platform.machine() == "x86_64" else []
    run("cmake", "-S", example, "-B", binary, "-G", generator, f"-DCMAKE_PREFIX_PATH={prefix}", *wide,
        f"-DCMAKE_C_COMPILER={c_compiler}", f"-DCMAKE_CXX_COMPILER={cxx_compiler}", "-DCMAKE_BUILD_TYPE=Release")
    run("cmake", "--build", binary)
    assert run(binary / "reference") == "o[0] = 1\no[1] = 1.5\no[2] = 3\no[3] = 3.5\n"
    assert "verdict: pass" in run(binary / "judge")
    assert "2 cases: 2 pass" in run(binary / "judge_in_process")


with tempfile.TemporaryDirectory() as folder:
    prefix, binary = pathlib.Path(folder) / "prefix", pathlib.Path(folder) / "example"
    run("cmake", "--install", build, "--prefix", prefix)
    test_installed_files(prefix)
    test_example(prefix, binary)
    test_program(prefix, binary)
