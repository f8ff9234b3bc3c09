#include "reference/nsa/nsa_window.hpp"

#include <algorithm>
#include <vector>

namespace attnspec::reference {

KeyRange window_keys(std::int64_t t, std::int64_t window) {
  if (t < 0) return {0, 0};
  return {std::max<std::int64_t>(0, t - window + 1), t + 1};
}

AttendedRow attend_window(const NsaProblem& problem, const QkvRows& in, std::int64_t t) {
  const KeyRange visible = window_keys(t, problem.window);
  return attend(in, {&visible, 1}, problem.attention.scale);
}

AttentionOutputs window(const NsaProblem& problem, const Qkv& in) {
  return attend_rows(problem.attention, [&](const Sequence& sequence, std::int64_t token, std::int64_t h) {
    return attend_window(problem, rows_of(problem.attention, in, sequence, token, h), sequence.position(token));
  });
}

AttentionGradients window_backward(const NsaProblem& problem, const Qkv& in, const Tensor& d_o,
                                   const AttentionOutputs& outputs) {
  const auto keys_of_row = [&](const Sequence& sequence, std::int64_t token, std::int64_t) {
    return std::vector{window_keys(sequence.position(token), problem.window)};
  };
  return attend_rows_backward(problem.attention, in, keys_of_row, d_o, outputs);
}

}  // namespace attnspec::reference
