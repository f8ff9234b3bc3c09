// The laws that change q and k so that all scores stay what they are. docs/numerics.md derives where (X4).
#pragma once

#include <vector>

#include "verify/laws/follow_up.hpp"

namespace attnspec::verify {

/// q and k with the other sign.
std::vector<FollowUp> negation_follow_ups(const SourceCall& source);
/// q over a power of two, k times it.
std::vector<FollowUp> reciprocal_follow_ups(const SourceCall& source);

}  // namespace attnspec::verify
