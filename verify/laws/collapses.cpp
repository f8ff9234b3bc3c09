#include "verify/laws/collapses.hpp"

#include <algorithm>
#include <utility>

#include "reference/attention.hpp"
#include "verify/run/calls/names.hpp"

namespace attnspec::verify {

namespace {

/// The case as one of full attention.
Case as_dense(Case c) {
  const Case usual;
  c.op = Operator::dense;
  c.block = usual.block, c.top_k = usual.top_k, c.window = usual.window, c.gate = usual.gate;
  return c;
}

/// The rows of one branch, as those of an operator that has no others; nothing of its gradients.
std::vector<RowRef> row_of_branch(const std::string& branch, const std::string& output, const RowPlace& row) {
  if (output != branch + ".o" && output != branch + ".lse") return {};
  return same_row(output.substr(branch.size() + 1), row);
}

/// Without what only NSA has.
Inputs inputs_of_attention(const Inputs& inputs, const reference::Tensor& k, const reference::Tensor& v) {
  Inputs result;
  result.q = inputs.q, result.k = k, result.v = v, result.d_o = inputs.d_o;
  return result;
}

/// Everything but the selection, whose blocks have other numbers.
std::vector<RowRef> same_values(const std::string& output, const RowPlace& row) {
  if (output == "selection") return {};
  return same_row(output, row);
}

}  // namespace

std::vector<NearFollowUp> all_blocks_follow_ups(const JudgedCall& source) {
  const Case& c = source.c;
  if (c.top_k < reference::num_blocks(longest(c), c.block)) return {};
  Case to = c;
  to.block = std::max<std::int64_t>(1, longest(c));
  return {{implements(source.kernel, Operator::dense) ? as_dense(c) : to, source.inputs, same_values}};
}

std::vector<NearFollowUp> own_block_follow_ups(const JudgedCall& source) {
  const Case& c = source.c;
  if (c.top_k != 1 || c.gate == reference::Gate::sink) return {};
  Case to = c;
  to.lens.clear(), to.q_lens.clear();
  std::vector<std::vector<std::int64_t>> places(c.lens.size());  // of the blocks of each sequence; -1: has no queries
  for (std::size_t s = 0; s < c.lens.size(); ++s) {
    const std::int64_t first = c.lens[s] - c.q_lens[s];  // position of the first query
    for (std::int64_t begin = 0; begin < c.lens[s]; begin += c.block) {
      const std::int64_t end = std::min(begin + c.block, c.lens[s]), queries = end - std::max(begin, first);
      places[s].push_back(queries > 0 ? std::ssize(to.lens) : -1);
      if (queries <= 0) continue;
      to.lens.push_back(end - begin);
      to.q_lens.push_back(queries);
    }
  }
  if (to.lens.empty()) return {};
  if (implements(source.kernel, Operator::dense)) to = as_dense(to);
  const Move move = [c, to, places](const RowPlace& row) -> std::optional<RowPlace> {
    const auto s = static_cast<std::size_t>(row.sequence);
    const std::int64_t t = row.of == RowsOf::queries ? row.token + c.lens[s] - c.q_lens[s] : row.token;
    if (t < 0) return {};
    const auto b = static_cast<std::size_t>(t / c.block);
    if (places[s][b] < 0) return {};
    RowPlace place = row;
    place.sequence = places[s][b];
    place.token = t % c.block;
    if (row.of == RowsOf::queries) {
      const auto there = static_cast<std::size_t>(place.sequence);
      place.token -= to.lens[there] - to.q_lens[there];
    }
    return place;
  };
  return {{to, moved(c, source.inputs, to, move), [move](const std::string& output, const RowPlace& row) {
             const auto place = move(row);
             return place ? same_values(output, *place) : std::vector<RowRef>{};
           }}};
}

std::vector<NearFollowUp> whole_window_follow_ups(const JudgedCall& source) {
  const Case& c = source.c;
  if (c.window < longest(c)) return {};
  if (!implements(source.kernel, Operator::dense)) {
    NearFollowUp wider{c, source.inputs, same_row};
    wider.c.window = 2 * c.window + 1;
    return {wider};
  }
  if (!has_branches(c.op)) return {{as_dense(c), source.inputs, same_row}};
  return {{as_dense(c), inputs_of_attention(source.inputs, source.inputs.k_window, source.inputs.v_window),
           [](const std::string& output, const RowPlace& row) { return row_of_branch("window", output, row); }}};
}

std::vector<NearFollowUp> as_moba_follow_ups(const JudgedCall& source) {
  const Case& c = source.c;
  const bool has_moba_blocks = c.compress_block == c.block && c.compress_stride == c.block && c.initial == 0 &&
                               c.local == 1 && c.phi == reference::Phi::mean;
  if (!has_moba_blocks || !c.shared_kv || c.heads != c.kv_heads || !(c.scale > 0) || !source.kernel.exports_selection ||
      !implements(source.kernel, Operator::moba))
    return {};
  Case to = as_dense(c);
  to.op = Operator::moba;
  to.block = c.block;
  to.top_k = c.top_n;
  return {{to, inputs_of_attention(source.inputs, source.inputs.k_selected, source.inputs.v_selected),
           [](const std::string& output, const RowPlace& row) {
             return output == "selection" ? same_row(output, row) : row_of_branch("selected", output, row);
           }}};
}

void prepare_one_hot(const Case&, Inputs& inputs) {
  for (std::int64_t token = 0; token < inputs.gates.tokens; ++token)
    for (std::int64_t head = 0; head < inputs.gates.heads; ++head)
      for (std::int64_t branch = 0; branch < inputs.gates.dim; ++branch)
        inputs.gates.row(token, head)[branch] = (token + head) % inputs.gates.dim == branch ? 1 : 0;
}

void check_one_hot(const JudgedCall& call, RoundedComparison& comparison) {
  const std::vector<std::int64_t> offsets = row_offsets(call.c, RowsOf::queries, 0);
  for (const auto& [place, row] : call.rows("o")) {
    const std::int64_t token = offsets[static_cast<std::size_t>(place.sequence)] + place.token;
    const auto branch = static_cast<std::size_t>((token + place.head) % call.inputs.gates.dim);
    const auto& of_branch = call.rows(std::string(kBranchNames[branch]) + ".o");
    if (const auto found = of_branch.find(place); found != of_branch.end())
      comparison.compare("o", place, row.observed, found->second.observed, row.bound());
  }
}

}  // namespace attnspec::verify
