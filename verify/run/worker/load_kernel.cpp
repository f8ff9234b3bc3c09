// Kernels of others by name: which program holds them.
#include <fmt/format.h>

#include <cstdlib>
#include <filesystem>
#include <memory>
#include <stdexcept>
#include <system_error>
#include <utility>

#include "verify/cases/paths.hpp"
#include "verify/run/worker/worker.hpp"

namespace attnspec::verify {

namespace {

/// Whether a Python has NumPy.
bool has_numpy(const std::string& python) {
  const char* test = "import importlib.util, sys; sys.exit(importlib.util.find_spec('numpy') is None)";
  return Process({python, "-c", test}, {}).wait() == 0;
}

/// The program that an environment variable names; empty where it is not set.
std::string named_program(const char* variable, const std::string& kernel) {
  const char* program = std::getenv(variable);
  if (program == nullptr) return "";
  if (programs(program).empty())
    throw std::invalid_argument(fmt::format("kernel '{}': {}={}: cannot be run", kernel, variable, program));
  return program;
}

/// The Python for kernels in Python: the first on the PATH that has NumPy, unless the environment names another.
std::string find_python(const std::string& kernel) {
  if (std::string named = named_program("ATTNSPEC_PYTHON", kernel); !named.empty()) return named;
  for (const std::string& python : programs("python3"))
    if (has_numpy(python)) return python;
  throw std::invalid_argument(
      fmt::format("kernel '{}': there is no python3 with NumPy on the PATH (ATTNSPEC_PYTHON names another)", kernel));
}

/// The program for shared libraries: the one beside this program, unless the environment names another.
std::string find_worker(const std::string& kernel) {
  std::string named = named_program("ATTNSPEC_WORKER", kernel);
  return named.empty() ? paths::worker() : named;
}

/// The kernel of a worker, and whether it is on a GPU.
std::pair<Kernel, bool> kernel_of(const std::shared_ptr<Worker>& worker, const std::string& name) {
  Kernel kernel =
      make_kernel(worker->declaration(), name,
                  {[worker](const AnyCall& call) { worker->run(call); },
                   [worker](const AnyCall& call, const TimingPlan& plan) { return worker->time(call, plan); },
                   [worker](const AnyCall& call) { return worker->workspace_bytes(call); }});
  kernel.memory = &worker->memory();
  kernel.forget = [worker] { worker->forget(); };
  return {std::move(kernel), worker->declaration().is_on_device};
}

}  // namespace

bool is_foreign(std::string_view name) {
  return name.ends_with(".so") || name.ends_with(".py") || name.find(".py:") != std::string_view::npos;
}

Kernel load_kernel(const std::string& name, Seconds timeout) {
  const std::size_t function = name.rfind(".py:");
  const bool is_python = !name.ends_with(".so");
  const std::string file = function == std::string::npos ? name : name.substr(0, function + 3);
  if (std::error_code error; !std::filesystem::exists(file, error))
    throw std::invalid_argument(fmt::format("kernel '{}': there is no such file", name));
  using Command = std::vector<std::string>;
  const Command command =
      is_python ? Command{find_python(name), "-u", paths::python_program(), "serve", paths::c_library(), name}
                : Command{find_worker(name), name};
  const auto reported = std::make_shared<Reported>();
  const auto start = [=] { return kernel_of(std::make_shared<Worker>(command, name, timeout, reported), name); };
  auto [kernel, is_on_device] = start();
  // Processes that share a GPU would wait for each other, and each holds memory of it.
  if (!is_on_device) kernel.another = [start] { return std::make_shared<Kernel>(start().first); };
  return std::move(kernel);
}

}  // namespace attnspec::verify
