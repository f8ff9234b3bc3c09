// How outputs scale with inputs.
#pragma once

#include <string>

#include "verify/cases/case.hpp"

namespace attnspec::verify {

/// Whether NSA's compressed rows scale as the tokens do.
inline bool has_linear_rows(const Case& c) { return !compresses(c.op) || c.phi == reference::Phi::mean; }

/// Powers by which an output depends on q, on k, on the values and on the given gradient, where the scores stay as they
/// are. The tokens of `nsa_compress` count as values.
struct Degrees {
  int q = 0, k = 0, v = 0, gradient = 0;
};
Degrees degrees(const Case& c, const std::string& output);

}  // namespace attnspec::verify
