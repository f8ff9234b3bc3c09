// The program attnspec_worker, which attnspec starts: a shared library's kernel in a process of its own.

#include <dlfcn.h>
#include <fmt/format.h>

#include <csignal>
#include <cstdio>
#include <cstdlib>
#include <exception>
#include <filesystem>
#include <stdexcept>
#include <string>

#include "verify/abi/kernel_abi.h"
#include "verify/run/worker/serve.hpp"

namespace {

std::string last_dl_error(const std::string& file) {
  const char* error = dlerror();
  const std::string text = error == nullptr ? "no reason given" : error;
  return text.starts_with(file + ": ") ? text.substr(file.size() + 2) : text;
}

/// The kernel of a library. Its declaration has not been checked.
const AttnspecKernel& load(const std::string& path) {
  const auto reject = [&](const std::string& why) {
    return std::invalid_argument(fmt::format("kernel '{}': {}", path, why));
  };
  const std::string file = path.find('/') == std::string::npos ? "./" + path : path;
  void* library = dlopen(file.c_str(), RTLD_NOW | RTLD_LOCAL);
  if (library == nullptr) throw reject("cannot be loaded: " + last_dl_error(file));
  void* symbol = dlsym(library, "attnspec_kernel");
  if (symbol == nullptr) throw reject("does not export attnspec_kernel");
  const AttnspecKernel* declared = reinterpret_cast<decltype(&attnspec_kernel)>(symbol)();
  if (declared == nullptr) throw reject("attnspec_kernel returned NULL");
  return *declared;
}

}  // namespace

int main(int argc, char** argv) {
  using namespace attnspec::verify;
  if (argc != 4) {
    fmt::print(stderr, "attnspec_worker: is a part of attnspec, which starts it\n");
    return 2;
  }
  // A crash ends the process, and is not a sanitizer's to report; what a kernel prints is seen before it.
  for (const int signal : {SIGSEGV, SIGBUS, SIGILL, SIGFPE, SIGABRT}) std::signal(signal, SIG_DFL);
  std::setvbuf(stdout, nullptr, _IOLBF, BUFSIZ);
  const std::string path = argv[1];
  const int socket = std::atoi(argv[2]), memory = std::atoi(argv[3]);
  const AttnspecKernel* kernel = nullptr;
  try {
    kernel = &load(path);
  } catch (const std::exception& error) {
    refuse(socket, error.what());
  } catch (...) {
    refuse(socket, fmt::format("kernel '{}': threw an exception when loaded", path));
  }
  if (kernel != nullptr) serve(*kernel, path, socket, memory);
}
