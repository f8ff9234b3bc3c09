#include "fuzz/command_line/judged_kernels.hpp"

#include <fmt/format.h>
#include <fmt/ranges.h>

#include <algorithm>
#include <cstdio>
#include <iterator>
#include <stdexcept>

#include "fuzz/command_line/interruptible.hpp"
#include "verify/diagnosis/diagnosis.hpp"
#include "verify/judge/hint.hpp"
#include "verify/judge/report.hpp"
#include "verify/kernels.hpp"
#include "verify/run/foreign_kernel.hpp"

namespace attnspec::fuzz {

using namespace verify;

std::vector<Kernel> default_kernels() {
  std::vector<Kernel> judged;
  std::copy_if(kernels().begin(), kernels().end(), std::back_inserter(judged),
               [](const Kernel& kernel) { return !kernel.is_simulated; });
  return judged;
}

std::vector<Kernel> find_kernels(const std::string& name, Seconds timeout) try {
  return {find_kernel(name, timeout)};
} catch (const SeveralKernels& several) {
  fmt::print(stderr, "{} has {} kernels: {}\n", name, several.names.size(), fmt::join(several.names, ", "));
  std::vector<Kernel> kernels;
  for (const std::string& one : several.names) kernels.push_back(find_kernel(one, timeout));
  return kernels;
}

std::vector<Case> cases_of_file(const std::string& path) {
  std::vector<Case> cases = read_case_file(path);
  if (cases.empty()) throw std::invalid_argument(fmt::format("case file {}: holds no case", path));
  return cases;
}

int exit_code_of_part(const std::vector<CaseResult>& results) {
  const int code = exit_code(results);
  return code == 0 ? kInconclusive : code;
}

namespace {

std::string printed(std::string line) {
  if (!line.empty()) fmt::print("{}\n", line);
  return line;
}

std::vector<CaseResult> results_of(const Kernel& kernel, const std::vector<CaseResult>& all) {
  std::vector<CaseResult> results;
  std::copy_if(all.begin(), all.end(), std::back_inserter(results),
               [&](const CaseResult& result) { return result.kernel == kernel.name; });
  return results;
}

}  // namespace

std::string print_hint(const Kernel& kernel, const std::vector<CaseResult>& all) {
  return printed(hint(kernel, results_of(kernel, all)));
}

Diagnosis print_diagnosis(const Kernel& kernel, const std::vector<CaseResult>& all) {
  Diagnosis diagnosis = diagnose(kernel, results_of(kernel, all));
  for (const std::string& line : diagnosis.lines()) printed(line);
  return diagnosis;
}

std::string print_over_declaration(const Kernel& kernel, const std::vector<CaseResult>& all) {
  return printed(over_declaration(kernel, results_of(kernel, all)));
}

}  // namespace attnspec::fuzz
