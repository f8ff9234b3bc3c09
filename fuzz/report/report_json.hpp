// A report as JSON, for programs; docs/report.schema.json describes it, and docs/reports.md in words.
#pragma once

#include <string>

#include "fuzz/report/report.hpp"

namespace attnspec::fuzz {

/// Rises when a member goes or changes its meaning; members may be added without.
inline constexpr int kReportVersion = 1;

std::string report_json(const Report& report);

}  // namespace attnspec::fuzz
