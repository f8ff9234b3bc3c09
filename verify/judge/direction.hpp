// The direction test: errors far below one row's noise, seen because they add up over all rows of o along what a
// suspected fault would do. docs/numerics.md, tag D1.
#pragma once

#include <array>
#include <cstddef>
#include <cstdint>
#include <mutex>
#include <string>
#include <vector>

#include "reference/noise/noise.hpp"

namespace attnspec::verify {

/// Suspected faults, by their place among the directions.
enum class Suspect { scale, first_key, last_key, first_block, next_key, scaled_output, truncated_weights };
inline constexpr std::size_t kSuspects = 7;

/// A suspected fault of o, and how far the errors of all rows moved along it.
struct Direction {
  const char* fault;
  double projection = 0;  // sum over rows of <w, error> / noise of the row
  double variance = 0;    // of it
  double allowance = 0;   // what correct kernels may err in the same direction in every row
  double observed = 0;    // sum over rows of (<w, error> / noise of the row)^2

  /// Deviations beyond the allowance.
  double z() const;
  /// Deviations of the errors that were observed: what large errors without a common direction keep small.
  double consistency() const;
};

class DirectionTest {
 public:
  explicit DirectionTest(const reference::Arithmetic& arithmetic) : arithmetic_(arithmetic) {}

  /// Adds a row of o that is finite, from any thread. error [dv]: observed less expected; next_key: the key after the
  /// last that the row may see, -1 where there is none; floor [dv]: errors that do not average out. Rows whose weights
  /// are one or so much alike that they, or all o, round the same way, or whose floor is above their noise, count for
  /// nothing, and no row counts for a fault that would move it by less than the expected row is exact in double.
  void add(const reference::RowInputs& in, const reference::AttendedRow& row, const reference::Covariance& covariance,
           double trace, const reference::Vector& error, const reference::Vector& floor, std::int64_t next_key);

  const auto& directions() const { return directions_; }

  /// What the errors add up to, "o scaled by 0.997; 55.8 deviations", where some direction has more than `limit`: the
  /// one that they follow most, and one that is left when it is taken off. Empty where none has. rows_fail: whether
  /// rows of o are wrong by themselves; then a fault must explain most of their errors.
  std::vector<std::string> faults(double limit, bool rows_fail) const;

 private:
  /// How far a direction is moved by errors along another, for each unit that the other is moved.
  double share(std::size_t moved, std::size_t by) const { return products_[moved][by] / products_[by][by]; }
  /// How much of the fault fits the errors best: 1 is the move w.
  double amount(std::size_t fault) const { return directions_[fault].projection / products_[fault][fault]; }
  /// The part of energy_ that this much of the fault explains.
  double explained(std::size_t fault) const { return amount(fault) * directions_[fault].projection; }
  std::string describe(std::size_t fault) const;

  const reference::Arithmetic& arithmetic_;
  std::mutex mutex_;
  std::array<Direction, kSuspects> directions_{{{"softmax scale off"},
                                                {"first key dropped or counted twice"},
                                                {"last key dropped or counted twice"},
                                                {"first block dropped or counted twice"},
                                                {"next key leaked"},
                                                {"o scaled"},
                                                {"weights truncated"}}};
  std::int64_t rows_ = 0;
  double energy_ = 0;                                                // sum over rows of |error|^2 / noise of the row
  std::array<std::array<double, kSuspects>, kSuspects> products_{};  // sum over rows of <w, w'> / noise of the row
};

}  // namespace attnspec::verify
