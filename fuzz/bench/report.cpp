#include "fuzz/bench/report.hpp"

#include <fmt/format.h>

#include <algorithm>
#include <nlohmann/json.hpp>
#include <set>

#include "fuzz/bench/median.hpp"
#include "verify/judge/report.hpp"
#include "verify/judge/result_json.hpp"

namespace attnspec::fuzz {

namespace {

using namespace verify;
using nlohmann::ordered_json;

constexpr const char* kBackends[] = {"cuDNN", "FlashAttention"};

/// The median time of a backend on the dense attention of a case; 0 where it was not timed.
double dense_milliseconds(const BenchReport& report, const Case& c, const std::string& backend, Direction direction) {
  const auto found = std::find_if(report.dense.begin(), report.dense.end(), [&](const DenseTimes& t) {
    return t.shape == dense_shape(c) && t.backend == backend && t.direction == direction && !t.runs.empty();
  });
  return found == report.dense.end() ? 0 : median(found->runs);
}

std::string in_milliseconds(double ms) { return fmt::format("{:.{}f}", ms, ms < 1 ? 4 : ms < 100 ? 3 : 1); }

std::string in_bytes(double bytes) {
  constexpr const char* kUnits[] = {"B", "kB", "MB", "GB"};
  std::size_t unit = 0;
  for (; bytes >= 1000 && unit + 1 < std::size(kUnits); ++unit) bytes /= 1000;
  return fmt::format("{:.3g} {}", bytes, kUnits[unit]);
}

std::string percent(double share) { return fmt::format("{:.{}f} %", 100 * share, share < 0.0995 ? 1 : 0); }

using Row = std::vector<std::string>;
const Row kColumns{"kernel", "",          "ms", "spread", "TFLOP/s", "of roofline",
                   "",       "workspace", "",   "cuDNN",  "Flash",   "verdict"};
const std::set<std::size_t> kTextColumns{0, 1, 6, 11};

/// A row that has the first entries alone.
Row short_row(Row entries) {
  entries.resize(kColumns.size());
  return entries;
}

/// The rows of one measurement: its own, and those of its stages.
void add_rows(const BenchReport& report, const BenchResult& result, const Measurement& m, std::vector<Row>& rows) {
  const auto faster = [&](const char* backend) {
    const double dense = dense_milliseconds(report, result.judged.c, backend, m.direction);
    return dense > 0 ? fmt::format("{:.2f}x", dense / m.milliseconds()) : "-";
  };
  rows.push_back({result.judged.kernel, name(m.direction), in_milliseconds(m.milliseconds()), percent(m.spread()),
                  m.work.operations > 0 ? fmt::format("{:.4g}", m.tflops()) : "-",
                  m.roofline ? percent(m.share_of_roofline()) : "-",
                  !m.roofline                                 ? ""
                  : m.roofline->products > m.roofline->memory ? "tensor"
                                                              : "memory",
                  in_bytes(static_cast<double>(result.workspace_bytes)), fmt::format("{:.2f}x", result.workspace_share),
                  faster(kBackends[0]), faster(kBackends[1]), name(result.judged.verdict)});
  const std::vector<Stage> stages = m.stages();
  double sum = 0;
  for (const Stage& stage : stages) sum += stage.milliseconds;
  for (const Stage& stage : stages)
    rows.push_back(short_row({"  " + stage.kernel + (stage.launches > 1 ? fmt::format(" ({})", stage.launches) : ""),
                              "", in_milliseconds(stage.milliseconds), percent(stage.milliseconds / sum)}));
}

ordered_json json_of(const Measurement& m) {
  ordered_json runs = ordered_json::array(), stages = ordered_json::array();
  for (const cuda::RunTime& run : m.timing.runs) runs.push_back({{"stream_ms", run.stream}, {"host_ms", run.host}});
  for (const Stage& stage : m.stages())
    stages.push_back({{"kernel", stage.kernel}, {"ms", stage.milliseconds}, {"launches", stage.launches}});
  ordered_json json{{"direction", name(m.direction)}, {"timed_by", m.timing.on_device ? "events" : "host clock"},
                    {"ms", m.milliseconds()},         {"spread", m.spread()},
                    {"entries", m.work.entries},      {"operations", m.work.operations},
                    {"bytes", m.work.bytes},          {"tflops", m.tflops()}};
  if (m.roofline) {
    json["roofline"] = {{"tensor_ms", m.roofline->products}, {"memory_ms", m.roofline->memory}};
    json["share_of_roofline"] = m.share_of_roofline();
  }
  json["stages"] = stages;
  json["runs"] = runs;
  return json;
}

ordered_json json_of(const BenchResult& result) {
  ordered_json json = json_of(result.judged, bench_command);
  json["workspace_bytes"] = result.workspace_bytes;
  json["workspace_share"] = result.workspace_share;
  json["measurements"] = ordered_json::array();
  for (const Measurement& m : result.measurements) json["measurements"].push_back(json_of(m));
  return json;
}

ordered_json json_of(const DenseTimes& times) {
  ordered_json json{{"shape", times.shape}, {"backend", times.backend}};
  if (times.runs.empty()) {
    json["reason"] = times.reason;
  } else {
    json["direction"] = name(times.direction);
    json["ms"] = median(times.runs);
    json["runs"] = times.runs;
  }
  return json;
}

}  // namespace

std::string bench_header(const BenchReport& report) {
  std::string text;
  if (report.peaks) {
    const cuda::DevicePeaks& c = *report.peaks;
    text += fmt::format("{}: memory {:.3g} TB/s at most, {:.3g} in a copy; ", c.name, c.bytes_per_second / 1e12,
                        c.copied_bytes_per_second / 1e12);
    text += c.operations_per_second > 0
                ? fmt::format("tensor cores {:.4g} TFLOP/s at most\n", c.operations_per_second / 1e12)
                : "the rate of its tensor cores is not known\n";
  }
  return text + fmt::format("at most {} timed runs a call within {} s after {} warm-up runs; seed {}\n",
                            report.plan.repetitions, report.plan.seconds, report.plan.warm_ups, report.plan.seed);
}

std::string bench_table(const BenchReport& report, const Case& c) {
  std::vector<Row> rows{kColumns};
  for (const char* backend : kBackends)
    for (const Direction direction : {Direction::forward, Direction::backward})
      if (const double ms = dense_milliseconds(report, c, backend, direction); ms > 0)
        rows.push_back(short_row({fmt::format("dense {}", backend), name(direction), in_milliseconds(ms)}));
  for (const BenchResult& result : report.results) {
    if (result.judged.c != c) continue;
    for (const Measurement& m : result.measurements) add_rows(report, result, m, rows);
    if (!result.measurements.empty()) continue;
    rows.push_back(short_row({result.judged.kernel}));
    rows.back().back() = name(result.judged.verdict);
    if (!result.judged.reason.empty()) rows.back().back() += ": " + result.judged.reason;
  }
  return print(c) + "\n" + aligned(rows, kTextColumns);
}

std::string bench_json(const BenchReport& report) {
  ordered_json json;
  if (report.peaks)
    json["device"] = {{"name", report.peaks->name},
                      {"bytes_per_second", report.peaks->bytes_per_second},
                      {"copied_bytes_per_second", report.peaks->copied_bytes_per_second},
                      {"operations_per_second", report.peaks->operations_per_second},
                      {"cache_bytes", report.peaks->cache_bytes}};
  json["plan"] = {{"warm_ups", report.plan.warm_ups},
                  {"repetitions", report.plan.repetitions},
                  {"seconds", report.plan.seconds},
                  {"seed", report.plan.seed}};
  json["dense"] = ordered_json::array();
  for (const DenseTimes& times : report.dense) json["dense"].push_back(json_of(times));
  json["results"] = ordered_json::array();
  for (const BenchResult& result : report.results) json["results"].push_back(json_of(result));
  return json_text(json, 1);
}

}  // namespace attnspec::fuzz
