// Laws within rounding: two numbers that would be equal without rounding may differ by what the judge predicts for
// both, |a - b| <= min(worst_a + worst_b, kappa sqrt(var_a + var_b)) + floor_a + floor_b. docs/numerics.md, tag X5.
#pragma once

#include <functional>
#include <string>
#include <vector>

#include "verify/judge/result.hpp"
#include "verify/laws/follow_up.hpp"
#include "verify/laws/judged_call.hpp"

namespace attnspec::verify {

/// A row of an output of a follow-up call.
struct RowRef {
  std::string output;
  Place place;
};

/// The same row of the same output.
inline std::vector<RowRef> same_row(const std::string& output, const RowPlace& row) {
  return {{output, {row.sequence, row.token, row.head}}};
}

/// A follow-up call whose rows are those of the source call within rounding.
struct NearFollowUp {
  Case c;
  Inputs inputs;
  /// The rows that a row of the source call is the sum of; none where the law does not speak of it. "selection" is an
  /// output.
  std::function<std::vector<RowRef>(const std::string& output, const RowPlace&)> same_as;
};

/// Rows that a law compares, output by output.
class RoundedComparison {
 public:
  RoundedComparison(const char* law, CaseResult& result) : law_(law), result_(result) {}

  /// a row that must be `wanted`, within bound [n].
  void compare(const std::string& output, const Place& place, const Vector& observed, const Vector& wanted,
               const Vector& bound);
  /// A row that is wrong if there is a text.
  void compare(const std::string& output, const Place& place, const std::string& wrong);

 private:
  void add(const std::string& output, const Place& place, std::int64_t d, const std::string& wrong);

  const char* law_;
  CaseResult& result_;
};

/// Compares the rows of both calls. A row that selected other blocks in the follow-up call is compared no further, if
/// a correct kernel may have selected either.
void compare(const JudgedCall& source, const NearFollowUp& follow_up, const JudgedCall& other,
             RoundedComparison& comparison);

}  // namespace attnspec::verify
