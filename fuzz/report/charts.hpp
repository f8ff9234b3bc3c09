// Charts as SVG; their colours are those of the page's style.
#pragma once

#include <string>

#include "fuzz/report/error_map.hpp"
#include "verify/judge/distribution.hpp"

namespace attnspec::fuzz {

/// Row error ratios R from 1/32 to 16; those beyond stand in the first and the last bar. A line marks R = 1.
std::string error_chart(const verify::Distribution& r);

/// Gaps between scores in margins, from 1/8 to 2^20, a bar for each factor of 2; those below 1 stand out.
std::string clearance_chart(const verify::Distribution& clearances);

/// A map of rows, heads below each other, sequences beside each other.
std::string map_chart(const ErrorMap& map);

}  // namespace attnspec::fuzz
