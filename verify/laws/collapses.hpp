// The laws within rounding that say where one operator is another. Their follow-up calls are of the other operator if
// the kernel implements it, else of the same operator in a form that has to give the same.
#pragma once

#include <vector>

#include "verify/laws/rounding.hpp"

namespace attnspec::verify {

/// MoBA that selects every block is dense attention.
std::vector<NearFollowUp> all_blocks_follow_ups(const JudgedCall& source);
/// MoBA that selects one block is causal attention within it: to every block as a sequence of its own.
std::vector<NearFollowUp> own_block_follow_ups(const JudgedCall& source);
/// A window as long as the sequence is causal dense attention.
std::vector<NearFollowUp> whole_window_follow_ups(const JudgedCall& source);
/// NSA's selection, of groups of one head, with compression blocks that are its blocks, is MoBA's.
std::vector<NearFollowUp> as_moba_follow_ups(const JudgedCall& source);

/// Every gate 0 but for one of each row.
void prepare_one_hot(const Case& c, Inputs& inputs);
/// o of such a row is that of its branch.
void check_one_hot(const JudgedCall& call, RoundedComparison& comparison);

}  // namespace attnspec::verify
