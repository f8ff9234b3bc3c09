// The laws of one call that speak of gradients: two sums, and what one row of do leaves at zero.
#pragma once

#include "verify/laws/rounding.hpp"

namespace attnspec::verify {

/// Numbers with mean zero, no two of which are equal by intent, so that roundings are independent.
void prepare_sums(const Case& c, Inputs& inputs);
/// dk of all keys of a sequence and kv head sums to 0.
void check_dk_sum(const JudgedCall& call, RoundedComparison& comparison);
/// dv of them sums to the sum of do over the rows of the group that see a key.
void check_dv_sum(const JudgedCall& call, RoundedComparison& comparison);

/// A given gradient with one row that is not zero in every sequence.
void prepare_one_row(const Case& c, Inputs& inputs);
/// Gradients that this row does not enter are exactly 0.
void check_one_row(const JudgedCall& call, RoundedComparison& comparison);

}  // namespace attnspec::verify
