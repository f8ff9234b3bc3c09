// The laws within rounding that give the same call in another form.
#pragma once

#include <vector>

#include "verify/laws/rounding.hpp"

namespace attnspec::verify {

/// The slots of the given selection in another order.
std::vector<NearFollowUp> slots_follow_ups(const JudgedCall& source);
/// Every query head with a kv head of its own.
std::vector<NearFollowUp> groups_follow_ups(const JudgedCall& source);
/// The first tokens of each sequence alone.
std::vector<NearFollowUp> prefix_follow_ups(const JudgedCall& source);

}  // namespace attnspec::verify
