#include "verify/run/worker/process.hpp"

#include <fcntl.h>
#include <fmt/format.h>
#include <sys/prctl.h>
#include <sys/resource.h>
#include <sys/wait.h>
#include <unistd.h>

#include <cerrno>
#include <condition_variable>
#include <csignal>
#include <cstdlib>
#include <cstring>
#include <deque>
#include <future>
#include <mutex>
#include <sstream>
#include <stdexcept>
#include <thread>
#include <utility>

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

/// Starts processes in a thread that lasts as long as the program: the kernel's signal of PR_SET_PDEATHSIG comes when
/// the thread ends that forked, and threads that judge come and go.
class Starter {
 public:
  /// The one of this program, which is never destroyed.
  static Starter& instance() {
    static Starter& starter = *new Starter;
    return starter;
  }

  /// The child's id as fork gives it, and errno.
  std::pair<pid_t, int> start(char* const* arguments, const std::vector<int>& inherited) {
    std::packaged_task<std::pair<pid_t, int>()> task([&] {
      const pid_t id = fork();
      if (id == 0) become(arguments, inherited);
      return std::pair(id, errno);
    });
    {
      const std::lock_guard lock(mutex_);
      tasks_.push_back(&task);
    }
    has_task_.notify_one();
    return task.get_future().get();
  }

 private:
  Starter() {
    std::thread([this] {
      for (;;) {
        std::unique_lock lock(mutex_);
        has_task_.wait(lock, [this] { return !tasks_.empty(); });
        auto* task = tasks_.front();
        tasks_.pop_front();
        lock.unlock();
        (*task)();
      }
    }).detach();
  }

  std::mutex mutex_;
  std::condition_variable has_task_;
  std::deque<std::packaged_task<std::pair<pid_t, int>()>*> tasks_;
};

}  // namespace

Process::Process(const std::vector<std::string>& command, const std::vector<int>& inherited) {
  std::vector<char*> arguments;
  for (const std::string& argument : command) arguments.push_back(const_cast<char*>(argument.c_str()));
  arguments.push_back(nullptr);
  const auto [id, error] = Starter::instance().start(arguments.data(), inherited);
  id_ = id;
  if (id_ < 0) throw std::runtime_error(fmt::format("no child process: {}", std::strerror(error)));
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
    for (std::string folder; std::getline(folders, folder, ':');)
      candidates.push_back(fmt::format("{}/{}", folder, name));
  }
  std::erase_if(candidates, [](const std::string& file) { return access(file.c_str(), X_OK) != 0; });
  return candidates;
}

}  // namespace attnspec::verify
