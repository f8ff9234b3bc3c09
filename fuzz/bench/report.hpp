// What was timed, for people and for programs.
#pragma once

#include <cstdint>
#include <optional>
#include <string>
#include <vector>

#include "fuzz/bench/baselines.hpp"
#include "fuzz/bench/bench.hpp"

namespace attnspec::fuzz {

/// All that a bench is made of.
struct BenchReport {
  std::optional<cuda::DevicePeaks> peaks;
  verify::TimingPlan plan;
  std::vector<DenseTimes> dense;
  std::vector<BenchResult> results;
};

/// The lines above everything: the device, its peaks, how times were taken.
std::string bench_header(const BenchReport& report);

/// The table of one case: dense attention, and each kernel with its directions and their stages.
std::string bench_table(const BenchReport& report, const verify::Case& c);

/// Everything, every run included, as JSON.
std::string bench_json(const BenchReport& report);

}  // namespace attnspec::fuzz
