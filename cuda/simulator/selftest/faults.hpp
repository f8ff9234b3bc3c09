// How tests plant a fault in a kernel and look for it.
#pragma once

#include <fstream>
#include <string>
#include <vector>

#include "cuda/simulator/fault.hpp"

namespace attnspec::cuda::simulator {

/// The faults of what launches kernels; none if it ran to its end.
template <class Launching>
std::vector<Fault> faults_of(const Launching& launching) {
  try {
    launching();
  } catch (const KernelFaults& found) {
    return found.faults();
  }
  return {};
}

/// The line of a file that ends with the comment "// MARK"; 0 where there is none.
inline int line_of(const std::string& file, const std::string& mark) {
  std::ifstream lines(file);
  std::string line;
  for (int number = 1; std::getline(lines, line); ++number)
    if (line.ends_with("// " + mark)) return number;
  return 0;
}

/// Whether a fault of this kind was found in the marked line of a file.
inline bool has(const std::vector<Fault>& faults, FaultKind kind, const std::string& file, const std::string& mark) {
  for (const Fault& fault : faults)
    if (fault.kind == kind && fault.file == file && fault.line == line_of(file, mark)) return true;
  return false;
}

/// For the message of an assertion.
inline std::string list(const std::vector<Fault>& faults) {
  std::string result = std::to_string(faults.size()) + " faults";
  for (const Fault& fault : faults) result.append("\n").append(describe(fault));
  return result;
}

}  // namespace attnspec::cuda::simulator

#define EXPECT_FAULT(faults, kind, mark) \
  EXPECT_TRUE(::attnspec::cuda::simulator::has(faults, kind, __FILE__, mark)) << list(faults)
#define EXPECT_SILENT(faults) EXPECT_TRUE((faults).empty()) << list(faults)
