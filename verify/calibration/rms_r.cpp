#include "verify/calibration/rms_r.hpp"

#include <fmt/format.h>
#include <fmt/ranges.h>

#include <algorithm>
#include <charconv>
#include <cmath>
#include <exception>
#include <optional>
#include <stdexcept>

#include "verify/judge/judge.hpp"
#include "verify/kernels.hpp"

namespace attnspec::verify {

namespace {

std::vector<std::string_view> lines_of(std::string_view text) {
  std::vector<std::string_view> lines;
  while (!text.empty()) {
    const std::size_t end = std::min(text.find('\n'), text.size());
    lines.push_back(text.substr(0, end));
    text.remove_prefix(std::min(end + 1, text.size()));
  }
  return lines;
}

bool is_comment(std::string_view line) { return line.empty() || line.front() == '#'; }

std::optional<double> number(const RecordedRms& record, const std::string& output) {
  for (const auto& [name, rms] : record.outputs)
    if (name == output) return rms;
  return std::nullopt;
}

}  // namespace

std::string print(const RecordedRms& record) {
  std::vector<std::string> parts;
  for (const auto& [output, rms] : record.outputs)
    parts.push_back(fmt::format("{} {:.3g}", output, rms < kRmsStep / 2 ? 0 : rms));
  return fmt::format("{} {}: {}", record.kernel, print(record.c), fmt::join(parts, ", "));
}

RecordedRms parse_recorded_rms(std::string_view line) {
  const auto wrong = [&](const char* why) { return std::invalid_argument(fmt::format("line '{}': {}", line, why)); };
  const std::size_t space = line.find(' '), colon = std::min(line.find(": "), line.size());
  if (space >= colon) throw wrong("needs a kernel and a case");
  RecordedRms record{std::string(line.substr(0, space)), parse_case(line.substr(space + 1, colon - space - 1)), {}};
  for (std::string_view rest = line.substr(std::min(colon + 2, line.size())); !rest.empty();) {
    const std::size_t end = std::min(rest.find(", "), rest.size());
    const std::string_view part = rest.substr(0, end);
    const std::size_t middle = part.find(' ');
    double rms = 0;
    if (middle == std::string_view::npos ||
        std::from_chars(part.data() + middle + 1, part.data() + part.size(), rms).ptr != part.data() + part.size())
      throw wrong("needs the outputs with a number each");
    record.outputs.emplace_back(part.substr(0, middle), rms);
    rest.remove_prefix(std::min(end + 2, rest.size()));
  }
  return record;
}

std::vector<RecordedRms> parse_rms_record(std::string_view text) {
  std::vector<RecordedRms> records;
  for (const std::string_view line : lines_of(text))
    if (!is_comment(line)) records.push_back(parse_recorded_rms(line));
  return records;
}

RecordedRms measured_rms(const std::string& kernel, const Case& c) {
  const CaseResult result = judge(find_kernel(kernel), c);
  if (result.verdict != Verdict::pass)
    throw std::runtime_error(fmt::format("{} {}: {}", kernel, print(c), name(result.verdict)));
  RecordedRms record{kernel, c, {}};
  for (const OutputSummary& output : result.outputs)
    if (output.rows >= kMinRecordedRows && !output.output.ends_with("selection"))
      record.outputs.emplace_back(output.output, std::sqrt(output.sum_r_squared / static_cast<double>(output.rows)));
  return record;
}

std::string outside_band(const RecordedRms& recorded, const RecordedRms& measured) {
  std::vector<std::string> parts;
  for (const auto& [output, rms] : recorded.outputs) {
    const std::optional<double> now = number(measured, output);
    if (!now || !(std::abs(*now - rms) <= kRmsBand * rms + kRmsStep))
      parts.push_back(
          fmt::format("{} {} where {:.3g} is recorded", output, now ? fmt::format("{:.3g}", *now) : "is missing", rms));
  }
  for (const auto& [output, rms] : measured.outputs)
    if (!number(recorded, output)) parts.push_back(fmt::format("{} {:.3g} is not recorded", output, rms));
  return fmt::format("{}", fmt::join(parts, ", "));
}

std::string measured_rms_record(const std::string& text) {
  const std::vector<std::string_view> lines = lines_of(text);
  std::vector<std::string> now(lines.size());
  std::exception_ptr error;
#pragma omp parallel for schedule(dynamic)
  for (std::size_t i = 0; i < lines.size(); ++i) {
    try {
      now[i] = lines[i];
      if (is_comment(lines[i])) continue;
      const RecordedRms record = parse_recorded_rms(lines[i]);
      now[i] = print(measured_rms(record.kernel, record.c));
    } catch (...) {
#pragma omp critical(attnspec_rms)
      error = std::current_exception();
    }
  }
  if (error) std::rethrow_exception(error);
  return fmt::format("{}\n", fmt::join(now, "\n"));
}

}  // namespace attnspec::verify
