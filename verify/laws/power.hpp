// The law `power`: what is linear scales exactly by powers of two. docs/numerics.md derives where (X1, X2).
#pragma once

#include <vector>

#include "verify/cases/law.hpp"
#include "verify/laws/follow_up.hpp"

namespace attnspec::verify {

/// Numbers so far from the ends of every format that scaling by a power of two is exact all the way.
void prepare_power(const Case& c, Inputs& inputs);
/// The values times one power of two, the gradient that the backward is given times another.
std::vector<FollowUp> power_follow_ups(const SourceCall& source);

}  // namespace attnspec::verify
