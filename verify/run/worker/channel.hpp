// Messages between two processes.
#pragma once

#include <chrono>
#include <cstddef>
#include <span>
#include <vector>

namespace attnspec::verify {

using Clock = std::chrono::steady_clock;

/// One end of a socket, which it owns. A message is its size and its bytes.
class Channel {
 public:
  explicit Channel(int socket) : socket_(socket) {}
  ~Channel();
  Channel(const Channel&) = delete;
  Channel& operator=(const Channel&) = delete;

  enum class Result { done, ended, late };  // ended: nobody is at the other end; late: the deadline is over
  Result send(std::span<const std::byte> message, Clock::time_point deadline = Clock::time_point::max());
  Result receive(std::vector<std::byte>& message, Clock::time_point deadline = Clock::time_point::max());

 private:
  /// Moves all of the bytes with `move(bytes, size)`, send or recv.
  template <class Byte, class Move>
  Result transfer(std::span<Byte> bytes, short event, Clock::time_point deadline, const Move& move);

  int socket_;
};

}  // namespace attnspec::verify
