// The direction test: errors far below one row's noise, seen because they add up over all rows of o along what a
// suspected fault would do. docs/numerics.md, tag D1.
#pragma once

#include <array>
#include <mutex>

#include "reference/noise.hpp"

namespace attnspec::verify {

/// A suspected fault of o, and how far the errors of all rows moved along it.
struct Direction {
  const char* fault;
  double projection = 0;  // sum over rows of <w, error> / noise of the row
  double variance = 0;    // of it
  double allowance = 0;   // what correct kernels may err in the same direction in every row

  /// Deviations beyond the allowance.
  double z() const;
};

class DirectionTest {
 public:
  explicit DirectionTest(const reference::Arithmetic& arithmetic) : arithmetic_(arithmetic) {}

  /// Adds a row of o that is finite, from any thread. error [dv]: observed less expected; next_key: the key after the
  /// last that the row may see, -1 where there is none; floor [dv]: errors that do not average out. Rows whose weights
  /// are one or too much alike to round independently, or whose floor is above their noise, count for nothing, and no
  /// row counts for a fault that would move it by less than the expected row is exact in double.
  void add(const reference::RowInputs& in, const reference::AttendedRow& row, const reference::Covariance& covariance,
           double trace, const reference::Vector& error, const reference::Vector& floor, std::int64_t next_key);

  const auto& directions() const { return directions_; }

 private:
  const reference::Arithmetic& arithmetic_;
  std::mutex mutex_;
  std::array<Direction, 5> directions_{{{"softmax scale off"},
                                        {"first key dropped or counted twice"},
                                        {"last key dropped or counted twice"},
                                        {"first block dropped or counted twice"},
                                        {"next key leaked"}}};
};

}  // namespace attnspec::verify
