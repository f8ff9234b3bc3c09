// How a call is timed, and what came of it.
#pragma once

#include <cstdint>
#include <vector>

#include "cuda/timing.hpp"

namespace attnspec::verify {

struct TimingPlan {
  std::int64_t warm_ups = 3;      // runs before the timed ones, at least 1
  std::int64_t repetitions = 11;  // timed runs
  double seconds = 1;             // of timed runs: fewer of them, but kFewestRuns, where they would take longer
  std::uint64_t seed = 0;         // draws the one of them whose outputs are judged
};

/// Timed runs of a call, however long they take, unless fewer are asked for.
inline constexpr std::int64_t kFewestRuns = 3;

struct Timing {
  bool on_device = false;                              // by events on a GPU, else by the host's clock alone
  std::vector<cuda::RunTime> runs;                     // on the host both times are the same
  std::vector<std::vector<cuda::KernelTime>> kernels;  // on a GPU, of each of some further runs
};

}  // namespace attnspec::verify
