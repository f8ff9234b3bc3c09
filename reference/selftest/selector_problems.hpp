// Small problems of the selectors MSA, DSA and QSA for the tests of their oracles, and which rows a double decides.
#pragma once

#include <string>
#include <vector>

#include "reference/selftest/oracle_testing.hpp"

namespace attnspec::oracle {

constexpr std::int64_t kMaxSelectorKeys = 40;  // in a sequence, and so the most blocks

struct SmallSelector : SmallAttention {
  std::int64_t index_heads = 1, index_features = 1, block = 1, top_k = 1;
};

inline std::ostream& operator<<(std::ostream& out, const SmallSelector& small) {
  return out << static_cast<const SmallAttention&>(small) << " index_heads " << small.index_heads << " index_features "
             << small.index_features << " block " << small.block << " top_k " << small.top_k;
}

/// Problems that `validate` accepts. One in three has inputs on a grid of halves, where scores tie.
inline rc::Gen<SmallSelector> small_selector_problems(std::int64_t max_block) {
  using rc::gen::inRange;
  using rc::gen::set;
  using rc::gen::weightedElement;
  const auto any = rc::gen::build<SmallSelector>(
      set(&SmallSelector::sequences, sequence_lengths(4, kMaxSelectorKeys)),
      set(&SmallSelector::kv_heads, inRange<std::int64_t>(1, 4)),
      set(&SmallSelector::group, inRange<std::int64_t>(1, 4)), set(&SmallSelector::dk, inRange<std::int64_t>(1, 5)),
      set(&SmallSelector::dv, inRange<std::int64_t>(1, 5)),
      set(&SmallSelector::index_heads, inRange<std::int64_t>(1, 6)),
      set(&SmallSelector::index_features, inRange<std::int64_t>(1, 10)),
      set(&SmallSelector::block, inRange<std::int64_t>(1, max_block + 1)),
      set(&SmallSelector::top_k, inRange<std::int64_t>(1, 9)),
      set(&SmallSelector::is_dyadic, weightedElement<bool>({{2, false}, {1, true}})),
      set(&SmallSelector::seed, rc::gen::arbitrary<std::uint64_t>()));
  return rc::gen::resize(rc::kNominalSize, any);
}

/// Expects a property of `times_hundred` hundred small problems.
template <class Property>
void expect_on_small_selectors(std::size_t times_hundred, std::int64_t max_block, const Property& property) {
  expect_on(times_hundred, small_selector_problems(max_block), property);
}

/// How a row's selection comes about.
struct Decision {
  bool is_decided = true;  // a double orders every selected candidate and every other one as exact numbers do
  bool is_tie = false;     // a selected candidate and another one have the same score
};

/// Of the scores 0 .. candidates - 1 and those of them that are selected. is_exact: a double makes no error. A score
/// without terms is exact too.
inline Decision decide(const std::vector<Sum<Real>>& scores, std::int64_t candidates,
                       const std::vector<std::int64_t>& selected, bool is_exact) {
  const auto is_selected = [&](std::int64_t b) {
    return std::find(selected.begin(), selected.end(), b) != selected.end();
  };
  Decision decision;
  for (std::int64_t a = 0; a < candidates; ++a)
    for (std::int64_t b = 0; b < candidates; ++b) {
      if (!is_selected(a) || is_selected(b)) continue;
      const Sum<Real>&in = scores[static_cast<std::size_t>(a)], &out = scores[static_cast<std::size_t>(b)];
      const Real terms = is_exact ? 0 : in.terms + out.terms;
      if (in.value - out.value <= 1e-12L * terms && terms > 0) decision.is_decided = false;
      if (in.value == out.value) decision.is_tie = true;
    }
  return decision;
}

/// What a test of agreement counts, and demands of the problems it drew.
class DecisionCounts {
 public:
  void add(const Decision& decision) {
    ++rows_;
    undecided_ += !decision.is_decided;
    ties_ += decision.is_decided && decision.is_tie;
  }
  void expect_enough() const {
    std::cout << rows_ << " rows, " << undecided_ << " undecided, " << ties_ << " decided by the tie rule\n";
    EXPECT_LT(undecided_, rows_ / 20);
    EXPECT_GT(ties_, rows_ / 1000);
  }

 private:
  std::int64_t rows_ = 0, undecided_ = 0, ties_ = 0;
};

/// Whether every row lists its blocks ascending, each once, with the empty slots behind them.
inline bool is_canonical(const reference::Selection& selection) {
  for (std::int64_t token = 0; token < selection.tokens; ++token)
    for (std::int64_t head = 0; head < selection.heads; ++head) {
      const auto row = selection.row(token, head);
      for (std::size_t slot = 1; slot < row.size(); ++slot)
        if (row[slot] >= 0 ? row[slot - 1] < 0 || row[slot - 1] >= row[slot] : row[slot] != -1) return false;
    }
  return true;
}

/// The selection of one token as a list, empty slots left out.
inline std::vector<std::int64_t> selected_of(const reference::Selection& selection, std::int64_t token,
                                             std::int64_t head = 0) {
  return lift(selection).row(token, head);
}

/// A selection of one head, repeated for every kv head.
inline reference::Selection for_kv_heads(const AttentionProblem& attention, const reference::Selection& one) {
  reference::Selection all(one.tokens, attention.kv_heads, one.slots);
  for (std::int64_t token = 0; token < one.tokens; ++token)
    for (std::int64_t g = 0; g < attention.kv_heads; ++g)
      std::ranges::copy(one.row(token, 0), all.row(token, g).begin());
  return all;
}

/// A tensor [tokens, heads, dim] of the reference from numbers in that order.
inline reference::Tensor tensor(std::int64_t tokens, std::int64_t heads, std::int64_t dim,
                                const std::vector<Real>& values) {
  Tensor<Real> result(tokens, heads, dim);
  result.values = values;
  return lower(result);
}

/// One causal sequence of as many queries as keys.
inline AttentionProblem one_sequence(std::int64_t tokens, std::int64_t heads = 1, std::int64_t kv_heads = 1) {
  return {{0, tokens}, {0, tokens}, heads, kv_heads, 1, 1, 1, true};
}

/// The message of the InvalidProblem that the problem is rejected with; empty when it is accepted.
template <class Problem>
std::string rejection(const Problem& problem) {
  try {
    validate(problem);
    return "";
  } catch (const reference::InvalidProblem& invalid) {
    return invalid.what();
  }
}

}  // namespace attnspec::oracle
