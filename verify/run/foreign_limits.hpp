// The limits of kernel_abi.h.
#pragma once

#include "verify/abi/kernel_abi.h"
#include "verify/cases/limits.hpp"

namespace attnspec::verify {

/// What a kernel declares that it can do. Throws reference::InvalidProblem, which names field and value: a number below
/// 0, a size without an allowed value, a bit or number without a meaning.
Limits limits_of(const AttnspecLimits& declared);

}  // namespace attnspec::verify
