// Every kernel that has a name on the command line.
#pragma once

#include <string_view>
#include <vector>

#include "verify/run/kernel.hpp"

namespace attnspec::verify {

/// The built-in kernels that this machine can run.
const std::vector<Kernel>& kernels();

/// The kernel of that name: built in; defect:NAME, the model kernel with one planted defect; variant:NAME, the model
/// kernel done in another way that is as right; each of them with arithmetic options appended,
/// model:moba+rounded_sum+fp32_out. PATH.so and FILE.py:FUNCTION are somebody else's, see run/foreign_kernel.hpp; they
/// declare their own, and must load and do each call within `timeout`. Throws std::invalid_argument that
/// names it and lists the kernels, or says what is wrong with the library or the function.
Kernel find_kernel(std::string_view name, Seconds timeout = kTimeout);

}  // namespace attnspec::verify
