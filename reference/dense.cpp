#include "reference/dense.hpp"

#include <algorithm>

namespace attnspec::reference {

WholeSequence whole_sequence(const AttentionProblem& problem) {
  Selection selection(problem.q_offsets.back(), problem.kv_heads, 1);
  for (const Sequence& sequence : sequences(problem))
    if (sequence.num_keys() > 0)
      std::fill(selection.blocks.begin() + sequence.q_begin * problem.kv_heads,
                selection.blocks.begin() + sequence.q_end * problem.kv_heads, 0);
  return {max_blocks(problem, 1), std::move(selection)};
}

AttentionOutputs dense(const AttentionProblem& problem, const Qkv& in) {
  const auto [block, selection] = whole_sequence(problem);
  return selected(problem, block, in, selection);
}

AttentionGradients dense_backward(const AttentionProblem& problem, const Qkv& in, const Tensor& d_o,
                                  const AttentionOutputs& outputs) {
  const auto [block, selection] = whole_sequence(problem);
  return selected_backward(problem, block, in, selection, d_o, outputs);
}

}  // namespace attnspec::reference
