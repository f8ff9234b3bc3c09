// Charts as SVG; their colours are those of the page's style.
#pragma once

#include <string>

#include "fuzz/report/error_map.hpp"
#include "verify/judge/distribution.hpp"

namespace attnspec::fuzz {

/// Where the chart of row error ratios begins: smaller ones are not drawn.
inline constexpr double kSmallestDrawnR = 1.0 / 32;

/// Row error ratios R up to 16; larger ones stand in the last bar. A line marks R = 1.
std::string error_chart(const verify::Distribution& r);

/// Gaps between scores in margins, from 1/8 to 2^20, a bar for each factor of 2; others stand in the first and the last
/// bar. Those below 1 stand out.
std::string clearance_chart(const verify::Distribution& clearances);

/// A map of rows, heads below each other, sequences beside each other.
std::string map_chart(const ErrorMap& map);

}  // namespace attnspec::fuzz
