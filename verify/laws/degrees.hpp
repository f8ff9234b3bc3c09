// How outputs scale with inputs.
#pragma once

#include <string>

#include "verify/cases/case.hpp"
#include "verify/operators/operator.hpp"

namespace attnspec::verify {

/// Those of an output.
inline const Degrees& degrees(const Case& c, const std::string& output) { return tensor_of(c.op, output).degrees; }

}  // namespace attnspec::verify
