#include "reference/nsa/nsa_window.hpp"

#include <algorithm>

#include "reference/dense.hpp"

namespace attnspec::reference {

KeyRange window_keys(std::int64_t t, std::int64_t window) {
  if (t < 0) return {0, 0};
  return {std::max<std::int64_t>(0, t - window + 1), t + 1};
}

Reach window_reach(const NsaProblem& problem) {
  return [w = problem.window](const Sequence& sequence, std::int64_t token) {
    return window_keys(sequence.position(token), w);
  };
}

AttendedRow attend_window(const NsaProblem& problem, const Row& q, const Rows& k, const Rows& v, std::int64_t t) {
  const KeyRange visible = window_keys(t, problem.window);
  return attend(q, k, v, {&visible, 1}, problem.attention.scale);
}

AttentionOutputs window(const NsaProblem& problem, const Tensor& q, const Tensor& k, const Tensor& v) {
  const auto [block, selection] = whole_sequence(problem.attention);
  return attend_rows(problem.attention, block, q, k, v, selection, window_reach(problem));
}

AttentionGradients window_backward(const NsaProblem& problem, const Tensor& q, const Tensor& k, const Tensor& v,
                                   const Tensor& d_o, const AttentionOutputs& outputs) {
  const auto [block, selection] = whole_sequence(problem.attention);
  return attend_rows_backward(problem.attention, block, q, k, v, selection, window_reach(problem), d_o, outputs);
}

}  // namespace attnspec::reference
