#include "verify/judge/selection.hpp"

#include <fmt/format.h>
#include <fmt/ranges.h>

#include <algorithm>
#include <limits>
#include <numeric>

namespace attnspec::verify {

namespace {

bool contains(std::span<const std::int32_t> blocks, std::int32_t b) {
  return std::find(blocks.begin(), blocks.end(), b) != blocks.end();
}

}  // namespace

std::string malformed(std::span<const std::int32_t> row, std::int64_t num_blocks_of_sequence) {
  std::vector<bool> is_seen(static_cast<std::size_t>(num_blocks_of_sequence));
  for (const std::int32_t b : row) {
    if (b == -1) continue;
    if (b < -1 || b >= num_blocks_of_sequence) return fmt::format("slot holds {}, not a block of the sequence", b);
    if (is_seen[static_cast<std::size_t>(b)]) return fmt::format("block {} twice", b);
    is_seen[static_cast<std::size_t>(b)] = true;
  }
  return "";
}

std::string inadmissible(const SelectionRule& rule, std::span<const std::int32_t> row) {
  std::int64_t selected = 0;
  double weakest = std::numeric_limits<double>::infinity(), strongest = -std::numeric_limits<double>::infinity();
  std::int32_t weakest_block = -1, strongest_block = -1;
  std::vector<bool> is_selected(static_cast<std::size_t>(rule.num_blocks)), is_forced = is_selected;
  for (const std::int32_t b : row) {
    if (b == -1) continue;
    if (b >= rule.num_blocks) return fmt::format("block {} is not visible", b);
    is_selected[static_cast<std::size_t>(b)] = true;
    ++selected;
  }
  for (const std::int32_t b : rule.forced) {
    is_forced[static_cast<std::size_t>(b)] = true;
    if (!is_selected[static_cast<std::size_t>(b)]) return fmt::format("forced block {} is missing", b);
  }
  if (selected != rule.wanted) return fmt::format("{} blocks where {} belong", selected, rule.wanted);
  for (std::int32_t b = 0; b < rule.num_blocks; ++b) {
    const auto at = static_cast<std::size_t>(b);
    if (is_forced[at]) continue;
    if (is_selected[at]) {
      if (rule.scores[at] + rule.margins[at] < weakest) {
        weakest = rule.scores[at] + rule.margins[at];
        weakest_block = b;
      }
    } else if (rule.scores[at] - rule.margins[at] > strongest) {
      strongest = rule.scores[at] - rule.margins[at];
      strongest_block = b;
    }
  }
  if (weakest >= strongest) return "";
  const auto score = [&](std::int32_t b) {
    return fmt::format("{:.9g} +- {:.3g}", rule.scores[static_cast<std::size_t>(b)],
                       rule.margins[static_cast<std::size_t>(b)]);
  };
  return fmt::format("block {} (score {}) left out for block {} (score {})", strongest_block, score(strongest_block),
                     weakest_block, score(weakest_block));
}

std::optional<double> clearance_of(const SelectionRule& rule, std::span<const std::int32_t> row) {
  std::optional<std::size_t> weakest, strongest;
  for (std::int32_t b = 0; b < rule.num_blocks; ++b) {
    if (contains(rule.forced, b)) continue;
    const auto at = static_cast<std::size_t>(b);
    if (contains(row, b) && (!weakest || rule.scores[at] < rule.scores[*weakest])) weakest = at;
    if (!contains(row, b) && (!strongest || rule.scores[at] > rule.scores[*strongest])) strongest = at;
  }
  if (!weakest || !strongest) return std::nullopt;
  const double margin = rule.margins[*weakest] + rule.margins[*strongest];
  if (!(margin > 0)) return std::nullopt;
  return (rule.scores[*weakest] - rule.scores[*strongest]) / margin;
}

std::vector<Blocks> admissible_selections(const SelectionRule& rule, std::size_t most) {
  Blocks certain = rule.forced, open;  // in every admissible selection; in some
  const auto high = [&](std::int32_t b) {
    return rule.scores[static_cast<std::size_t>(b)] + rule.margins[static_cast<std::size_t>(b)];
  };
  const auto low = [&](std::int32_t b) {
    return rule.scores[static_cast<std::size_t>(b)] - rule.margins[static_cast<std::size_t>(b)];
  };
  Blocks candidates;
  for (std::int32_t b = 0; b < rule.num_blocks; ++b)
    if (!contains(rule.forced, b)) candidates.push_back(b);
  const std::int64_t places = rule.wanted - std::ssize(rule.forced);
  for (const std::int32_t b : candidates) {
    const auto others = [&](auto beats) {
      return std::count_if(candidates.begin(), candidates.end(), [&](std::int32_t a) { return a != b && beats(a); });
    };
    if (others([&](std::int32_t a) { return high(a) >= low(b); }) < places) {
      certain.push_back(b);
    } else if (others([&](std::int32_t a) { return low(a) > high(b); }) < places) {
      open.push_back(b);
    }
  }
  const std::int64_t missing = rule.wanted - std::ssize(certain);
  std::vector<Blocks> result;
  if (open.size() > 24) return result;
  std::vector<char> taken(open.size(), 0);
  std::fill_n(taken.begin(), missing, 1);
  do {  // every way to fill the missing places
    Blocks blocks = certain;
    for (std::size_t i = 0; i < open.size(); ++i)
      if (taken[i]) blocks.push_back(open[i]);
    if (!inadmissible(rule, blocks).empty()) continue;
    if (result.size() == most) return {};
    result.push_back(std::move(blocks));
  } while (std::prev_permutation(taken.begin(), taken.end()));
  return result;
}

}  // namespace attnspec::verify
