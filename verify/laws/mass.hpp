// The law `mass`: attention to compressed rows whose values are the overlap weights gives the importances themselves.
#pragma once

#include "verify/laws/rounding.hpp"

namespace attnspec::verify {

/// Numbers of which importances differ; and v: feature j of compressed row i is the overlap of i with block j, in units
/// of d.
void prepare_mass(const Case& c, Inputs& inputs);
/// The features of o sum to l / d where a compressed row is visible, else to 0; and the blocks that the kernel selected
/// are those of which o, summed over the group, has most.
void check_mass(const JudgedCall& call, RoundedComparison& comparison);

}  // namespace attnspec::verify
