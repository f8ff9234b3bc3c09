// How outputs scale with inputs.
#pragma once

#include <string>

#include "verify/case.hpp"

namespace attnspec::verify {

/// Powers by which an output depends on q, on k, on the values and on the given gradient, where the scores stay as they
/// are. The tokens of `nsa_compress` count as values.
struct Degrees {
  int q = 0, k = 0, v = 0, gradient = 0;
};
Degrees degrees(const Case& c, const std::string& output);

}  // namespace attnspec::verify
