// Classes of parameters, such as "one token in a block" or "dtype fp16", and which pairs of them cases have shown. A
// mistake usually needs two or three things to come together; pairs that were never seen are worth more than others.
#pragma once

#include <cstddef>
#include <functional>
#include <string>
#include <vector>

#include "verify/case.hpp"

namespace attnspec::fuzz {

struct ParameterClass {
  std::string name;
  std::function<bool(const verify::Case&)> holds;
};

const std::vector<ParameterClass>& parameter_classes();

/// Indices of the classes that a case belongs to, ascending.
std::vector<std::size_t> classes_of(const verify::Case& c);

/// The pairs of classes seen, for each operator on its own.
class PairCoverage {
 public:
  PairCoverage();

  /// Pairs of the case that are not among those seen.
  std::int64_t count_new(const verify::Case& c) const;
  void add(const verify::Case& c);
  std::int64_t size() const { return size_; }

 private:
  std::vector<bool> seen_;  // [operator, class, class]
  std::int64_t size_ = 0;
};

}  // namespace attnspec::fuzz
