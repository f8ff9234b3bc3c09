#include "verify/laws/gradients.hpp"

#include <fmt/format.h>

#include <algorithm>
#include <cmath>

#include "verify/cases/random.hpp"
#include "verify/operators/operator.hpp"

namespace attnspec::verify {

namespace {

/// Products of the softmax scale and the length of a row of q below which weights are nearly equal, so that they round
/// alike.
constexpr double kMinSpread = 0.25;

/// Compares the sum of an output's rows over the keys with `wanted`, with errors that the keys share beside their own.
void compare_sum(const JudgedCall& call, const std::string& output, const KeySums& sums, const Vector& wanted,
                 const Vector& shared, RoundedComparison& comparison) {
  const auto found = call.outputs.find(output);
  if (found == call.outputs.end()) return;
  NoisyRow sum;
  std::int64_t rows = 0;
  for (const auto& [place, row] : found->second.values) {
    if (place.sequence != sums.sequence || place.head != sums.head) continue;
    ++rows;
    sum += row;
  }
  const auto offsets = row_offsets(call.c, found->second.rows, 0);
  const auto s = static_cast<std::size_t>(sums.sequence);
  if (rows == 0 || rows != offsets[s + 1] - offsets[s]) return;  // some are undecided
  sum.variance += shared;
  // The stored o and lse are rounded: what that makes of the sum does not count as an error.
  comparison.compare(output, {sums.sequence, 0, sums.head}, sum.observed, wanted,
                     sum.bound() + (sum.expected - wanted).cwiseAbs());
}

}  // namespace

void prepare_sums(const Case& c, Inputs& inputs) { inputs = normal_inputs(c); }

void check_dk_sum(const JudgedCall& call, RoundedComparison& comparison) {
  for (const KeySums& sums : call.key_sums)
    compare_sum(call, sums.dk, sums, Vector::Zero(sums.dk_variance.size()), sums.dk_variance, comparison);
}

void check_dv_sum(const JudgedCall& call, RoundedComparison& comparison) {
  if (std::abs(call.c.scale) * std::sqrt(static_cast<double>(call.c.dk)) < kMinSpread) return;
  for (const KeySums& sums : call.key_sums) compare_sum(call, sums.dv, sums, sums.d_o, sums.dv_variance, comparison);
}

namespace {

/// The row of the given gradient that is not zero: token, or compressed row, and head of each sequence; -1: none.
std::vector<Place> chosen_rows(const Case& c) {
  const std::vector<std::int64_t> counts = gradient_rows(c);
  const std::int64_t heads = has_queries(c.op) ? c.heads : c.kv_heads;
  const Random random(c.seed, "one row");
  std::vector<Place> rows;
  for (std::size_t s = 0; s < counts.size(); ++s)
    rows.push_back({static_cast<std::int64_t>(s), counts[s] > 0 ? random.below(counts[s], 2 * s) : -1,
                    random.below(heads, 2 * s + 1)});
  return rows;
}

/// Whether a query row may attend to a token's block, as far as the call says.
bool may_select(const JudgedCall& call, const Place& query, std::int64_t token) {
  const Case& c = call.c;
  const auto block = static_cast<std::int32_t>(token / c.block);
  if (reads_selection(c.op)) {
    const reference::Selection& given = call.inputs.selection;
    const auto row =
        given.row(row_offsets(c, RowsOf::queries, 0)[static_cast<std::size_t>(query.sequence)] + query.token,
                  query.head * given.heads / c.heads);
    return std::ranges::find(row, block) != row.end();
  }
  const auto found = call.selection.find(
      {query.sequence, query.token, has_importance(c.op) ? query.head * c.kv_heads / c.heads : query.head});
  return found == call.selection.end() || std::ranges::find(found->second.blocks, block) != found->second.blocks.end();
}

/// Whether the chosen row `query` enters a gradient's row of a token or compressed row.
bool enters(const JudgedCall& call, const std::string& output, const Place& query, const RowPlace& row) {
  const Case& c = call.c;
  if (query.token < 0) return false;
  if (!has_queries(c.op)) {
    const std::int64_t begin = query.token * c.compress_stride;
    return row.head == query.head && row.token >= begin && row.token < begin + c.compress_block;
  }
  if (row.of == RowsOf::queries) return row.token == query.token && row.head == query.head;
  if (row.head != query.head * c.kv_heads / c.heads) return false;
  const auto s = static_cast<std::size_t>(query.sequence);
  const std::int64_t t = query.token + c.lens[s] - c.q_lens[s];
  if (t < 0 && c.causal) return false;
  if (row.of == RowsOf::compressed_rows) return row.token * c.compress_stride + c.compress_block - 1 <= t;
  if (c.causal && row.token > t) return false;
  const auto branch = tensor_of(c.op, output).branch;
  const bool is_window = branch ? branch == reference::Branch::window : has_window(c.op),
             is_selected = branch ? branch == reference::Branch::selected : has_slots(c.op);
  return !(is_window && row.token <= t - c.window) && !(is_selected && !may_select(call, query, row.token));
}

}  // namespace

void prepare_one_row(const Case& c, Inputs& inputs) {
  const RowsOf of = gradient_rows(c.op);
  const std::vector<Place> chosen = chosen_rows(c);
  for_each_row(c, of, inputs.d_o.tokens, inputs.d_o.heads, [&](const RowPlace& row, std::int64_t token) {
    const Place& kept = chosen[static_cast<std::size_t>(row.sequence)];
    if (row.token != kept.token || row.head != kept.head) inputs.d_o.row(token, row.head).setZero();
  });
}

void check_one_row(const JudgedCall& call, RoundedComparison& comparison) {
  const std::vector<Place> chosen = chosen_rows(call.c);
  for (const auto& [output, of_output] : call.outputs) {
    if (!is_gradient(tensor_of(call.c.op, output)) || of_output.rows == RowsOf::parameters) continue;
    for (const auto& [place, row] : of_output.values) {
      const RowPlace there{of_output.rows, 0, place.sequence, place.token, place.head};
      if (enters(call, output, chosen[static_cast<std::size_t>(place.sequence)], there)) continue;
      comparison.compare(output, place, row.observed, Vector::Zero(row.observed.size()),
                         Vector::Zero(row.observed.size()));
    }
  }
}

}  // namespace attnspec::verify
