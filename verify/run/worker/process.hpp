// Child processes.
#pragma once

#include <sys/types.h>

#include <string>
#include <vector>

namespace attnspec::verify {

/// A program that runs beside this one, in a process group of its own, where Ctrl-C does not reach it. It ends with
/// this object or with this program, whichever thread made it, dumps no core, and writes to standard error alone:
/// findings are this program's.
class Process {
 public:
  /// command: the program, looked for on the PATH, and its arguments. inherited: descriptors that stay open in it.
  /// Throws std::runtime_error.
  Process(const std::vector<std::string>& command, const std::vector<int>& inherited);
  ~Process();
  Process(const Process&) = delete;
  Process& operator=(const Process&) = delete;

  /// Waits until it has ended. Returns the status as waitpid gives it.
  int wait();
  /// Ends it and what it started, unless it has ended. Returns the status as waitpid gives it.
  int end();

 private:
  pid_t id_;
};

/// The programs of that name on the PATH, or the file itself where it names one.
std::vector<std::string> programs(const std::string& name);

}  // namespace attnspec::verify
