// Kernels of others: shared libraries with the C interface of kernel_abi.h.
#pragma once

#include <chrono>
#include <string>

#include "verify/kernel.hpp"

struct AttnspecKernel;

namespace attnspec::verify {

/// The kernel of a shared library, which stays loaded. Its name is the path. The library is first loaded and asked in a
/// child process, so that one that crashes, ends the process or takes longer than `patience` does so there.
///
/// Throws std::invalid_argument, one line that names the path: no such file, not a library, no attnspec_kernel, what
/// make_foreign_kernel throws, or how the child ended.
Kernel load_kernel(const std::string& path, std::chrono::milliseconds patience = std::chrono::seconds(10));

/// Throws std::invalid_argument, one line that names the kernel: another version, a struct smaller than that version's,
/// a missing text, an unknown operator, departure or device, an operator without a function.
void check_declaration(const AttnspecKernel& declared, const std::string& name);

/// A kernel described by the C interface, under the given name. What it points to must live as long as the result. Its
/// calls throw CallFailed.
///
/// Throws what check_declaration throws, and std::invalid_argument when the kernel needs a GPU and there is none.
Kernel make_foreign_kernel(const AttnspecKernel& declared, const std::string& name);

}  // namespace attnspec::verify
