#include "verify/cases/paths.hpp"

#include <dlfcn.h>

#include <filesystem>
#include <system_error>

namespace attnspec::verify::paths {

namespace {

namespace fs = std::filesystem;

/// The shared library that holds this code, or else the running program. Empty where the system does not tell.
fs::path own_file() {
  std::error_code error;
  Dl_info info{};
  if (dladdr(reinterpret_cast<const void*>(&own_file), &info) != 0 && info.dli_fname != nullptr)
    if (fs::path file = fs::canonical(info.dli_fname, error); !error && file.extension() == ".so") return file;
  fs::path program = fs::canonical("/proc/self/exe", error);
  return error ? fs::path() : program;
}

/// The folder above bin, lib or libexec.
const fs::path& prefix() {
  static const fs::path found = own_file().parent_path().parent_path();
  return found;
}

bool is_below_prefix(const char* path) {
  std::error_code error;
  return fs::exists(prefix() / path, error);
}

/// Whether the prefix is the Python package.
bool is_package() { return is_below_prefix("bin/attnspec") && is_below_prefix("__main__.py"); }

/// The path below the prefix where it was installed, else that of the build.
std::string either(const char* installed, const char* built) {
  return is_below_prefix(installed) ? (prefix() / installed).string() : built;
}

}  // namespace

std::string command() {
  if (is_package()) return "python -m attnspec";
  return is_below_prefix("bin/attnspec") ? "attnspec" : "./attnspec";
}

std::string worker() { return either("libexec/attnspec_worker", ATTNSPEC_WORKER_PROGRAM); }

std::string c_library() { return either("lib/libattnspec_c.so", ATTNSPEC_C_LIBRARY); }

std::string python_program() {
  if (is_package()) return (prefix() / "__main__.py").string();
  return either("share/attnspec/python/attnspec/__main__.py",
                ATTNSPEC_SOURCE_DIR "/verify/python/attnspec/__main__.py");
}

std::string golden() { return either("share/attnspec/golden", ATTNSPEC_SOURCE_DIR "/verify/golden"); }

std::string activations() {
  return either("share/attnspec/activations", ATTNSPEC_SOURCE_DIR "/verify/cases/activations");
}

std::string dense_baselines() {
  return either("share/attnspec/bench/dense_baselines.py", ATTNSPEC_SOURCE_DIR "/fuzz/bench/dense_baselines.py");
}

}  // namespace attnspec::verify::paths
