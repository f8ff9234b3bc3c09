// Dense attention as PyTorch has it, on the same GPU: what block-sparse attention is to be faster than.
#pragma once

#include <optional>
#include <string>
#include <vector>

#include "fuzz/bench/bench.hpp"

namespace attnspec::fuzz {

/// Times of one backend on one shape, or why there are none.
struct DenseTimes {
  std::string shape;
  std::string backend;  // "cuDNN", "FlashAttention"
  Direction direction = Direction::forward;
  std::vector<double> runs;  // milliseconds
  std::string reason;        // where there are no runs
};

/// What dense attention has of a case: "sequences,heads,kv_heads,dk,dv,queries,keys,dtype,masked". None where sequences
/// differ, have neither as many queries as keys nor one, or where the case does not attend.
std::optional<std::string> dense_shape(const verify::Case& c);

/// Times all backends on the dense shapes of the cases, with dense_baselines.py. Throws std::runtime_error, one line:
/// no Python (ATTNSPEC_PYTHON, else the first python3 on the PATH), no PyTorch, no GPU.
std::vector<DenseTimes> dense_baselines(const std::vector<verify::Case>& cases, const verify::TimingPlan& plan);

}  // namespace attnspec::fuzz
