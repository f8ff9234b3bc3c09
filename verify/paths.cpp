#include "verify/paths.hpp"

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

/// The path below the prefix where it was installed, else that of the build.
std::string either(const char* installed, const char* built) {
  std::error_code error;
  const fs::path path = prefix() / installed;
  return fs::exists(path, error) ? path.string() : built;
}

}  // namespace

std::string worker() { return either("libexec/attnspec_worker", ATTNSPEC_WORKER_PROGRAM); }

std::string c_library() { return either("lib/libattnspec_c.so", ATTNSPEC_C_LIBRARY); }

std::string python_program() {
  constexpr const char* kInPackage = "__main__.py";
  if (std::error_code error; fs::exists(prefix() / "bin/attnspec", error) && fs::exists(prefix() / kInPackage, error))
    return (prefix() / kInPackage).string();
  return either("share/attnspec/python/attnspec/__main__.py", ATTNSPEC_SOURCE_DIR "/verify/python/attnspec/__main__.py");
}

std::string golden() { return either("share/attnspec/golden", ATTNSPEC_SOURCE_DIR "/verify/golden"); }

std::string activations() { return either("share/attnspec/activations", ATTNSPEC_SOURCE_DIR "/verify/activations"); }

std::string dense_baselines() {
  return either("share/attnspec/bench/dense_baselines.py", ATTNSPEC_SOURCE_DIR "/fuzz/bench/dense_baselines.py");
}

}  // namespace attnspec::verify::paths
