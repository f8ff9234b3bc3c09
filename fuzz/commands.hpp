// The commands of the program. Each prints its findings to standard output and returns the exit code; bad input is
// thrown as an exception whose message is one line.
#pragma once

#include <cstdint>
#include <optional>
#include <string>
#include <vector>

#include "verify/kernel.hpp"

namespace attnspec::fuzz {

struct CheckOptions {
  std::vector<std::string> kernels;    // none: every built-in one
  std::vector<std::string> operators;  // none: every one the kernel implements
  int level = 1;
  std::string junit;  // a file to write; empty: none
  verify::Seconds timeout = verify::kTimeout;
};
int check(const CheckOptions& options);

/// target: a case, or a file of cases. kernel: empty: every built-in one that implements the operator.
int replay(const std::string& target, const std::string& kernel, verify::Seconds timeout);

struct FuzzOptions {
  std::string kernel;
  std::vector<std::string> operators;  // none: every one the kernel implements
  std::vector<std::string> laws;       // none: cases of every law and of none; else of these alone
  std::optional<double> seconds;       // none: 60, or no limit where `cases` is given
  std::optional<std::int64_t> cases;   // none: no limit
  std::uint64_t seed = 0;
  int jobs = 0;                       // cases judged at the same time; 0: one for each thread
  std::string findings = "findings";  // the directory for what is found
  bool keeps_going = false;           // after a finding
  bool is_verbose = false;            // tells each swarm on standard error
  verify::Seconds timeout = verify::kTimeout;
};
/// Searches for a case on which the kernel fails. Ctrl-C ends it with the summary of what was judged.
int fuzz(const FuzzOptions& options);

struct BenchOptions {
  std::vector<std::string> kernels;    // none: every built-in one for a GPU but the baseline
  std::vector<std::string> cases;      // none: MoBA as it is used, beside attention to given blocks and dense attention
  std::optional<std::int64_t> sample;  // rows of every output that are judged, as in a case; none: what the cases say
  std::string direction;               // forward or backward; empty: both
  std::int64_t repetitions = verify::TimingPlan{}.repetitions;  // timed runs of each call
  double seconds = verify::TimingPlan{}.seconds;                // that they may take
  std::uint64_t seed = 0;      // of the inputs of the cases that are not given, and of which runs are judged
  bool has_baselines = false;  // dense attention in PyTorch, too
  std::string json;            // a file to write; empty: none
  verify::Seconds timeout = verify::kTimeout;
};
/// Times kernels, and judges what they wrote meanwhile.
int bench(const BenchOptions& options);

struct DefectsOptions {
  std::vector<std::string> names;  // none: every planted defect
  std::string arithmetic;          // options that the kernels with a defect declare and play: "scaled_ds+fp32_out"
  std::int64_t cases = 200;        // for each of them, at most
  std::uint64_t seed = 0;
};
/// Whether the search finds the planted defects, and how soon.
int defects(const DefectsOptions& options);

struct CalibrateOptions {
  std::int64_t rows = 5000;          // of every output, in every regime and arithmetic
  std::vector<std::string> regimes;  // none: every one
  std::uint64_t seed = 0;
};
/// Whether the noise prediction fits the model kernel in every arithmetic.
int calibrate(const CalibrateOptions& options);

/// files: none: those of the golden directory.
int golden(const std::vector<std::string>& files);

int list_operators();
int list_kernels();
int list_regimes();
int list_laws();
int list_defects();
int list_variants();
int list_arithmetic();

}  // namespace attnspec::fuzz
