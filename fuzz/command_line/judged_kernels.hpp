// Which kernels a command judges, and what is said of their declarations afterwards.
#pragma once

#include <string>
#include <vector>

#include "verify/kernel.hpp"
#include "verify/result.hpp"

namespace attnspec::fuzz {

/// What is judged where no kernel is named: every built-in one but those in the simulator, which are slow.
std::vector<verify::Kernel> default_kernels();

/// The kernels of that name: one, or every decorated function of FILE.py. Throws what find_kernel throws.
std::vector<verify::Kernel> find_kernels(const std::string& name, verify::Seconds timeout);

/// Prints what the declared arithmetic of a kernel has to do with its results.
void print_hints(const verify::Kernel& kernel, const std::vector<verify::CaseResult>& all);

}  // namespace attnspec::fuzz
