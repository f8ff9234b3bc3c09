"""Makes the wheel of the Python package, with the program inside: what pip calls (PEP 517), with Python alone.

The program is that of ./attnspec: built where it is not, by the same command. ATTNSPEC_BUILD names another build, as it
is. The wheel has the program and its files in the folders that verify/cases/paths.hpp describes, and the shared
libraries that they need beside those of glibc, so that it runs where no package is installed.
"""

from __future__ import annotations

import base64
import hashlib
import os
import pathlib
import re
import subprocess
import sys
import sysconfig
import zipfile

HERE = pathlib.Path(__file__).resolve().parent
TOP = HERE.parents[1]
TAG = "py3-none-" + re.sub(r"[-.]", "_", sysconfig.get_platform())
OF_GLIBC = re.compile(r"(ld-linux|libc|libm|libdl|libpthread|librt|linux-vdso)\b")

PROGRAMS = {  # in the build: in the package
    "fuzz/attnspec": "bin/attnspec",
    "verify/attnspec_worker": "libexec/attnspec_worker",
    "verify/libattnspec_c.so": "lib/libattnspec_c.so",
}
DATA = {  # in the sources: in the package
    "verify/golden/*.safetensors": "share/attnspec/golden",
    "verify/cases/activations/*.safetensors": "share/attnspec/activations",
    "fuzz/bench/*.py": "share/attnspec/bench",
}


def build_wheel(wheel_directory, config_settings=None, metadata_directory=None):
    """Writes the wheel and returns its name."""
    build, version = built(), version_of_project()
    name = f"attnspec-{version}-{TAG}.whl"
    records = []
    with zipfile.ZipFile(pathlib.Path(wheel_directory) / name, "w", zipfile.ZIP_DEFLATED) as wheel:

        def add(path, data, mode=0o644):
            entry = zipfile.ZipInfo(path)
            entry.external_attr = (0o100000 | mode) << 16
            wheel.writestr(entry, data, zipfile.ZIP_DEFLATED)
            digest = base64.urlsafe_b64encode(hashlib.sha256(data).digest()).rstrip(b"=").decode()
            records.append(f"{path},sha256={digest},{len(data)}")

        for file in sorted((HERE / "attnspec").glob("*")):
            if file.suffix in (".py", ".typed"):
                add(f"attnspec/{file.name}", file.read_bytes())
        for source, target in PROGRAMS.items():
            add(f"attnspec/{target}", (build / source).read_bytes(), 0o755)
        for library in libraries(build / source for source in PROGRAMS):
            add(f"attnspec/lib/{library.name}", library.read_bytes(), 0o755)
        for pattern, target in DATA.items():
            for file in sorted(TOP.glob(pattern)):
                add(f"attnspec/{target}/{file.name}", file.read_bytes())
        info = f"attnspec-{version}.dist-info"
        add(f"{info}/licenses/LICENSE", (TOP / "LICENSE").read_bytes())
        for file, text in metadata(version).items():
            add(f"{info}/{file}", text.encode())
        wheel.writestr(f"{info}/RECORD", "\n".join([*records, f"{info}/RECORD,,"]) + "\n")
    return name


def prepare_metadata_for_build_wheel(metadata_directory, config_settings=None):
    """Writes what pip reads before there is a wheel, and returns its folder."""
    version = version_of_project()
    info = pathlib.Path(metadata_directory) / f"attnspec-{version}.dist-info"
    info.mkdir()
    for file, text in metadata(version).items():
        (info / file).write_text(text)
    return info.name


def metadata(version):
    """The files of .dist-info."""
    return {
        "METADATA": f"Metadata-Version: 2.1\nName: attnspec\nVersion: {version}\n"
                    "Summary: Tells you whether a block-sparse attention kernel is correct\n"
                    "Requires-Python: >=3.9\nRequires-Dist: numpy\n",
        "WHEEL": f"Wheel-Version: 1.0\nGenerator: attnspec\nRoot-Is-Purelib: false\nTag: {TAG}\n",
        "entry_points.txt": "[console_scripts]\nattnspec = attnspec.program:main\n\n"
                            "[pytest11]\nattnspec = attnspec.pytest_plugin\n",
    }


def version_of_project():
    return re.search(r"project\(attnspec VERSION ([0-9.]+)", (TOP / "CMakeLists.txt").read_text())[1]


def built():
    """The folder of the build. Ends with one line where it cannot be made."""
    named = os.environ.get("ATTNSPEC_BUILD")
    if named:
        missing = [source for source in PROGRAMS if not (pathlib.Path(named) / source).is_file()]
        if missing:
            sys.exit(f"attnspec: ATTNSPEC_BUILD={named}: has no {missing[0]}")
        return pathlib.Path(named)
    if not (TOP / "attnspec").is_file():
        sys.exit("attnspec: is installed from its sources: pip install ./verify/python in a clone")
    if build_program() != 0:
        sys.exit("attnspec: the program could not be built; the line above says why")
    return TOP / "build" / os.environ.get("ATTNSPEC_PRESET", "release")


def build_program():
    """Builds by ./attnspec, which says in one line what is missing, and returns its exit code. pip keeps what is
    printed until something fails: how far the build is goes to the terminal too, if there is one."""
    environment = {"ATTNSPEC_INSTALL": "no", **os.environ}
    try:
        terminal = open("/dev/tty", "w")
    except OSError:
        terminal = open(os.devnull, "w")
    with terminal, subprocess.Popen([TOP / "attnspec", "list", "operators"], env=environment, text=True,
                                    stdout=subprocess.DEVNULL, stderr=subprocess.PIPE) as build:
        begin = "\n"  # after pip's own line, which ends in a spinner
        for line in build.stderr:
            print(line, end="", file=sys.stderr, flush=True)
            print(f"{begin}\r  {line}", end="", file=terminal, flush=True)
            begin = ""
    return build.returncode


def libraries(programs):
    """The shared libraries that programs load, but for those of glibc."""
    found = {}
    for program in programs:
        done = subprocess.run(["ldd", program], capture_output=True, text=True, check=True)
        for name, path in re.findall(r"^\s*(\S+) => (/\S+)", done.stdout, flags=re.MULTILINE):
            if not OF_GLIBC.match(name):
                found[name] = pathlib.Path(path)
    return [found[name].parent / name for name in sorted(found)]


def build_sdist(sdist_directory, config_settings=None):
    sys.exit("attnspec: has no source distribution: the program is built from the whole repository")
