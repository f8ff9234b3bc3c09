// How outputs scale with inputs.
#pragma once

#include <string>

#include "verify/cases/case.hpp"
#include "verify/operators/operator.hpp"

namespace attnspec::verify {

/// Whether NSA's compressed rows scale as the tokens do.
inline bool has_linear_rows(const Case& c) { return !compresses(c.op) || c.phi == reference::Phi::mean; }

/// Those of an output.
inline const Degrees& degrees(const Case& c, const std::string& output) { return tensor_of(c.op, output).degrees; }

}  // namespace attnspec::verify
