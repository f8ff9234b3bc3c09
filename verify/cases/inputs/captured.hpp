// Captured activations: q, k, v and do of real models, of which cases are slices.
#pragma once

#include <cstdint>
#include <string>
#include <vector>

#include "verify/cases/case.hpp"
#include "verify/cases/regimes.hpp"

namespace attnspec::verify {

/// The regime of such cases: captured:NAME.
inline constexpr const char* kCaptured = "captured";

/// Names of the captured activations at hand, sorted. Where there are none, the first call says so on standard error.
std::vector<std::string> captured_names();

/// The sizes of a captured file. Throws std::runtime_error when it cannot be read or lacks a tensor.
struct CapturedSizes {
  std::int64_t tokens, heads, kv_heads, dk, dv;
};
CapturedSizes captured_sizes(const std::string& name);

/// The directory of the captured activations: ATTNSPEC_ACTIVATIONS_DIR or the repository's.
std::string activations_directory();

/// A case slices a captured file: tokens from a start that the seed chooses (0 for seed 0), the first features, and
/// heads taken round robin.
void fill_captured(const Case& c, Inputs& in);

/// Throws reference::InvalidProblem where there is no such file, or the case does not fit it.
void validate_captured(const Case& c);

}  // namespace attnspec::verify
