#include "verify/xray/attentions.hpp"

#include <string>
#include <utility>

#include "reference/dense.hpp"
#include "reference/selected.hpp"

namespace attnspec::verify {

using namespace reference;

std::vector<Attention> attentions_of(const Case& c) {
  const MobaProblem problem = problem_of(c);
  const NsaProblem nsa = nsa_problem_of(c);
  std::vector<Attention> all;
  const auto add = [&](Attention attention, const std::string& prefix) {
    attention.k = &tensor_of(c.op, prefix + "k");
    attention.v = &tensor_of(c.op, prefix + "v");
    if (!attention.has_blocks) attention.block = whole_sequence(attention.problem).block;
    all.push_back(std::move(attention));
  };
  if (has_branches(c.op)) {
    for (const Branch branch : kBranches) {
      Attention attention{.branch = branch, .names = names_of(branch), .problem = nsa.attention};
      switch (branch) {
        case Branch::compressed:
          attention.problem = compressed_problem(nsa);
          attention.reach = compressed_reach(nsa);
          break;
        case Branch::selected:
          attention.block = nsa.block;
          attention.has_blocks = true;
          attention.reach = causal_reach(nsa.attention);
          break;
        case Branch::window: attention.reach = window_reach(nsa); break;
      }
      add(std::move(attention), std::string(of(kBranchNames, branch)) + ".");
    }
    return all;
  }
  add({.problem = key_rows(c.op) == RowsOf::compressed_rows ? compressed_problem(nsa) : problem.attention,
       .block = c.block,
       .reach = page_of(c.op).reach(problem, nsa),
       .has_blocks = selects(c.op) || reads_selection(c.op)},
      "");
  return all;
}

std::vector<KeyRange> visible_keys(const Attention& attention, const Selection& selection, const Sequence& sequence,
                                   std::int64_t token, std::int64_t head) {
  return reference::visible_keys(selected_blocks(attention.problem, selection, token, head),
                                 attention.reach(sequence, token), sequence.num_keys(), attention.block);
}

}  // namespace attnspec::verify
