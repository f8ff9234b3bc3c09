#include <fmt/format.h>

#include <cstdint>
#include <set>

#include "verify/cases/levels.hpp"

namespace attnspec::verify {

namespace {

/// Cases without a law that are left of a level at least, so that limits do not end in a table that says nothing.
constexpr std::int64_t kMinCases = 100;
/// Times that the level is gone through again with other numbers, at most.
constexpr std::uint64_t kMaxRounds = 32;
constexpr std::uint64_t kSeedsOfARound = 100;

}  // namespace

std::vector<Case> level_cases(Operator op, int level, const Limits& limits) {
  const std::vector<Case> all = level_cases(op, level);
  if (limits == Limits{}) return all;
  std::vector<Case> cases;
  std::set<std::string> seen;
  std::int64_t without_law = 0;
  const auto add = [&](const Case& c) {
    if (!seen.insert(print(c)).second) return;
    cases.push_back(c);
    if (c.law == Law::none) ++without_law;
  };
  for (const Case& c : all) add(inside(limits, c));
  for (std::uint64_t round = 1; round <= kMaxRounds; ++round)
    for (Case c : all) {
      if (without_law >= kMinCases) return cases;
      c.seed += round * kSeedsOfARound;
      if (c.law == Law::none) add(inside(limits, c));
    }
  return cases;
}

double share_inside(const std::vector<Operator>& operators, const Limits& limits) {
  double all = 0, allowed = 0;
  for (const Operator op : operators)
    for (const Case& c : level_cases(op, 1)) ++all, allowed += outside(limits, c) ? 0 : 1;
  return all > 0 ? allowed / all : 1;
}

std::string limits_line(const std::vector<Operator>& operators, const Limits& limits) {
  const double share = limits == Limits{} ? 1 : share_inside(operators, limits);
  if (share == 1) return "";
  return fmt::format("limits: {:.0f} % of the cases of level 1 lie inside; the others were moved inside ({})\n",
                     100 * share, describe(limits));
}

}  // namespace attnspec::verify
