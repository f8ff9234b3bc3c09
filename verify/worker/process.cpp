#include "verify/worker/process.hpp"

#include <fcntl.h>
#include <fmt/format.h>
#include <sys/prctl.h>
#include <sys/resource.h>
#include <sys/wait.h>
#include <unistd.h>

#include <cerrno>
#include <csignal>
#include <cstdlib>
#include <cstring>
#include <sstream>
#include <stdexcept>

namespace attnspec::verify {

namespace {

/// What the child does between fork and exec: nothing that may take a lock.
[[noreturn]] void become(char* const* arguments, const std::vector<int>& inherited) {
  const rlimit no_core{0, 0};
  setpgid(0, 0);
  prctl(PR_SET_PDEATHSIG, SIGKILL);
  setrlimit(RLIMIT_CORE, &no_core);
  dup2(open("/dev/null", O_RDONLY | O_CLOEXEC), STDIN_FILENO);
  dup2(STDERR_FILENO, STDOUT_FILENO);
  for (const int descriptor : inherited) fcntl(descriptor, F_SETFD, 0);
  execvp(arguments[0], arguments);
  _exit(127);
}

}  // namespace

Process::Process(const std::vector<std::string>& command, const std::vector<int>& inherited) {
  std::vector<char*> arguments;
  for (const std::string& argument : command) arguments.push_back(const_cast<char*>(argument.c_str()));
  arguments.push_back(nullptr);
  id_ = fork();
  if (id_ == 0) become(arguments.data(), inherited);
  if (id_ < 0) throw std::runtime_error(fmt::format("no child process: {}", std::strerror(errno)));
}

Process::~Process() { end(); }

int Process::wait() {
  int status = 0;
  if (id_ > 0) {
    while (waitpid(id_, &status, 0) < 0 && errno == EINTR) continue;
  }
  id_ = 0;
  return status;
}

int Process::end() {
  if (id_ > 0) {
    kill(id_, SIGKILL);
    kill(-id_, SIGKILL);
  }
  return wait();
}

std::vector<std::string> programs(const std::string& name) {
  const char* path = std::getenv("PATH");
  std::vector<std::string> candidates;
  if (name.find('/') != std::string::npos) {
    candidates.push_back(name);
  } else {
    std::istringstream folders(path == nullptr ? "" : path);
    for (std::string folder; std::getline(folders, folder, ':');) candidates.push_back(folder + "/" + name);
  }
  std::erase_if(candidates, [](const std::string& file) { return access(file.c_str(), X_OK) != 0; });
  return candidates;
}

}  // namespace attnspec::verify
