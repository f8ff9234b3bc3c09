// The laws that move rows: to another call, another head, another place in memory.
#pragma once

#include <vector>

#include "verify/laws/follow_up.hpp"

namespace attnspec::verify {

/// The same call again.
std::vector<FollowUp> repeat_follow_ups(const SourceCall& source);
/// The kv heads with their groups in another order; the query heads of each group in another order.
std::vector<FollowUp> heads_follow_ups(const SourceCall& source);
/// Memory with gaps for memory without, or the reverse.
std::vector<FollowUp> strides_follow_ups(const SourceCall& source);
/// The sequences in the reverse order, and some of them alone.
std::vector<FollowUp> packing_follow_ups(const SourceCall& source);
/// The last query of each sequence alone, and some of the last; of `nsa_compress` the last compressed rows, without the
/// tokens before theirs.
std::vector<FollowUp> decode_follow_ups(const SourceCall& source);

}  // namespace attnspec::verify
