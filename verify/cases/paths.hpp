// Where the files of the program are: those beside it where it was installed, else those of the build and of the
// sources.
//
//   PREFIX/bin/attnspec, PREFIX/libexec/attnspec_worker, PREFIX/lib/libattnspec_c.so,
//   PREFIX/share/attnspec/{python,golden,activations,bench}
//
// PREFIX is found from the running program or from the shared library that holds this code, so that an installation can
// be moved. The Python package can be a PREFIX: a wheel holds the folders inside `attnspec/`.
#pragma once

#include <string>

namespace attnspec::verify::paths {

/// How a user starts this program: "./attnspec" in the sources, "python -m attnspec" of a wheel, else "attnspec".
std::string command();

/// The program that a shared library's kernel runs in.
std::string worker();

/// The judge as a shared library, which Python loads.
std::string c_library();

/// The file of the Python package that is run to hold a kernel in Python.
std::string python_program();

/// Recorded vectors of public implementations.
std::string golden();

/// Activations captured from a model.
std::string activations();

/// The script that times dense attention in PyTorch.
std::string dense_baselines();

}  // namespace attnspec::verify::paths
