#include "verify/xray/faults.hpp"

#include <algorithm>
#include <cmath>
#include <iterator>
#include <set>
#include <span>
#include <string>
#include <tuple>
#include <utility>

#include "verify/xray/recovered_selection.hpp"

namespace attnspec::verify {

using namespace reference;

const char* name(WeightFault fault) {
  switch (fault) {
    case WeightFault::malformed_selection: return "malformed selection";
    case WeightFault::other_sequence: return "key of another sequence";
    case WeightFault::other_kv_head: return "key of another kv head";
    case WeightFault::future_key: return "future key";
    case WeightFault::outside_window: return "key outside the window";
    case WeightFault::unselected_block: return "unselected block";
    case WeightFault::missing_own_block: return "missing own block";
    case WeightFault::missing_block: return "missing block";
    case WeightFault::missing_key: return "missing key";
    case WeightFault::wrong_weight: return "weight wrong";
  }
  return "";
}

bool is_leak(WeightFault fault) {
  return fault >= WeightFault::other_sequence && fault <= WeightFault::unselected_block;
}

bool is_missing(WeightFault fault) {
  return fault >= WeightFault::missing_own_block && fault <= WeightFault::missing_key;
}

namespace {

/// The query's own block where causality gives it one, else -1.
std::int64_t own_block(const Attention& attention, const Sequence& sequence, std::int64_t token) {
  const std::int64_t t = sequence.position(token);
  return attention.has_blocks && attention.problem.causal && t >= 0 ? t / attention.block : -1;
}

/// Finds what is wrong with the weights of one query row.
class RowFaults {
 public:
  RowFaults(const Attention& attention, const Selection& selection, const std::vector<Sequence>& all,
            const std::vector<char>& is_wrong, const Weights& weights, const Sequence& sequence, std::int64_t token,
            std::int64_t head)
      : attention_(attention),
        all_(all),
        is_wrong_(is_wrong),
        weights_(weights),
        sequence_(sequence),
        token_(token),
        head_(head),
        row_(token * attention.problem.heads + head),
        g_(kv_head(attention.problem, head)),
        reach_(attention.reach(sequence, token)),
        visible_(visible_keys(attention, selection, sequence, token, head)) {}

  std::vector<WeightFinding> find() {
    if (!weights_.observed.row(row_).allFinite()) {
      for (std::int64_t column = 0; column < attention_.columns(); ++column)
        if (!std::isfinite(weights_.observed(row_, column))) {
          add(WeightFault::wrong_weight, column);
          break;
        }
      return std::move(findings_);
    }
    for (std::int64_t column = 0; column < attention_.columns(); ++column)
      if (is_wrong(column) && !is_visible(column)) add(kind_of_leak(column), column);
    for (const KeyRange& range : visible_) add_missing(range);
    if (findings_.empty()) {
      for (std::int64_t column = 0; column < attention_.columns(); ++column)
        if (is_wrong(column)) add(WeightFault::wrong_weight, column);
    } else {
      for (std::int64_t column = 0; column < attention_.columns(); ++column)
        has_followers = has_followers || (is_wrong(column) && is_visible(column) && !is_zero(column));
    }
    return std::move(findings_);
  }

  bool has_followers = false;  // weights that are off because others leak or are missing

 private:
  bool is_wrong(std::int64_t column) const {
    return is_wrong_[static_cast<std::size_t>(row_ * attention_.columns() + column)] != 0;
  }
  bool is_zero(std::int64_t column) const { return weights_.observed(row_, column) == 0; }

  std::int64_t column_of(std::int64_t key) const { return g_ * attention_.keys() + sequence_.k_begin + key; }

  bool is_visible(std::int64_t column) const {
    const std::int64_t key = column - column_of(0);
    return std::any_of(visible_.begin(), visible_.end(),
                       [key](const KeyRange& range) { return range.begin <= key && key < range.end; });
  }

  WeightFault kind_of_leak(std::int64_t column) const {
    if (column / attention_.keys() != g_) return WeightFault::other_kv_head;
    const std::int64_t key = column - column_of(0);
    if (key < 0 || key >= sequence_.num_keys()) return WeightFault::other_sequence;
    if (key >= reach_.end) return WeightFault::future_key;
    return key < reach_.begin ? WeightFault::outside_window : WeightFault::unselected_block;
  }

  /// What has no weight of a range of keys that the row sees in one block.
  void add_missing(const KeyRange& range) {
    bool is_all = true;
    std::vector<std::int64_t> missing;
    for (std::int64_t key = range.begin; key < range.end; ++key) {
      const std::int64_t column = column_of(key);
      is_all = is_all && is_zero(column);
      if (is_zero(column) && is_wrong(column)) missing.push_back(column);
    }
    if (missing.empty()) return;
    if (is_all && attention_.has_blocks) {
      const bool is_own = range.begin / attention_.block == own_block(attention_, sequence_, token_);
      return add(is_own ? WeightFault::missing_own_block : WeightFault::missing_block, missing.front());
    }
    for (const std::int64_t column : missing) add(WeightFault::missing_key, column);
  }

  void add(WeightFault fault, std::int64_t column) {
    const std::int64_t key = column % attention_.keys();
    const auto of_key = std::find_if(all_.begin(), all_.end(), [key](const Sequence& s) { return key < s.k_end; });
    findings_.push_back({fault,
                         {sequence_.index, token_ - sequence_.q_begin, head_},
                         {of_key->index, key - of_key->k_begin, column / attention_.keys()},
                         weights_.observed(row_, column),
                         weights_.expected(row_, column),
                         weights_.bound(row_, column)});
  }

  const Attention& attention_;
  const std::vector<Sequence>& all_;
  const std::vector<char>& is_wrong_;
  const Weights& weights_;
  const Sequence& sequence_;
  std::int64_t token_, head_, row_, g_;
  KeyRange reach_;
  std::vector<KeyRange> visible_;
  std::vector<WeightFinding> findings_;
};

void sort(std::vector<WeightFinding>& findings) {
  std::stable_sort(findings.begin(), findings.end(), [](const WeightFinding& a, const WeightFinding& b) {
    const auto order = [](const WeightFinding& f) {
      return std::tuple(f.query.sequence, f.query.head, f.query.token, f.fault, f.key);
    };
    return order(a) < order(b);
  });
}

}  // namespace

void find_weight_faults(const Attention& attention, const Selection& selection, const std::vector<char>& is_wrong,
                        Weights& weights) {
  const std::vector<Sequence> all = sequences(attention.problem);
  std::set<Place> malformed;  // rows that are compared with nothing
  for (const WeightFinding& finding : weights.findings)
    if (finding.fault == WeightFault::malformed_selection) malformed.insert(finding.query);
  for_each_query(attention.problem, [&](const Sequence& sequence, std::int64_t token, std::int64_t head) {
    if (malformed.contains({sequence.index, token - sequence.q_begin, head})) return;
    RowFaults row(attention, selection, all, is_wrong, weights, sequence, token, head);
    std::vector<WeightFinding> findings = row.find();
    const Eigen::Index r = token * attention.problem.heads + head;
    std::int64_t seen = 0, too_small = 0;
    for (Eigen::Index column = 0; column < attention.columns(); ++column) {
      if (!(weights.expected(r, column) > 0)) continue;
      ++seen;
      too_small += weights.expected(r, column) <= weights.bound(r, column);
    }
#pragma omp critical(attnspec_xray)
    {
      weights.findings.insert(weights.findings.end(), findings.begin(), findings.end());
      weights.followers += row.has_followers;
      weights.seen += seen;
      weights.too_small += too_small;
    }
  });
  sort(weights.findings);
}

namespace {

bool is_among(const Blocks& blocks, std::int32_t b) {
  return std::find(blocks.begin(), blocks.end(), b) != blocks.end();
}

/// A block, or -1 for all, that a row selected wrongly or left out wrongly, and why.
struct WrongBlock {
  WeightFault fault;
  std::int32_t block;
  std::string why;
};

/// Compares a well-formed row with the nearest that a correct kernel may select. own: the query's own block.
std::vector<WrongBlock> wrong_blocks(const SelectionRule& rule, std::span<const std::int32_t> row, std::int64_t own) {
  const std::string why = inadmissible(rule, row);
  if (why.empty()) return {};
  Blocks blocks;
  std::copy_if(row.begin(), row.end(), std::back_inserter(blocks), [](std::int32_t b) { return b >= 0; });
  const auto nearest = nearest_admissible(rule, blocks, [](const Blocks&, std::int32_t) { return 0; });
  if (!nearest) return {{WeightFault::unselected_block, -1, why}};
  std::vector<WrongBlock> wrong;
  for (const std::int32_t b : blocks)
    if (!is_among(*nearest, b))
      wrong.push_back({b < rule.num_blocks ? WeightFault::unselected_block : WeightFault::future_key, b, why});
  for (const std::int32_t b : *nearest)
    if (!is_among(blocks, b))
      wrong.push_back({b == own ? WeightFault::missing_own_block : WeightFault::missing_block, b, why});
  return wrong;
}

}  // namespace

std::vector<WeightFinding> find_selection_faults(const Attention& attention, const std::vector<SelectionRule>& rules,
                                                 Selection& selection) {
  std::vector<WeightFinding> findings;
  AttentionProblem problem = attention.problem;
  problem.heads = selection.heads;
  const std::int64_t group = attention.problem.heads / selection.heads;  // heads that share a row
  for_each_query(problem, [&](const Sequence& sequence, std::int64_t token, std::int64_t head) {
    const auto row = selection.row(token, head);
    std::vector<WrongBlock> wrong;
    if (const std::string why = malformed(row, num_blocks(sequence.num_keys(), attention.block)); !why.empty()) {
      wrong.push_back({WeightFault::malformed_selection, -1, why});
      std::fill(row.begin(), row.end(), -1);
    } else {
      wrong = wrong_blocks(rules[static_cast<std::size_t>(token * selection.heads + head)], row,
                           own_block(attention, sequence, token));
    }
#pragma omp critical(attnspec_xray)
    for (const auto& [fault, block, why] : wrong)
      for (std::int64_t h = head * group; h < (head + 1) * group; ++h)
        findings.push_back(
            {.fault = fault,
             .query = {sequence.index, token - sequence.q_begin, h},
             .key = {sequence.index, block < 0 ? -1 : block * attention.block, kv_head(attention.problem, h)},
             .detail = why});
  });
  sort(findings);
  return findings;
}

}  // namespace attnspec::verify
