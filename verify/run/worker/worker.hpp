// The judge's side: a kernel in a process of its own, which may crash, end or hang there.
#pragma once

#include <chrono>
#include <memory>
#include <mutex>
#include <optional>
#include <set>
#include <string>
#include <vector>

#include "verify/run/foreign_calls.hpp"
#include "verify/run/foreign_kernel.hpp"
#include "verify/run/worker/arena.hpp"
#include "verify/run/worker/channel.hpp"
#include "verify/run/worker/process.hpp"
#include "verify/run/worker/protocol.hpp"

namespace attnspec::verify {

/// The places that a kernel failed in and of which somebody was told. Several workers of one kernel share them.
class Reported {
 public:
  /// Whether it is the first time.
  bool add(const std::string& place) {
    const std::lock_guard lock(mutex_);
    return places_.insert(place).second;
  }

 private:
  std::mutex mutex_;
  std::set<std::string> places_;
};

/// A kernel that a child process holds. Calls that fail throw CallFailed; the next one then starts another process, so
/// that no call meets what a failed one left behind.
class Worker {
 public:
  /// command: the program and its arguments, to which those of `serve` are added: the descriptors of a socket and of
  /// the memory. timeout: how long it may take to load the kernel, and for a call. Throws std::invalid_argument, one
  /// line that names the kernel: why it has none, or how it ended; SeveralKernels.
  Worker(std::vector<std::string> command, std::string name, Seconds timeout, std::shared_ptr<Reported> reported);

  const Declaration& declaration() const { return declaration_; }
  /// Where the tensors of calls must lie.
  Arena& memory() { return arena_; }

  /// Ends the process; the next call starts another.
  void forget() { running_.reset(); }

  void run(const AnyCall& call) { ask(Ask::run, call); }
  Timing time(const AnyCall& call, const TimingPlan& plan) { return ask(Ask::time, call, plan).timing; }
  std::int64_t workspace_bytes(const AnyCall& call) { return ask(Ask::workspace_bytes, call).workspace_bytes; }

 private:
  struct Running {
    Running(const std::vector<std::string>& command, const std::vector<int>& inherited, int socket)
        : process(command, inherited), channel(socket) {}

    Process process;
    Channel channel;
  };

  void start();
  Reply ask(Ask what, const AnyCall& call, const TimingPlan& plan = {});
  /// Throws CallFailed with the text. What it says beside its line goes to standard error, once for each place that a
  /// kernel failed in.
  [[noreturn]] void report(const std::string& text);
  /// Ends the process. Throws CallFailed.
  [[noreturn]] void fail(Channel::Result how, Ask what, const AnyCall& call);

  std::vector<std::string> command_;
  std::string name_;
  Seconds timeout_;
  Arena arena_;
  std::optional<Running> running_;
  Declaration declaration_;
  std::shared_ptr<Reported> reported_;
};

}  // namespace attnspec::verify
