// Which accesses come before which: vector clocks of the threads of a block.
#pragma once

#include <algorithm>
#include <boost/smart_ptr/intrusive_ptr.hpp>
#include <boost/smart_ptr/intrusive_ref_counter.hpp>
#include <cstddef>
#include <cstdint>
#include <utility>
#include <vector>

namespace attnspec::cuda::simulator {

/// Counts what a warp did that orders memory. Time 0 is before the block began.
using Time = std::uint32_t;

/// For every thread of a block, the time up to which its accesses come before those of whoever knows this. Shared by
/// the threads that learned it together, and never changed after.
struct Knowledge : boost::intrusive_ref_counter<Knowledge, boost::thread_unsafe_counter> {
  std::vector<Time> until;

  explicit Knowledge(int num_threads) : until(static_cast<std::size_t>(num_threads)) {}
  explicit Knowledge(std::vector<Time> times) : until(std::move(times)) {}
};
using KnowledgePtr = boost::intrusive_ptr<const Knowledge>;

/// Puts together what threads bring to a meeting.
class Meeting {
 public:
  /// A thread comes with what it knows, and with all its own accesses up to now.
  void add(int thread, Time now, const KnowledgePtr& known) {
    if (!joined_)
      joined_ = new Knowledge(known->until);
    else if (known != last_)
      std::transform(known->until.begin(), known->until.end(), joined_->until.begin(), joined_->until.begin(),
                     [](Time a, Time b) { return std::max(a, b); });
    joined_->until[static_cast<std::size_t>(thread)] = now;
    last_ = known;
  }

  /// What all of them know afterwards.
  KnowledgePtr joined() const { return joined_; }

 private:
  boost::intrusive_ptr<Knowledge> joined_;
  KnowledgePtr last_;  // the threads of a warp mostly know the same
};

}  // namespace attnspec::cuda::simulator
