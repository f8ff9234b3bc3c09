#include "verify/operators/reach.hpp"

#include "reference/nsa/nsa_compression.hpp"
#include "reference/nsa/nsa_window.hpp"

namespace attnspec::verify {

using namespace reference;

Reach causal_reach(const AttentionProblem& problem) {
  return [causal = problem.causal](const Sequence& sequence, std::int64_t token) {
    return reference::causal_reach(sequence.position(token), sequence.num_keys(), causal);
  };
}

Reach window_reach(const NsaProblem& problem) {
  return [w = problem.window](const Sequence& sequence, std::int64_t token) {
    return window_keys(sequence.position(token), w);
  };
}

Reach compressed_reach(const NsaProblem& problem) {
  return [problem, in_tokens = sequences(problem.attention)](const Sequence& sequence, std::int64_t token) {
    const std::int64_t t = in_tokens[static_cast<std::size_t>(sequence.index)].position(token);
    return KeyRange{0, num_visible_compressed(problem, t)};
  };
}

}  // namespace attnspec::verify
