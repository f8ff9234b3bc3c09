// Golden vectors: recorded results of public implementations that the reference must reproduce.
#pragma once

#include <string>
#include <vector>

namespace attnspec::verify {

/// The largest difference of one tensor of a golden file from the reference.
struct GoldenComparison {
  std::string file;    // without directory
  std::string tensor;  // o, dq, dk, dv, ..., selection
  /// max over rows of ||reference - recorded|| / ||recorded||; of a selection, blocks that differ over blocks recorded;
  /// where the terms of a sum cancel to 0, over the norm of their absolute values.
  double difference;
  double bound;  // 1e-12 for F64 tensors, 1e-6 for F32, 0 for the selection
  bool agrees() const { return difference <= bound; }
};

/// Whether the reference defines what a golden file records: MoBA, NSA's compressed and selected branches, or its
/// selected and window branches on a given selection.
bool is_defined(const std::string& path);

/// Runs the reference on the inputs of a golden file and compares every recorded result. Throws std::runtime_error, one
/// line that names the file and what it lacks; std::invalid_argument where its parameters are invalid.
std::vector<GoldenComparison> compare_golden(const std::string& path);

/// The directory of the golden files: ATTNSPEC_GOLDEN_DIR or the repository's.
std::string golden_directory();

/// The paths of all golden files in it, sorted. Throws std::runtime_error when it cannot be read or has none.
std::vector<std::string> golden_files();

}  // namespace attnspec::verify
