#include "fuzz/report/error_map.hpp"

#include <algorithm>
#include <map>
#include <mutex>
#include <numeric>
#include <utility>

namespace attnspec::fuzz {

namespace {

using namespace verify;

/// What is kept of a failing case.
constexpr std::size_t kMaxRows = 2'000'000, kMaxWrongRows = 8, kMaxMaps = 6;
constexpr Eigen::Index kMaxFeatures = 8;

using Levels = std::map<Place, RowLevel>;

RowLevel level_of(const RowComparison& row) {
  if (row.fault != RowFault::none) return RowLevel::wrong;
  return row.r < 1 ? RowLevel::below_1 : row.r < 2 ? RowLevel::below_2 : RowLevel::above_2;
}

/// Parameters of phi have no sequence; they are drawn as one.
Place drawn_at(const Place& place) { return {std::max<std::int64_t>(0, place.sequence), place.token, place.head}; }

ErrorMap to_map(const std::string& output, const Levels& levels) {
  ErrorMap map{.output = output, .lengths = {}, .levels = {}};
  for (const auto& [place, level] : levels) {
    map.heads = std::max(map.heads, place.head + 1);
    map.lengths.resize(std::max(map.lengths.size(), static_cast<std::size_t>(place.sequence) + 1));
    std::int64_t& length = map.lengths[static_cast<std::size_t>(place.sequence)];
    length = std::max(length, place.token + 1);
  }
  std::vector<std::int64_t> begins(map.lengths.size() + 1);
  std::partial_sum(map.lengths.begin(), map.lengths.end(), begins.begin() + 1);
  if (static_cast<std::size_t>(begins.back() * map.heads) > kMaxRows)
    return {.output = output, .lengths = {}, .levels = {}};
  map.levels.assign(static_cast<std::size_t>(begins.back() * map.heads), RowLevel::not_judged);
  for (const auto& [place, level] : levels) {
    const std::int64_t row = begins[static_cast<std::size_t>(place.sequence)] + place.token;
    map.levels[static_cast<std::size_t>(row * map.heads + place.head)] = level;
  }
  return map;
}

std::vector<double> numbers(const Vector& row) { return {row.begin(), row.end()}; }

/// Whether the kernel returned and wrote rows that are wrong.
bool has_wrong_rows(const CaseResult& failing) {
  return failing.verdict < Verdict::call_failed &&
         std::any_of(failing.findings.begin(), failing.findings.end(), [](const Finding& f) { return f.token >= 0; });
}

}  // namespace

std::vector<WrongRun> wrong_rows(const ErrorMap& map) {
  std::vector<WrongRun> all;
  for (std::int64_t head = 0; head < map.heads; ++head) {
    std::int64_t begin = 0;
    for (std::size_t s = 0; s < map.lengths.size(); begin += map.lengths[s++])
      for (std::int64_t token = 0; token < map.lengths[s]; ++token) {
        if (map.level(begin + token, head) != RowLevel::wrong) continue;
        if (token > 0 && map.level(begin + token - 1, head) == RowLevel::wrong)
          all.back().last_token = token;
        else
          all.push_back({static_cast<std::int64_t>(s), head, token, token});
      }
  }
  return all;
}

JudgedAgain judge_rows(const Kernel& kernel, const CaseResult& failing) {
  JudgedAgain again;
  if (!has_wrong_rows(failing)) return again;
  std::mutex mutex;
  std::map<std::string, Levels> levels;
  std::size_t rows = 0;
  RowObserver observe([&](const ObservedRow& row) {
    const std::lock_guard lock(mutex);
    if (++rows > kMaxRows) return;
    levels[row.output][drawn_at(row.place)] = level_of(row.comparison);
    if (row.comparison.fault != RowFault::none && row.expected.size() <= kMaxFeatures)
      again.wrong.push_back({row.output, row.place, numbers(row.expected), numbers(row.observed)});
  });
  observe.selection = [&](const ObservedSelection& row) {
    const std::lock_guard lock(mutex);
    levels["selection"][drawn_at(row.place)] = row.is_right ? RowLevel::below_1 : RowLevel::wrong;
  };
  if (failing.c.law == Law::none) {
    if (kernel.forget) kernel.forget();
    const CaseResult result = judge(kernel, failing.c, observe);
    if (!is_finding(result.verdict) || rows > kMaxRows) return {};
  }
  std::sort(again.wrong.begin(), again.wrong.end(), [](const WrongRow& a, const WrongRow& b) {
    return std::pair(a.output, a.place) < std::pair(b.output, b.place);
  });
  again.wrong.resize(std::min(again.wrong.size(), kMaxWrongRows));
  for (const Finding& finding : failing.findings) {
    const auto is_drawn = [&](const ErrorMap& map) { return map.output == finding.output; };
    if (finding.token < 0 || again.maps.size() == kMaxMaps ||
        std::any_of(again.maps.begin(), again.maps.end(), is_drawn))
      continue;
    const bool is_observed = levels.contains(finding.output);
    Levels& of_output = levels[finding.output];
    for (const Finding& other : failing.findings)
      if (!is_observed && other.output == finding.output && other.token >= 0)
        of_output[drawn_at({other.sequence, other.token, other.head})] = RowLevel::wrong;
    again.maps.push_back(to_map(finding.output, of_output));
    again.maps.back().holds_all_rows = is_observed;
  }
  std::erase_if(again.maps, [](const ErrorMap& map) { return map.levels.empty(); });
  return again;
}

}  // namespace attnspec::fuzz
