#include "verify/laws/rounding.hpp"

#include <fmt/format.h>
#include <fmt/ranges.h>

#include <algorithm>
#include <cmath>
#include <set>
#include <utility>

#include "verify/operators/operator.hpp"

namespace attnspec::verify {

namespace {

/// Query rows of which nothing else is compared, because they selected other blocks. Heads are those of the selection.
using OtherBlocks = std::set<Place>;

/// Whether an output's row is made of a selection that differs, or may be.
bool is_of_other_blocks(const Case& c, const TensorInfo& output, const Place& place, const OtherBlocks& others) {
  const bool is_of_other_branch = output.branch && output.branch != reference::Branch::selected;
  if (others.empty() || (output.role == Role::output && is_of_other_branch)) return false;
  if (output.rows != RowsOf::queries) return output.rows != RowsOf::compressed_rows || is_gradient(output);
  const std::int64_t head = shares_selection(c.op) ? place.head / (c.heads / c.kv_heads) : place.head;
  return others.contains({place.sequence, place.token, head});
}

RowPlace row_place(const Case& c, RowsOf rows, const Place& place) {
  return {rows, rows == RowsOf::queries ? c.heads : c.kv_heads, place.sequence, place.token, place.head};
}

/// Compares selections; the rows that differ.
OtherBlocks compare_selections(const JudgedCall& source, const NearFollowUp& follow_up, const JudgedCall& other,
                               RoundedComparison& comparison) {
  OtherBlocks differ;
  const std::int64_t heads = shares_selection(source.c.op) ? source.c.kv_heads : source.c.heads;
  for (const auto& [place, blocks] : source.selection) {
    const auto refs = follow_up.same_as("selection", {RowsOf::queries, heads, place.sequence, place.token, place.head});
    if (refs.empty()) continue;
    const auto found = other.selection.find(refs.front().place);
    if (found == other.selection.end()) continue;
    std::string wrong;
    if (found->second.blocks != blocks.blocks) {
      differ.insert(place);
      if (!blocks.is_right || !found->second.is_right)
        wrong = fmt::format("blocks {} where the source call has {}, which is no near tie",
                            fmt::join(found->second.blocks, " "), fmt::join(blocks.blocks, " "));
    }
    comparison.compare("selection", place, wrong);
  }
  return differ;
}

}  // namespace

void RoundedComparison::add(const std::string& output, const Place& place, std::int64_t d, const std::string& wrong) {
  auto& all = result_.outputs;
  auto summary = std::find_if(all.begin(), all.end(), [&](const auto& o) { return o.output == output; });
  if (summary == all.end()) summary = all.insert(all.end(), OutputSummary{.output = output});
  ++summary->rows;
  if (wrong.empty()) return;
  ++summary->findings;
  result_.verdict = std::max(result_.verdict, Verdict::law_broken);
  if (result_.findings.size() < kMaxFindings)
    result_.findings.push_back({.verdict = Verdict::law_broken,
                                .output = output,
                                .sequence = place.sequence,
                                .token = place.token,
                                .head = place.head,
                                .d = d,
                                .detail = fmt::format("law {}: {}", law_, wrong)});
}

void RoundedComparison::compare(const std::string& output, const Place& place, const std::string& wrong) {
  add(output, place, -1, wrong);
}

void RoundedComparison::compare(const std::string& output, const Place& place, const Vector& observed,
                                const Vector& wanted, const Vector& bound) {
  for (Eigen::Index d = 0; d < observed.size(); ++d) {
    const double a = observed[d], b = wanted[d];
    if (a == b || (std::isnan(a) && std::isnan(b)) || std::abs(a - b) <= bound[d]) continue;
    const std::string within =
        bound[d] == 0 ? "exactly" : fmt::format("within the predicted rounding of {:.3g}", bound[d]);
    return add(output, place, d, fmt::format("{:.6g} where the law has {:.6g}, {}", a, b, within));
  }
  add(output, place, -1, "");
}

void compare(const JudgedCall& source, const NearFollowUp& follow_up, const JudgedCall& other,
             RoundedComparison& comparison) {
  const OtherBlocks differ = compare_selections(source, follow_up, other, comparison);
  for (const TensorInfo& tensor : page_of(source.c.op).tensors) {
    for (const auto& [place, row] : source.rows(tensor.name)) {
      const auto refs = follow_up.same_as(tensor.name, row_place(source.c, tensor.rows, place));
      if (refs.empty() || is_of_other_blocks(source.c, tensor, place, differ)) continue;
      NoisyRow sum, both = row;
      const bool are_there = std::all_of(refs.begin(), refs.end(), [&](const RowRef& ref) {
        const auto& rows = other.rows(ref.output);
        const auto found = rows.find(ref.place);
        if (found == rows.end()) return false;
        sum += found->second;
        return true;
      });
      if (!are_there) continue;
      both += sum;
      Vector bound = both.bound();
      // What a stage computed from rows that the kernel had stored: they may differ by their own rounding.
      if (tensor.follows_from_stored) bound += (row.expected - sum.expected).cwiseAbs();
      comparison.compare(tensor.name, place, sum.observed, row.observed, bound);
    }
  }
}

}  // namespace attnspec::verify
