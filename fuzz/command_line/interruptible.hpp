// Ctrl-C and SIGTERM as a question that is asked between cases.
#pragma once

#include <csignal>

namespace attnspec::fuzz {

/// While one lives the first SIGINT or SIGTERM only sets is_interrupted; the second ends the program as ever.
class Interruptible {
 public:
  Interruptible();
  ~Interruptible();
  Interruptible(const Interruptible&) = delete;
  Interruptible& operator=(const Interruptible&) = delete;

 private:
  using Action = struct sigaction;
  Action interrupt_{}, terminate_{};
};

/// The exit code where nothing is wrong and something was not judged.
inline constexpr int kInconclusive = 3;

/// Whether such a signal came since the last Interruptible was made.
bool is_interrupted();

}  // namespace attnspec::fuzz
