#include "verify/run/worker/worker.hpp"

#include <fmt/format.h>
#include <sys/socket.h>
#include <sys/wait.h>
#include <unistd.h>

#include <cerrno>
#include <cstdio>
#include <cstring>
#include <sstream>
#include <stdexcept>
#include <utility>

namespace attnspec::verify {

namespace {

Clock::time_point after(Seconds timeout) { return Clock::now() + std::chrono::duration_cast<Clock::duration>(timeout); }

std::string how_load_ended(int status) {
  if (WIFSIGNALED(status))
    return fmt::format("crashed when loaded (signal {}, {})", WTERMSIG(status), strsignal(WTERMSIG(status)));
  return fmt::format("ended the process when loaded (exit code {})", WEXITSTATUS(status));
}

std::string how_call_ended(int status) {
  if (!WIFSIGNALED(status)) return fmt::format("ended with exit code {}", WEXITSTATUS(status));
  const char* name = sigabbrev_np(WTERMSIG(status));
  return name == nullptr ? fmt::format("ended by signal {}", WTERMSIG(status))
                         : fmt::format("ended by signal SIG{}", name);
}

std::vector<std::string> lines(const std::string& text) {
  std::vector<std::string> all;
  std::istringstream stream(text);
  for (std::string line; std::getline(stream, line);) all.push_back(line);
  return all;
}

std::string name_of(Ask what, const AnyCall& call) {
  if (what == Ask::workspace_bytes) return "workspace_bytes";
  return call.is_backward ? "backward" : "forward";
}

}  // namespace

Worker::Worker(std::vector<std::string> command, std::string name, Seconds timeout, std::shared_ptr<Reported> reported)
    : command_(std::move(command)), name_(std::move(name)), timeout_(timeout), reported_(std::move(reported)) {
  start();
}

void Worker::start() {
  int ends[2];
  if (socketpair(AF_UNIX, SOCK_STREAM | SOCK_CLOEXEC, 0, ends) != 0)
    throw std::runtime_error(fmt::format("no socket: {}", std::strerror(errno)));
  const int memory = arena_.memory().descriptor();
  std::vector<std::string> command = command_;
  command.push_back(std::to_string(ends[1]));
  command.push_back(std::to_string(memory));
  running_.emplace(command, std::vector{ends[1], memory}, ends[0]);
  close(ends[1]);

  std::vector<std::byte> message;
  const Channel::Result result = running_->channel.receive(message, after(timeout_));
  Hello hello;
  if (result == Channel::Result::done) {
    Reader reader(message);
    reader(hello);
  } else {
    const int status = running_->process.end();
    hello.refusal =
        fmt::format("kernel '{}': {}", name_,
                    result == Channel::Result::ended ? how_load_ended(status)
                                                     : fmt::format("did not load within {} s", timeout_.count()));
  }
  if (hello.refusal.empty() && hello.several.empty()) {
    declaration_ = std::move(hello.declaration);
    return;
  }
  running_.reset();
  if (!hello.several.empty()) throw SeveralKernels(name_, lines(hello.several));
  throw std::invalid_argument(hello.refusal);
}

Reply Worker::ask(Ask what, const AnyCall& call, const TimingPlan& plan) {
  Writer request(arena_.memory().bytes());
  request(what, plan, call);
  try {
    if (!running_) start();
  } catch (const std::invalid_argument& error) {
    const std::string why = error.what(), prefix = fmt::format("kernel '{}': ", name_);
    throw CallFailed(why.starts_with(prefix) ? why.substr(prefix.size()) : why, Verdict::crash);
  }
  const Clock::time_point deadline = after(timeout_);
  std::vector<std::byte> message;
  Channel::Result result = running_->channel.send(request.bytes(), deadline);
  if (result == Channel::Result::done) result = running_->channel.receive(message, deadline);
  if (result != Channel::Result::done) fail(result, what, call);
  Reply reply;
  Reader reader(message);
  reader(reply);
  if (reply.outcome == Outcome::done) return reply;
  running_.reset();
  if (reply.outcome == Outcome::failed) report(reply.message);
  throw std::runtime_error(reply.message);
}

void Worker::report(const std::string& text) {
  const CallFailed failure(text);
  const std::string line = failure.what();
  // "mine.py:312: ValueError: shapes differ": the place and the kind, without what may differ from call to call.
  const std::size_t place = line.find(": "), kind = place == std::string::npos ? place : line.find(": ", place + 2);
  if (!failure.more.empty() && reported_->add(line.substr(0, kind)))
    fmt::print(stderr, "{}: {}\n{}\n", name_, line, failure.more);
  throw failure;
}

void Worker::fail(Channel::Result how, Ask what, const AnyCall& call) {
  const int status = running_->process.end();
  running_.reset();
  if (how == Channel::Result::late)
    throw CallFailed(fmt::format("did not return from the {} call within {} s", name_of(what, call), timeout_.count()),
                     Verdict::hang);
  throw CallFailed(fmt::format("{} in the {} call", how_call_ended(status), name_of(what, call)), Verdict::crash);
}

}  // namespace attnspec::verify
