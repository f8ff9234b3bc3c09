#include "fuzz/bench/bench.hpp"

#include <fmt/format.h>

#include <algorithm>
#include <cmath>
#include <functional>
#include <iterator>
#include <map>
#include <numeric>
#include <type_traits>
#include <utility>

#include "fuzz/bench/median.hpp"

namespace attnspec::fuzz {

namespace {

using namespace verify;

std::vector<double> sorted_times(const Timing& timing) {
  std::vector<double> times;
  for (const cuda::RunTime& run : timing.runs) times.push_back(run.stream);
  std::sort(times.begin(), times.end());
  return times;
}

Direction direction_of(const AnyCall& call) { return call.is_backward ? Direction::backward : Direction::forward; }

/// Times calls, all of one direction under one measurement.
class Stopwatch {
 public:
  Stopwatch(const Kernel& kernel, const TimingPlan& plan, std::vector<Measurement>& measurements)
      : kernel_(kernel), plan_(plan), measurements_(measurements) {}

  void run(const AnyCall& call) {
    const Direction direction = direction_of(call);
    Timing timing = kernel_.time(call, plan_);
    ++plan_.seed;  // so that the next call keeps another of its runs
    auto measured = std::find_if(measurements_.begin(), measurements_.end(),
                                 [&](const Measurement& m) { return m.direction == direction; });
    if (measured == measurements_.end()) {
      measurements_.push_back({direction, {}, {}, {}});
      measured = std::prev(measurements_.end());
    }
    measured->work = work_of(call);
    measured->timing.on_device = timing.on_device;
    std::move(timing.runs.begin(), timing.runs.end(), std::back_inserter(measured->timing.runs));
    std::move(timing.kernels.begin(), timing.kernels.end(), std::back_inserter(measured->timing.kernels));
  }

 private:
  const Kernel& kernel_;
  TimingPlan plan_;
  std::vector<Measurement>& measurements_;
};

/// Of q, k, v and o.
double tensor_bytes(const Case& c) {
  const auto sum = [](const std::vector<std::int64_t>& rows) {
    return std::accumulate(rows.begin(), rows.end(), std::int64_t{0});
  };
  const std::int64_t features =
      sum(row_counts(c, RowsOf::queries)) * c.heads * (c.dk + c.dv) + sum(key_rows(c)) * c.kv_heads * (c.dk + c.dv);
  return static_cast<double>(features * bytes_of(c.dtype));
}

}  // namespace

const char* name(Direction direction) { return direction == Direction::forward ? "forward" : "backward"; }

double Measurement::milliseconds() const { return median(sorted_times(timing)); }

double Measurement::spread() const {
  const std::vector<double> times = sorted_times(timing);
  return (times[times.size() * 3 / 4] - times[times.size() / 4]) / median(times);
}

std::vector<Stage> Measurement::stages() const {
  std::map<std::string, std::vector<double>> times;  // of each run that launches it
  std::map<std::string, std::int64_t> launches;
  for (const std::vector<cuda::KernelTime>& run : timing.kernels) {
    std::map<std::string, double> sums;
    for (const cuda::KernelTime& kernel : run) {
      sums[kernel.name] += kernel.milliseconds;
      ++launches[kernel.name];
    }
    for (const auto& [kernel, sum] : sums) times[kernel].push_back(sum);
  }
  std::vector<Stage> stages;
  for (const auto& [kernel, sums] : times)
    stages.push_back({kernel, median(sums), launches[kernel] / std::ssize(sums)});
  std::sort(stages.begin(), stages.end(),
            [](const Stage& a, const Stage& b) { return a.milliseconds > b.milliseconds; });
  return stages;
}

std::string why_invalid(const Measurement& measured, reference::Format format,
                        const std::optional<cuda::DevicePeaks>& peaks) {
  if (!measured.timing.on_device) return "";
  double least = HUGE_VAL;
  for (const cuda::RunTime& run : measured.timing.runs) least = std::min(least, run.host - run.stream);
  if (least > kHostMilliseconds)
    return fmt::format("the device was busy for {:.3g} ms beyond the {:.3g} ms of the stream: work is left elsewhere",
                       least, measured.milliseconds());
  if (!peaks) return "";
  const Roofline roofline = uncached_roofline_of(measured.work, format, *peaks);
  if (measured.milliseconds() < roofline.milliseconds())
    return fmt::format("{:.3g} ms are less than the {:.3g} ms that the work takes at least", measured.milliseconds(),
                       roofline.milliseconds());
  return "";
}

BenchResult bench(const Kernel& kernel, const Case& c, const TimingPlan& plan, const std::vector<Direction>& directions,
                  const std::optional<cuda::DevicePeaks>& peaks) {
  BenchResult result;
  Kernel timed = kernel;
  Stopwatch stopwatch(kernel, plan, result.measurements);
  const auto is_wanted = [&](Direction direction) {
    return std::find(directions.begin(), directions.end(), direction) != directions.end();
  };
  timed.call = [&](const AnyCall& call) { is_wanted(direction_of(call)) ? stopwatch.run(call) : kernel.call(call); };
  if (!is_wanted(Direction::backward)) timed.forward_only = timed.operators;
  result.judged = judge(timed, c);
  for (Measurement& measured : result.measurements) {
    if (peaks && measured.timing.on_device) measured.roofline = roofline_of(measured.work, c.dtype, *peaks);
    if (const std::string why = why_invalid(measured, c.dtype, peaks); !why.empty())
      result.judged.add({.verdict = Verdict::invalid_timing, .output = name(measured.direction), .detail = why});
  }
  if (!result.measurements.empty() && kernel.workspace_bytes) {
    result.workspace_bytes = kernel.workspace_bytes(c);
    result.workspace_share = static_cast<double>(result.workspace_bytes) / tensor_bytes(c);
  }
  return result;
}

}  // namespace attnspec::fuzz
