// The predicted noise of NSA's gated sum of branches and of the gradient of its gates. docs/numerics.md, tags N1, N2.
#pragma once

#include <array>

#include "reference/noise/sum_noise.hpp"

namespace attnspec::reference {

/// One query row's outputs of the branches, [dv] each, in the order of the gates.
using BranchRows = std::array<Row, 3>;

/// o = sum_b gates_b o_b [dv], stored in the arithmetic's output format. Where branches are fused the o_b given are the
/// roundings of those that were really summed. Tag N1.
///
/// gates [3]
PredictedRow gated_noise(const Arithmetic& arithmetic, const Row& gates, const BranchRows& outputs);

/// dg_b = <do, o_b> [3], stored in the arithmetic's output format, each number accumulated on its own. Tag N2.
///
/// d_o [dv]
PredictedRow gate_gradient_noise(const Arithmetic& arithmetic, const Row& d_o, const BranchRows& outputs);

}  // namespace attnspec::reference
