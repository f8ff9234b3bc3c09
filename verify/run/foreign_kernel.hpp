// Kernels of others: shared libraries with the C interface of kernel_abi.h, and Python functions behind it.
#pragma once

#include <chrono>
#include <functional>
#include <stdexcept>
#include <string>
#include <string_view>
#include <vector>

#include "verify/abi/kernel_abi.h"
#include "verify/run/foreign_calls.hpp"
#include "verify/run/kernel.hpp"

namespace attnspec::verify {

/// A file has several kernels where one is wanted; names: of each, FILE.py:FUNCTION.
class SeveralKernels : public std::invalid_argument {
 public:
  SeveralKernels(const std::string& file, std::vector<std::string> all);

  std::vector<std::string> names;
};

/// Whether the name is somebody else's kernel: PATH.so, FILE.py:FUNCTION, or FILE.py with one kernel in it.
bool is_foreign(std::string_view name);

/// The kernel of a shared library, or a Python function that is decorated with attnspec.kernel. It lives in a process
/// of its own (worker/), which is killed where it takes longer than `timeout`. Its calls throw CallFailed.
///
/// Throws std::invalid_argument, one line that names the kernel: no such file, not a library, no attnspec_kernel, what
/// declaration_of throws, or how the process ended. Throws SeveralKernels for a FILE.py with more than one.
Kernel load_kernel(const std::string& name, Seconds timeout = kTimeout);

/// What a library declares. Throws std::invalid_argument, one line that names the kernel: another version, a struct
/// smaller than that version's, a missing text, an unknown operator, arithmetic option or device, an operator without a
/// function, limits that are wrong or leave nothing of an operator, no GPU for a kernel that needs one.
Declaration declaration_of(const AttnspecKernel& kernel, const std::string& name);

/// What a kernel does with its calls.
struct CallFunctions {
  std::function<void(const AnyCall&)> run;
  std::function<Timing(const AnyCall&, const TimingPlan&)> time;
  std::function<std::int64_t(const AnyCall&)> workspace_bytes;
};

/// A kernel of these functions.
Kernel make_kernel(const Declaration& declared, const std::string& name, const CallFunctions& functions);

/// A kernel of this process. What it points to must live as long as the result. Its calls throw CallFailed. Throws what
/// declaration_of throws.
Kernel make_foreign_kernel(const AttnspecKernel& declared, const std::string& name);

}  // namespace attnspec::verify
