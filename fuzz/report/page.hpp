// A report as one HTML file: no network, no scripts; styles and pictures are inside.
#pragma once

#include <string>

#include "fuzz/report/report.hpp"

namespace attnspec::fuzz {

std::string report_page(const Report& report);

}  // namespace attnspec::fuzz
