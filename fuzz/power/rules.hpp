// The rules by which tests of attention kernels usually compare a tensor with a reference.
#pragma once

#include <span>
#include <vector>

namespace attnspec::fuzz {

struct Rule {
  const char* name;
  /// Whether it takes observed for right. Numbers that are equal, infinities among them, never matter.
  bool (*accepts)(std::span<const double> expected, std::span<const double> observed);
};

std::span<const Rule> usual_rules();

}  // namespace attnspec::fuzz
