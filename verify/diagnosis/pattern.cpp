#include "verify/diagnosis/pattern.hpp"

#include <fmt/format.h>

#include <algorithm>
#include <functional>
#include <limits>
#include <map>
#include <utility>

namespace attnspec::verify {

namespace {

/// What is said where all rows are wrong, but for a few whose error happens to be small.
constexpr const char* kEveryRow = "every row";
constexpr double kMinShareOfEvery = 0.95;
/// How much better less simple words must fit, and how well any must: harmonic means of precision and recall.
constexpr double kMinGain = 0.02, kMinFit = 0.8;

struct Predicate {
  std::string words;
  std::function<bool(const RowFacts&)> holds;
};

struct Fit {
  double precision = 0, recall = 0;

  double mean() const { return precision + recall > 0 ? 2 * precision * recall / (precision + recall) : 0; }
};

/// What a fixed list knows of the wrong rows: values that most of them share.
class WrongValues {
 public:
  explicit WrongValues(const std::vector<RowFacts>& rows) : rows_(rows) {}

  template <class Value>
  std::int64_t most_common(const Value& value) const {
    std::map<std::int64_t, std::int64_t> counts;
    for (const RowFacts& row : rows_)
      if (row.is_wrong) ++counts[value(row)];
    return std::max_element(counts.begin(), counts.end(),
                            [](const auto& a, const auto& b) { return a.second < b.second; })
        ->first;
  }
  template <class Value>
  std::int64_t min(const Value& value) const {
    std::int64_t least = std::numeric_limits<std::int64_t>::max();
    for (const RowFacts& row : rows_)
      if (row.is_wrong) least = std::min(least, value(row));
    return least;
  }
  template <class Value>
  std::int64_t max(const Value& value) const {
    return -min([&](const RowFacts& row) { return -value(row); });
  }

 private:
  const std::vector<RowFacts>& rows_;
};

std::vector<Predicate> of_sequences_and_heads(const WrongValues& wrong) {
  const std::int64_t sequence = wrong.most_common([](const RowFacts&row) { return row.sequence; }),
                     kv_head = wrong.most_common([](const RowFacts&row) { return row.kv_head; }),
                     head = wrong.most_common([](const RowFacts&row) { return row.head; }),
                     in_group = wrong.most_common([](const RowFacts&row) { return row.head_in_group; });
  return {
      {kEveryRow, [](const RowFacts&) { return true; }},  // the first of all
      {"only the first sequence", [](const RowFacts& row) { return row.sequence == 0; }},
      {"only the last sequence", [](const RowFacts& row) { return row.sequence == row.sequences - 1; }},
      {"only sequences after the first", [](const RowFacts& row) { return row.sequence > 0; }},
      {fmt::format("only sequence {}", sequence), [=](const RowFacts& row) { return row.sequence == sequence; }},
      {fmt::format("only kv head {}", kv_head), [=](const RowFacts& row) { return row.kv_head == kv_head; }},
      {"only kv heads after the first", [](const RowFacts& row) { return row.kv_head > 0; }},
      {fmt::format("only head {}", head), [=](const RowFacts& row) { return row.head == head; }},
      {"only heads after the first", [](const RowFacts& row) { return row.head > 0; }},
      {fmt::format("only head {} of each group", in_group),
       [=](const RowFacts& row) { return row.head_in_group == in_group; }},
      {"only the heads of a group after its first", [](const RowFacts& row) { return row.head_in_group > 0; }},
      {"only odd heads", [](const RowFacts& row) { return row.head % 2 == 1; }},
  };
}

std::vector<Predicate> of_tokens() {
  return {
      {"only the first row of each sequence", [](const RowFacts& row) { return row.row == 0; }},
      {"only the last row of each sequence", [](const RowFacts& row) { return row.row == row.rows - 1; }},
      {"only rows after the first of each sequence", [](const RowFacts& row) { return row.row > 0; }},
      {"only rows before the last of each sequence", [](const RowFacts& row) { return row.row < row.rows - 1; }},
      {"only rows that see no key", [](const RowFacts& row) { return row.seen_keys == 0 || row.position < 0; }},
      {"only rows that see more than one block", [](const RowFacts& row) { return row.seen_ranges > 1; }},
      {"only t >= w, the window", [](const RowFacts& row) { return row.window > 0 && row.position >= row.window; }},
      {"only t >= w - 1, the window",
       [](const RowFacts& row) { return row.window > 0 && row.position >= row.window - 1; }},
      {"only t < w - 1, the window", [](const RowFacts& row) { return row.position < row.window - 1; }},
      {"only t < l - 1, before the first compression block ends",
       [](const RowFacts& row) { return row.position < row.compress_block - 1; }},
      {"only t >= l - 1, from the end of the first compression block on",
       [](const RowFacts& row) { return row.compress_block > 0 && row.position >= row.compress_block - 1; }},
  };
}

std::vector<Predicate> of_blocks(const WrongValues& wrong) {
  const auto block = [](const RowFacts& row) { return row.block; };
  const auto in_block = [](const RowFacts& row) { return row.in_block; };
  const std::int64_t first = wrong.min(block), last = wrong.max(block), at = wrong.most_common(in_block);
  return {
      {"only the first block", [](const RowFacts& row) { return row.block_size > 0 && row.block == 0; }},
      {"only the last block", [](const RowFacts& row) { return row.block_size > 0 && row.block == row.blocks - 1; }},
      {"only a short last block", [](const RowFacts& row) { return row.is_in_short_block; }},
      {fmt::format("only blocks >= {}", first), [=](const RowFacts& row) { return row.block >= first; }},
      {fmt::format("only blocks <= {}", last), [=](const RowFacts& row) { return row.block <= last; }},
      {"only t % B == B - 1, the last token of a block",
       [](const RowFacts& row) { return row.block_size > 0 && row.in_block == row.block_size - 1; }},
      {fmt::format("only t % B == {}, in its block", at),
       [=](const RowFacts& row) { return row.block_size > 0 && row.in_block == at; }},
      {"only t % B != 0, all of a block but its first token", [](const RowFacts& row) { return row.in_block > 0; }},
  };
}

/// Bounds that no size of the case gives.
std::vector<Predicate> of_positions(const WrongValues& wrong) {
  const auto position = [](const RowFacts& row) { return row.position; };
  const std::int64_t first = wrong.min(position), last = wrong.max(position);
  return {{fmt::format("only t >= {}", first), [=](const RowFacts& row) { return row.position >= first; }},
          {fmt::format("only t <= {}", last), [=](const RowFacts& row) { return row.position <= last; }}};
}

/// Positions in tiles of rows, as kernels have them.
std::vector<Predicate> of_tiles(const WrongValues& wrong) {
  std::vector<Predicate> all;
  for (const std::int64_t tile : {16, 32, 64, 128}) {
    const auto in_tile = [tile](const RowFacts& row) { return row.row % tile; };
    const std::int64_t at = wrong.most_common(in_tile), first = wrong.min(in_tile), last = wrong.max(in_tile);
    all.push_back(
        {fmt::format("only row % {} == {}", tile, at), [=](const RowFacts& row) { return row.row % tile == at; }});
    all.push_back({fmt::format("only row % {} >= {}", tile, first),
                   [=](const RowFacts& row) { return row.row % tile >= first; }});
    all.push_back(
        {fmt::format("only row % {} <= {}", tile, last), [=](const RowFacts& row) { return row.row % tile <= last; }});
  }
  return all;
}

Fit fit_of(const Predicate& predicate, const std::vector<RowFacts>& rows) {
  double named = 0, wrong = 0, both = 0;
  for (const RowFacts& row : rows) {
    const bool holds = predicate.holds(row);
    named += holds;
    wrong += row.is_wrong;
    both += holds && row.is_wrong;
  }
  return {named > 0 ? both / named : 0, wrong > 0 ? both / wrong : 0};
}

/// Which features of the wrong rows are wrong.
std::string words_of_features(const std::vector<RowFacts>& rows) {
  std::vector<std::pair<std::string, std::function<bool(std::int64_t, std::int64_t)>>> all{
      {"", [](std::int64_t, std::int64_t) { return true; }}};  // all of them, of which nothing need be said
  for (const std::int64_t n : {16, 32, 64, 128, 192}) {
    all.emplace_back(fmt::format("only features >= {}", n), [n](std::int64_t d, std::int64_t) { return d >= n; });
    all.emplace_back(fmt::format("only features < {}", n), [n](std::int64_t d, std::int64_t) { return d < n; });
  }
  all.emplace_back("only the first feature", [](std::int64_t d, std::int64_t) { return d == 0; });
  all.emplace_back("only the last feature", [](std::int64_t d, std::int64_t dim) { return d == dim - 1; });
  all.emplace_back("only features behind the last whole 8",
                   [](std::int64_t d, std::int64_t dim) { return d >= dim / 8 * 8; });
  std::vector<Fit> fits;
  for (const auto& [words, holds] : all) {
    double named = 0, wrong = 0, both = 0;
    for (const RowFacts& row : rows) {
      if (row.wrong_features.empty()) continue;
      for (std::int64_t d = 0; d < row.dim; ++d) named += holds(d, row.dim);
      wrong += static_cast<double>(row.wrong_features.size());
      for (const std::int64_t d : row.wrong_features) both += holds(d, row.dim);
    }
    fits.push_back({named > 0 ? both / named : 0, wrong > 0 ? both / wrong : 0});
  }
  // Elements whose error happens to be small are right: an edge between features is one if nothing wrong lies beyond.
  const auto best =
      std::max_element(fits.begin(), fits.end(), [](const Fit& a, const Fit& b) { return a.mean() < b.mean(); });
  const auto found =
      std::find_if(fits.begin(), fits.end(), [&](const Fit& fit) { return fit.mean() >= best->mean() - kMinGain; });
  return found->recall >= 0.99 ? all[static_cast<std::size_t>(found - fits.begin())].first : "";
}

}  // namespace

Pattern find_pattern(const std::string& output, const std::vector<RowFacts>& rows) {
  Pattern pattern{output};
  pattern.rows = std::ssize(rows);
  pattern.wrong = std::count_if(rows.begin(), rows.end(), [](const RowFacts& row) { return row.is_wrong; });
  const WrongValues wrong(rows);
  std::vector<Predicate> predicates;
  for (auto&& list :
       {of_sequences_and_heads(wrong), of_tokens(), of_blocks(wrong), of_positions(wrong), of_tiles(wrong)})
    predicates.insert(predicates.end(), list.begin(), list.end());
  std::vector<Fit> fits;
  const Fit every = fit_of(predicates.front(), rows);
  for (const Predicate& predicate : predicates) {
    Fit fit = fit_of(predicate, rows);
    if (predicate.words != kEveryRow && fit.mean() < every.mean() + kMinGain) fit = {};  // it separates nothing
    fits.push_back(fit);
  }
  if (every.precision < kMinShareOfEvery) fits.front() = {};
  const auto best =
      std::max_element(fits.begin(), fits.end(), [](const Fit& a, const Fit& b) { return a.mean() < b.mean(); });
  const auto found =
      std::find_if(fits.begin(), fits.end(), [&](const Fit& fit) { return fit.mean() >= best->mean() - kMinGain; });
  if (found->mean() >= kMinFit) {
    pattern.words = predicates[static_cast<std::size_t>(found - fits.begin())].words;
    pattern.precision = found->precision;
    pattern.recall = found->recall;
  }
  pattern.features = words_of_features(rows);
  return pattern;
}

std::string Pattern::line() const {
  std::string text = fmt::format("{} is wrong in {} of {} rows: ", output, wrong, rows);
  if (words.empty())
    text += "no simple words separate them";
  else
    text += fmt::format("{} (precision {:.2f}, recall {:.2f})", words, precision, recall);
  return features.empty() ? text : text + ", " + features;
}

}  // namespace attnspec::verify
