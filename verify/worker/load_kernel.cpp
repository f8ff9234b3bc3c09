// Kernels of others by name: which program holds them.
#include <fmt/format.h>

#include <cstdlib>
#include <filesystem>
#include <memory>
#include <stdexcept>
#include <system_error>

#include "verify/worker/worker.hpp"

namespace attnspec::verify {

namespace {

/// Whether a Python has NumPy.
bool has_numpy(const std::string& python) {
  const char* test = "import importlib.util, sys; sys.exit(importlib.util.find_spec('numpy') is None)";
  return Process({python, "-c", test}, {}).wait() == 0;
}

/// The Python that the environment names, or the first on the PATH that has NumPy.
std::string find_python(const std::string& kernel) {
  if (const char* named = std::getenv("ATTNSPEC_PYTHON")) {
    if (programs(named).empty())
      throw std::invalid_argument(fmt::format("kernel '{}': ATTNSPEC_PYTHON={}: cannot be run", kernel, named));
    return named;
  }
  for (const std::string& python : programs("python3"))
    if (has_numpy(python)) return python;
  throw std::invalid_argument(
      fmt::format("kernel '{}': there is no python3 with NumPy on the PATH (ATTNSPEC_PYTHON names another)", kernel));
}

/// The program for shared libraries.
std::string find_worker(const std::string& kernel) {
  const char* named = std::getenv("ATTNSPEC_WORKER");
  const std::string program = named != nullptr ? named : ATTNSPEC_WORKER_PROGRAM;
  if (programs(program).empty())
    throw std::invalid_argument(
        fmt::format("kernel '{}': attnspec_worker: {} cannot be run (ATTNSPEC_WORKER names another)", kernel, program));
  return program;
}

}  // namespace

bool is_foreign(std::string_view name) { return name.ends_with(".so") || name.find(".py:") != std::string_view::npos; }

Kernel load_kernel(const std::string& name, Seconds patience) {
  const std::size_t function = name.rfind(".py:");
  const bool is_python = !name.ends_with(".so");
  const std::string file = is_python ? name.substr(0, function + 3) : name;
  if (std::error_code error; !std::filesystem::exists(file, error))
    throw std::invalid_argument(fmt::format("kernel '{}': there is no such file", name));
  const std::vector<std::string> command =
      is_python ? std::vector<std::string>{find_python(name),
                                           "-u",
                                           ATTNSPEC_SOURCE_DIR "/verify/python/attnspec.py",
                                           "serve",
                                           ATTNSPEC_C_LIBRARY,
                                           name}
                : std::vector<std::string>{find_worker(name), name};
  const auto worker = std::make_shared<Worker>(command, name, patience);
  Kernel kernel = make_kernel(
      worker->declaration(), name, [worker](const AnyCall& call) { worker->run(call); },
      [worker](const AnyCall& call) { return worker->workspace_bytes(call); });
  kernel.memory = &worker->memory();
  return kernel;
}

}  // namespace attnspec::verify
