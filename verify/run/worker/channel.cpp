#include "verify/run/worker/channel.hpp"

#include <poll.h>
#include <sys/socket.h>
#include <unistd.h>

#include <algorithm>
#include <cerrno>
#include <cstdint>

namespace attnspec::verify {

namespace {

/// Of a message; more is taken for noise.
constexpr std::uint64_t kMaxBytes = std::uint64_t{1} << 30;

/// As poll takes it; -1: for ever.
int milliseconds_until(Clock::time_point deadline) {
  if (deadline == Clock::time_point::max()) return -1;
  const auto left = std::chrono::ceil<std::chrono::milliseconds>(deadline - Clock::now()).count();
  return static_cast<int>(std::clamp<std::int64_t>(left, 0, 1'000'000'000));
}

}  // namespace

Channel::~Channel() { close(socket_); }

template <class Byte, class Move>
Channel::Result Channel::transfer(std::span<Byte> bytes, short event, Clock::time_point deadline, const Move& move) {
  while (!bytes.empty()) {
    pollfd waiting{socket_, event, 0};
    const int ready = poll(&waiting, 1, milliseconds_until(deadline));
    if (ready == 0) return Result::late;
    if (ready < 0) continue;  // a signal
    const ssize_t moved = move(bytes.data(), bytes.size());
    if (moved == 0 || (moved < 0 && errno != EAGAIN && errno != EINTR)) return Result::ended;
    if (moved > 0) bytes = bytes.subspan(static_cast<std::size_t>(moved));
  }
  return Result::done;
}

Channel::Result Channel::send(std::span<const std::byte> message, Clock::time_point deadline) {
  const std::uint64_t size = message.size();
  const auto write = [&](const std::byte* from, std::size_t bytes) {
    return ::send(socket_, from, bytes, MSG_NOSIGNAL | MSG_DONTWAIT);
  };
  const Result result = transfer(std::as_bytes(std::span(&size, 1)), POLLOUT, deadline, write);
  return result == Result::done ? transfer(message, POLLOUT, deadline, write) : result;
}

Channel::Result Channel::receive(std::vector<std::byte>& message, Clock::time_point deadline) {
  std::uint64_t size = 0;
  const auto read = [&](std::byte* to, std::size_t bytes) { return recv(socket_, to, bytes, MSG_DONTWAIT); };
  const Result result = transfer(std::as_writable_bytes(std::span(&size, 1)), POLLIN, deadline, read);
  if (result != Result::done) return result;
  if (size > kMaxBytes) return Result::ended;
  message.resize(size);
  return transfer(std::span(message), POLLIN, deadline, read);
}

}  // namespace attnspec::verify
