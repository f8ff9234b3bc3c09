// Which accesses come before which: vector clocks of the threads of a block.
#pragma once

#include <algorithm>
#include <cstddef>
#include <cstdint>
#include <utility>
#include <vector>

namespace attnspec::cuda::simulator {

/// Counts what a warp did that orders memory. Time 0 is before the block began.
using Time = std::uint32_t;

/// For every thread of a block, the time up to which its accesses come before those of whoever knows this. Threads that
/// learned it together share it, and nobody changes it after. The block's OS thread alone counts who does, which a
/// std::shared_ptr would do atomically, at every meeting.
class Knowledge {
 public:
  Knowledge() = default;
  explicit Knowledge(std::vector<Time> until) : shared_(new Shared{std::move(until), 1}) {}
  Knowledge(const Knowledge& other) : shared_(other.shared_) {
    if (shared_ != nullptr) ++shared_->num_owners;
  }
  Knowledge& operator=(Knowledge other) {
    std::swap(shared_, other.shared_);
    return *this;
  }
  ~Knowledge() {
    if (shared_ != nullptr && --shared_->num_owners == 0) delete shared_;
  }

  const std::vector<Time>& until() const { return shared_->until; }
  bool is_same_as(const Knowledge& other) const { return shared_ == other.shared_; }

 private:
  struct Shared {
    std::vector<Time> until;
    int num_owners;
  };
  Shared* shared_ = nullptr;
};

/// Puts together what threads bring to a meeting.
class Meeting {
 public:
  /// A thread comes with what it knows, and with all its own accesses up to now.
  void add(int thread, Time now, const Knowledge& known) {
    if (until_.empty())
      until_ = known.until();
    else if (!known.is_same_as(last_))
      std::transform(known.until().begin(), known.until().end(), until_.begin(), until_.begin(),
                     [](Time a, Time b) { return std::max(a, b); });
    until_[static_cast<std::size_t>(thread)] = now;
    last_ = known;
  }

  /// What all of them know afterwards.
  Knowledge joined() { return Knowledge(std::move(until_)); }

 private:
  std::vector<Time> until_;
  Knowledge last_;  // the threads of a warp mostly know the same
};

}  // namespace attnspec::cuda::simulator
