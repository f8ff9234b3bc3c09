// The laws that change numbers which some rows do not read.
#pragma once

#include <vector>

#include "verify/laws/follow_up.hpp"

namespace attnspec::verify {

/// Everything after a position of each sequence is another.
std::vector<FollowUp> future_follow_ups(const SourceCall& source);
/// The values of one block of each sequence are others; of one key outside the window.
std::vector<FollowUp> unselected_follow_ups(const SourceCall& source);

}  // namespace attnspec::verify
