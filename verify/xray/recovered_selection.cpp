#include "verify/xray/recovered_selection.hpp"

#include <algorithm>
#include <utility>

namespace attnspec::verify {

namespace {

/// Admissible selections that are tried, at most.
constexpr std::size_t kMaxTried = 256;

using Weight = std::function<double(const Blocks&, std::int32_t)>;

bool contains(const Blocks& blocks, std::int32_t b) {
  return std::find(blocks.begin(), blocks.end(), b) != blocks.end();
}

/// The admissible selection nearest to the blocks among those with all forced blocks of `searched`.
std::optional<Blocks> nearest(const SelectionRule& rule, const SelectionRule& searched, const Blocks& blocks,
                              const Weight& weight) {
  std::optional<Blocks> best;
  std::pair<std::int64_t, double> best_distance;  // blocks that are not among the given ones, and their weight
  for (Blocks& candidate : admissible_selections(searched, kMaxTried)) {
    if (!inadmissible(rule, candidate).empty()) continue;
    std::pair<std::int64_t, double> distance{0, 0};
    for (const std::int32_t b : candidate) {
      if (contains(blocks, b)) continue;
      ++distance.first;
      distance.second += weight(candidate, b);
    }
    if (best && distance >= best_distance) continue;
    best_distance = distance;
    best = std::move(candidate);
  }
  return best;
}

}  // namespace

std::optional<Blocks> nearest_admissible(const SelectionRule& rule, const Blocks& blocks, const Weight& weight) {
  return nearest(rule, rule, blocks, weight);
}

Blocks recovered_selection(const SelectionRule& rule, const Blocks& with_weight, const Weight& weight) {
  if (inadmissible(rule, with_weight).empty()) return with_weight;
  SelectionRule with_these = rule;
  for (const std::int32_t b : with_weight)
    if (!contains(rule.forced, b)) with_these.forced.push_back(b);
  if (std::ssize(with_these.forced) <= rule.wanted)
    if (const auto completed = nearest(rule, with_these, with_weight, weight)) return *completed;
  return nearest_admissible(rule, with_weight, weight).value_or(with_weight);
}

}  // namespace attnspec::verify
