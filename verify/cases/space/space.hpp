// The space of cases: what a case is made of, as axes (its heads, its lengths, its regime ...), each with values that
// lie on edges. The levels and the search draw their cases from it, and it says what a case covers.
#pragma once

#include <cstddef>
#include <cstdint>
#include <functional>
#include <string>
#include <vector>

#include "verify/cases/case.hpp"

namespace attnspec::verify {

/// A whole number from min to max, both included; max below min counts as min.
using Between = std::function<std::int64_t(std::int64_t min, std::int64_t max)>;

/// A case that is being drawn.
struct Draft {
  Case c;
  Between between;
  std::int64_t room = 0;       // query tokens times heads that it may have, about
  std::int64_t sequences = 1;  // how many
  bool is_extreme = false;     // one size is huge: no laws, no sessions

  /// One of the values.
  template <class T>
  T one_of(const std::vector<T>& values) const {
    return values[static_cast<std::size_t>(between(0, std::ssize(values) - 1))];
  }
};

/// One value of an axis: a way to draw a part of a case, and a class of cases.
struct Value {
  std::string name;
  int weight = 0;                            // of being drawn, against the others of its axis; 0: never
  std::function<void(Draft&)> draw{};        // empty where the weight is 0
  std::function<bool(const Case&)> holds{};  // whether a case of the axis has it; empty: no case can tell
  std::function<bool(Operator)> has{};       // whether the operator has it; empty: it does if it has the axis
};

struct Axis {
  std::string name;
  std::function<bool(Operator)> has;  // whether cases of the operator have such a part
  std::vector<Value> values;
  bool is_always_whole = false;  // a swarm leaves none of its values out
  bool is_per_sequence = false;  // drawn once for each sequence
};

/// In the order they are drawn; an axis may depend on those before it.
const std::vector<Axis>& axes();
/// The axis of that name, as an index. Throws std::out_of_range where there is none.
std::size_t axis_of(const std::string& name);

/// Values of an axis that may be drawn for the operator.
std::vector<std::size_t> drawn_values(const Axis& axis, Operator op);

/// Chooses a value of an axis out of those that may be drawn, given by their indices, at least one.
using Choose = std::function<std::size_t(std::size_t axis, const std::vector<std::size_t>& values, Draft& draft)>;
/// By their weights.
std::size_t choose_by_weight(std::size_t axis, const std::vector<std::size_t>& values, Draft& draft);

/// A valid case of the operator. choose: asked for every axis that it has, once for each sequence where the axis is
/// drawn so. Most cases have tens of tokens, some hundreds; the extremes have one size that is huge, and little else.
Case draw_case(Operator op, const Choose& choose, const Between& between);

/// The case with the keys that its operator does not have at their defaults, so that it prints as it is. Throws what
/// parse_case throws.
Case normalised(const Case& c);

}  // namespace attnspec::verify
