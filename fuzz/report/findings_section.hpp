// The part of the page about cases that failed.
#pragma once

#include <string>

#include "fuzz/report/report.hpp"

namespace attnspec::fuzz {

std::string findings_section(const Report& report);

}  // namespace attnspec::fuzz
