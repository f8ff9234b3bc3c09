// Calibration: does the noise prediction fit the model kernel, in every regime and every declared arithmetic? A correct
// kernel must never alarm, and where errors spread over many directions R must be near 1.
#pragma once

#include <cstdint>
#include <string>
#include <vector>

#include "verify/judge/judge.hpp"

namespace attnspec::verify {

/// An input format and a declared arithmetic, as judged.
struct CalibratedArithmetic {
  Format dtype;
  reference::ArithmeticOptions options;

  /// "bf16+rounded_sum".
  std::string name() const;
  /// The model kernel that plays it: "model:moba+rounded_sum".
  std::string kernel(Operator op) const;
};

/// The plain arithmetic of every format, each option alone, and some together.
std::vector<CalibratedArithmetic> calibrated_arithmetics();

/// What was seen of one output in one regime and arithmetic.
struct Calibration {
  std::string regime, arithmetic, output;
  std::int64_t rows = 0, alarms = 0;
  double worst_r = 0, worst_z = 0;  // largest R; largest error of an element in deviations
  double median_r = -1;             // of sampled rows off the format's grid with n_eff >= 8; -1: there were too few
  std::string first_alarm;          // the command that repeats it

  /// No alarm, and a median between 0.5 and 1.3 where there is one.
  bool is_good() const;
};

/// One regime in one arithmetic.
struct CalibrationJob {
  std::string regime;
  CalibratedArithmetic arithmetic;
};

/// Every arithmetic in every regime, or in the named ones; captured activations file by file. Throws as
/// validate_regime.
std::vector<CalibrationJob> calibration_jobs(const std::vector<std::string>& regimes);

/// Judges the model kernel on random small cases until `rows` rows of every output (fewer of NSA's own) were
/// compared; one result for each output.
std::vector<Calibration> calibrate(const CalibrationJob& job, std::int64_t rows, std::uint64_t seed);

}  // namespace attnspec::verify
