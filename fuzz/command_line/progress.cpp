#include "fuzz/command_line/progress.hpp"

#include <fmt/format.h>
#include <unistd.h>

#include <cstdio>

namespace attnspec::fuzz {

Progress::Progress(std::size_t total, std::string things)
    : total_(total),
      things_(std::move(things)),
      is_terminal_(isatty(STDERR_FILENO) == 1),
      start_(Clock::now()),
      last_(start_) {}

Progress::~Progress() { clear(); }

void Progress::step(std::size_t findings) {
  ++done_;
  const auto now = Clock::now();
  const auto pause = is_terminal_ ? std::chrono::milliseconds(100) : std::chrono::milliseconds(5000);
  const bool ends_a_long_run = done_ == total_ && now - start_ >= pause;
  if (!ends_a_long_run && now - last_ < pause) return;
  last_ = now;
  const double seconds = std::chrono::duration<double>(now - start_).count();
  const double rate = seconds > 0 ? static_cast<double>(done_) / seconds : 0;
  const double left = rate > 0 ? static_cast<double>(total_ - done_) / rate : 0;
  std::string line = total_ == 0
                         ? fmt::format("{} {}, {:.1f} a second, {:.0f} s", done_, things_, rate, seconds)
                         : fmt::format("{}/{} {}, {:.1f} a second, {:.0f} s left", done_, total_, things_, rate, left);
  if (findings > 0) line += fmt::format(", {} with findings", findings);
  if (is_terminal_ && total_ == 0) {
    fmt::print(stderr, "\r\x1b[K{}", line);
  } else if (is_terminal_) {
    constexpr std::size_t kWidth = 30;
    const std::size_t filled = kWidth * done_ / total_;
    fmt::print(stderr, "\r\x1b[K[{}{}] {}", std::string(filled, '#'), std::string(kWidth - filled, '.'), line);
  } else {
    fmt::print(stderr, "{}\n", line);
  }
  std::fflush(stderr);
  is_drawn_ = is_terminal_;
}

void Progress::clear() {
  if (!is_drawn_) return;
  fmt::print(stderr, "\r\x1b[K");
  std::fflush(stderr);
  is_drawn_ = false;
}

}  // namespace attnspec::fuzz
