// Which classes of cases, such as "block: one token" or "dtype: fp16", have come together. A mistake usually needs two
// or three things at once; triples that were never seen are worth more than others.
#pragma once

#include <cstddef>
#include <string>
#include <vector>

#include "verify/cases/case.hpp"

namespace attnspec::verify {

/// A value of an axis that a case can be seen to have.
struct CaseClass {
  std::size_t axis, value;

  /// "block: one token".
  std::string name() const;
};

const std::vector<CaseClass>& case_classes();

/// Indices of the classes that a case belongs to, ascending.
std::vector<std::size_t> classes_of(const Case& c);

/// The triples of classes seen, for each operator on its own.
class Coverage {
 public:
  Coverage();

  /// Triples of the case that are not among those seen.
  std::int64_t count_new(const Case& c) const;
  void add(const Case& c);
  std::int64_t size() const { return size_; }
  /// The classes that the operator has, at least one of its cases could be drawn for, and that no case added had.
  std::vector<std::size_t> never_seen(Operator op) const;

 private:
  std::vector<bool> seen_;     // [operator, class, class, class]
  std::vector<bool> classes_;  // [operator, class]
  std::int64_t size_ = 0;
};

}  // namespace attnspec::verify
