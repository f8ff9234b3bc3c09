// Loading a kernel's library: first in a child process, which may crash, then here.
#include <dlfcn.h>
#include <fcntl.h>
#include <fmt/format.h>
#include <poll.h>
#include <sys/resource.h>
#include <sys/wait.h>
#include <unistd.h>

#include <csignal>
#include <cstring>
#include <filesystem>
#include <stdexcept>

#include "verify/foreign_kernel.hpp"
#include "verify/kernel_abi.h"

namespace attnspec::verify {

namespace {

using Clock = std::chrono::steady_clock;

std::string last_dl_error(const std::string& file) {
  const char* error = dlerror();
  const std::string text = error == nullptr ? "no reason given" : error;
  return text.starts_with(file + ": ") ? text.substr(file.size() + 2) : text;
}

/// Loads the library into this process. Its declaration has not been checked.
const AttnspecKernel& load_here(const std::string& path) {
  const std::string file = path.find('/') == std::string::npos ? "./" + path : path;
  void* library = dlopen(file.c_str(), RTLD_NOW | RTLD_LOCAL);
  if (library == nullptr)
    throw std::invalid_argument(fmt::format("kernel '{}': cannot be loaded: {}", path, last_dl_error(file)));
  void* symbol = dlsym(library, "attnspec_kernel");
  if (symbol == nullptr) throw std::invalid_argument(fmt::format("kernel '{}': does not export attnspec_kernel", path));
  const AttnspecKernel* declared = reinterpret_cast<decltype(&attnspec_kernel)>(symbol)();
  if (declared == nullptr) throw std::invalid_argument(fmt::format("kernel '{}': attnspec_kernel returned NULL", path));
  return *declared;
}

/// What the child does: loads the library, silently, checks its declaration, and writes "ok" or the error to the pipe.
[[noreturn]] void load_in_child(const std::string& path, int pipe_end) {
  for (const int signal : {SIGSEGV, SIGBUS, SIGILL, SIGFPE, SIGABRT}) std::signal(signal, SIG_DFL);
  const rlimit no_core{0, 0};
  setrlimit(RLIMIT_CORE, &no_core);
  const int nowhere = open("/dev/null", O_WRONLY | O_CLOEXEC);
  dup2(nowhere, STDOUT_FILENO);
  dup2(nowhere, STDERR_FILENO);
  std::string said = "ok";
  try {
    check_declaration(load_here(path), path);
  } catch (const std::exception& error) {
    said = error.what();
  } catch (...) {
    said = fmt::format("kernel '{}': threw an exception when loaded", path);
  }
  _exit(write(pipe_end, said.data(), said.size()) == static_cast<ssize_t>(said.size()) ? 0 : 1);
}

/// Reads until the pipe is closed. Returns whether that was before the deadline.
bool read_all(int pipe_end, Clock::time_point deadline, std::string& text) {
  for (;;) {
    const auto left = std::chrono::ceil<std::chrono::milliseconds>(deadline - Clock::now()).count();
    pollfd waiting{pipe_end, POLLIN, 0};
    if (left <= 0 || poll(&waiting, 1, static_cast<int>(left)) == 0) return false;
    char buffer[4096];
    const ssize_t n = read(pipe_end, buffer, sizeof buffer);
    if (n == 0) return true;
    if (n > 0) text.append(buffer, static_cast<std::size_t>(n));
  }
}

/// Throws std::invalid_argument unless a child process can load the library and its declaration is right.
void try_in_child(const std::string& path, std::chrono::milliseconds patience) {
  int ends[2];
  if (pipe2(ends, O_CLOEXEC) != 0) throw std::runtime_error(fmt::format("no pipe: {}", std::strerror(errno)));
  const pid_t child = fork();
  if (child == 0) load_in_child(path, ends[1]);
  close(ends[1]);
  if (child < 0) {
    close(ends[0]);
    throw std::runtime_error(fmt::format("no child process: {}", std::strerror(errno)));
  }
  std::string said;
  const bool in_time = read_all(ends[0], Clock::now() + patience, said);
  close(ends[0]);
  if (!in_time) kill(child, SIGKILL);
  int status = 0;
  waitpid(child, &status, 0);
  if (!in_time)
    throw std::invalid_argument(
        fmt::format("kernel '{}': did not load within {} s", path, std::chrono::duration<double>(patience).count()));
  if (WIFSIGNALED(status))
    throw std::invalid_argument(fmt::format("kernel '{}': crashed when loaded (signal {}, {})", path, WTERMSIG(status),
                                            strsignal(WTERMSIG(status))));
  if (said.empty())
    throw std::invalid_argument(
        fmt::format("kernel '{}': ended the process when loaded (exit code {})", path, WEXITSTATUS(status)));
  if (said != "ok") throw std::invalid_argument(said);
}

}  // namespace

Kernel load_kernel(const std::string& path, std::chrono::milliseconds patience) {
  if (!std::filesystem::exists(path))
    throw std::invalid_argument(fmt::format("kernel '{}': there is no such file", path));
  try_in_child(path, patience);
  return make_foreign_kernel(load_here(path), path);
}

}  // namespace attnspec::verify
