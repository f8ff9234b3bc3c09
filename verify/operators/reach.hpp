// The keys that a query row may see in any block, which is what the attentions that are judged differ in.
#pragma once

#include <cstdint>
#include <functional>

#include "reference/attention.hpp"

namespace attnspec::verify {

/// The keys that a query row may see in any block, as positions in its sequence.
using Reach = std::function<reference::KeyRange(const reference::Sequence&, std::int64_t token)>;

/// Every key up to the query's own where the problem is causal, else every key.
Reach causal_reach(const reference::AttentionProblem& problem);

/// W1 of every query row.
Reach window_reach(const reference::NsaProblem& problem);

/// The rows 0 .. m(t) - 1, t being the position of the query among the tokens, for sequences of compressed_problem.
Reach compressed_reach(const reference::NsaProblem& problem);

}  // namespace attnspec::verify
