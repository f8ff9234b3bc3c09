// Timing a kernel on a case, and judging what it wrote meanwhile.
#pragma once

#include <cstdint>
#include <optional>
#include <string>
#include <vector>

#include "fuzz/bench/work.hpp"
#include "verify/judge/judge.hpp"

namespace attnspec::fuzz {

enum class Direction { forward, backward };
const char* name(Direction direction);

/// A kernel on the GPU that a call launches: what it takes of a run, all launches of it together.
struct Stage {
  std::string kernel;
  double milliseconds = 0;    // median over the runs that were traced
  std::int64_t launches = 0;  // in each of them
};

/// The times of one call.
struct Measurement {
  Direction direction = Direction::forward;
  verify::Timing timing;  // of all calls of the judge
  Work work;
  std::optional<Roofline> roofline;  // on a GPU

  double milliseconds() const;  // median
  /// From the first to the third quarter of the runs, as a share of the median.
  double spread() const;
  double tflops() const { return work.operations / milliseconds() / 1e9; }
  /// How much of its time the least time is that it could take.
  double share_of_roofline() const { return roofline->milliseconds() / milliseconds(); }
  std::vector<Stage> stages() const;  // the longest first
};

struct BenchResult {
  verify::CaseResult judged;
  std::vector<Measurement> measurements;
  std::int64_t workspace_bytes = 0;  // what the kernel asks for, beside the tensors of a call
  double workspace_share = 0;        // of q, k, v and o together
};

/// What launching, and waiting for an idle device, may take by the host's clock.
inline constexpr double kHostMilliseconds = 0.1;

/// Why the times are not those of the work; empty: nothing is wrong with them. In some run the host's clock must agree
/// with the events, up to kHostMilliseconds, and the median may not be below the hard roofline. Of the host's clock
/// alone nothing is known.
std::string why_invalid(const Measurement& measured, reference::Format format,
                        const std::optional<cuda::DevicePeaks>& peaks);

/// Judges the kernel, which can be timed, on the case, with every call of these directions timed by the plan. Invalid
/// times are findings too. Throws what judge throws.
BenchResult bench(const verify::Kernel& kernel, const verify::Case& c, const verify::TimingPlan& plan,
                  const std::vector<Direction>& directions, const std::optional<cuda::DevicePeaks>& peaks);

}  // namespace attnspec::fuzz
