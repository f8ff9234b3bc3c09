// Progress on standard error: a bar on a terminal, plain lines elsewhere.
#pragma once

#include <chrono>
#include <cstddef>
#include <string>

namespace attnspec::fuzz {

class Progress {
 public:
  /// total: how many `things` are to come, 0: nobody knows. Prints nothing before the first step.
  explicit Progress(std::size_t total, std::string things = "cases");
  ~Progress();
  Progress(const Progress&) = delete;
  Progress& operator=(const Progress&) = delete;

  /// One more is done; findings so far. On a terminal at most ten times a second, elsewhere every five seconds and
  /// at the end of what took as long.
  void step(std::size_t findings);

  /// Clears the bar, so that a line can be printed to standard output.
  void clear();

 private:
  using Clock = std::chrono::steady_clock;

  std::size_t total_, done_ = 0;
  std::string things_;
  bool is_terminal_, is_drawn_ = false;
  Clock::time_point start_, last_;
};

}  // namespace attnspec::fuzz
