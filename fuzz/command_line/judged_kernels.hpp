// Which kernels and cases a command judges, and what is said of their declarations afterwards.
#pragma once

#include <string>
#include <vector>

#include "verify/diagnosis/diagnosis.hpp"
#include "verify/judge/result.hpp"
#include "verify/run/kernel.hpp"

namespace attnspec::fuzz {

/// What is judged where no kernel is named: every built-in one but those in the simulator, which are slow.
std::vector<verify::Kernel> default_kernels();

/// The kernels of that name: one, or every decorated function of FILE.py. Throws what find_kernel throws.
std::vector<verify::Kernel> find_kernels(const std::string& name, verify::Seconds timeout);

/// The cases of a file. Throws std::invalid_argument where it holds none.
std::vector<verify::Case> cases_of_file(const std::string& path);

/// The exit code where a command was stopped before it had judged everything: inconclusive, unless it found something.
int exit_code_of_part(const std::vector<verify::CaseResult>& results);

/// Prints which arithmetic would explain the findings of a kernel among these results, if one does; gives the line
/// back.
std::string print_hint(const verify::Kernel& kernel, const std::vector<verify::CaseResult>& all);

/// Prints what the findings of a kernel have in common: the stage and the rows that are wrong, and what the kernel
/// behaves like; gives it back. Nothing where it has no findings.
verify::Diagnosis print_diagnosis(const verify::Kernel& kernel, const std::vector<verify::CaseResult>& all);

/// Prints which declared options a kernel does not need, if there are any, and gives the line back. It judges many
/// cases.
std::string print_over_declaration(const verify::Kernel& kernel, const std::vector<verify::CaseResult>& all);

}  // namespace attnspec::fuzz
