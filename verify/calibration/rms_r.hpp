// The size of the predicted noise, recorded: the root mean square of R of every output of the model kernels on some
// cases. Calibration sees a prediction that is too small; one that is too large shows here alone. docs/numerics.md,
// section Calibration.
#pragma once

#include <string>
#include <string_view>
#include <utility>
#include <vector>

#include "verify/cases/case.hpp"

namespace attnspec::verify {

/// Outputs of fewer rows are not recorded.
inline constexpr std::int64_t kMinRecordedRows = 50;

/// How far a recorded number may be off, relative to it; and by itself, which matters to the smallest.
inline constexpr double kRmsBand = 0.08, kRmsStep = 0.002;

/// "model:moba moba(lens=96): o 0.692, lse 0.41": one line of a record.
struct RecordedRms {
  std::string kernel;
  Case c;
  std::vector<std::pair<std::string, double>> outputs;
};

std::string print(const RecordedRms& record);

/// The inverse of print; a line without numbers, too. Throws std::invalid_argument that names the line.
RecordedRms parse_recorded_rms(std::string_view line);

/// The lines of a record without blank lines and comments.
std::vector<RecordedRms> parse_rms_record(std::string_view text);

/// What the outputs have now. Throws std::runtime_error where the kernel does not pass.
RecordedRms measured_rms(const std::string& kernel, const Case& c);

/// The outputs that are outside the band, "o 0.5 where 0.692 is recorded", or that one of both lacks; empty where none
/// is.
std::string outside_band(const RecordedRms& recorded, const RecordedRms& measured);

/// The text with the numbers that its lines have now; comments and blank lines stay.
std::string measured_rms_record(const std::string& text);

}  // namespace attnspec::verify
