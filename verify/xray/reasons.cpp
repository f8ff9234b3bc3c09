#include "verify/xray/reasons.hpp"

#include <fmt/format.h>
#include <fmt/ranges.h>

#include <algorithm>
#include <vector>

namespace attnspec::verify {

namespace {

bool has(std::span<const std::int32_t> blocks, std::int32_t b) {
  return std::find(blocks.begin(), blocks.end(), b) != blocks.end();
}

}  // namespace

Reasons reasons(const SelectionRule& rule, std::span<const std::int32_t> selected, std::int64_t own) {
  Blocks ranked;
  for (std::int32_t b = 0; b < rule.num_blocks; ++b)
    if (!has(rule.forced, b)) ranked.push_back(b);
  const auto score = [&](std::int32_t b) { return rule.scores[static_cast<std::size_t>(b)]; };
  const auto margin = [&](std::int32_t b) { return rule.margins[static_cast<std::size_t>(b)]; };
  std::stable_sort(ranked.begin(), ranked.end(), [&](std::int32_t a, std::int32_t b) { return score(a) > score(b); });
  std::vector<std::string> in, out;
  for (const std::int32_t b : rule.forced) in.push_back(fmt::format("{} {}", b, b == own ? "own" : "forced"));
  const std::int32_t *weakest = nullptr, *strongest = nullptr;
  for (std::size_t rank = 0; rank < ranked.size(); ++rank) {
    const std::int32_t b = ranked[rank];
    const bool is_in = has(selected, b);
    (is_in ? in : out).push_back(fmt::format("{} ({:.4g}, rank {})", b, score(b), rank + 1));
    if (is_in) weakest = &ranked[rank];
    if (!is_in && strongest == nullptr) strongest = &ranked[rank];
  }
  std::string decided = "-";
  if (weakest != nullptr && strongest != nullptr) {
    const double by = score(*weakest) - score(*strongest), rounding = margin(*weakest) + margin(*strongest);
    decided = by > rounding ? fmt::format("{:.3g}, rounding {:.2g}", by, rounding)
                            : fmt::format("{:.3g}, rounding {:.2g}: either block is right", by, rounding);
  }
  return {in.empty() ? "-" : fmt::format("{}", fmt::join(in, ", ")),
          out.empty() ? "-" : fmt::format("{}", fmt::join(out, ", ")), decided};
}

}  // namespace attnspec::verify
