// The margin of NSA's importances: how far a kernel's may lie from the exact ones. docs/numerics.md, tag I1.
#pragma once

#include "reference/noise/noise.hpp"
#include "reference/nsa/nsa_selection.hpp"

namespace attnspec::reference {

/// e_j = min(worst case, kappa deviations) of p'_j, [c + 1]: p_slc of a head is attention whose values are the rows of
/// W, computed in fp32, and p' its sum over the group.
///
/// importance [c + 1] as `importance` gives it; q [G, dk] as it takes it; keys: K~ and overlap_weights of the sequence
/// and kv head. Without a visible compressed row all margins are 0.
Vector importance_margins(const Arithmetic& arithmetic, const NsaProblem& problem, const Matrix& q,
                          const KeyValues& keys, std::int64_t t, const Vector& importance);

}  // namespace attnspec::reference
