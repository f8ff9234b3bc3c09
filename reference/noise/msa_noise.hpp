// The margin of what MSA's blocks are worth. docs/numerics.md, tags G5 and G7.
#pragma once

#include "reference/msa/msa.hpp"
#include "reference/noise/index_noise.hpp"

namespace attnspec::reference {

/// How far a kernel's S_b may lie from the exact one, [ceil(n / B)]: e_b = max over its keys of s_j + e_j, less S_b.
///
/// qi [di]; ki [n, di], the keys 0 .. t of the query's sequence; ties [n], max_ties_of_rows(ki). A kernel may multiply
/// all scores by one positive number; margins are those of scores that are not multiplied. Tag G5.
Vector score_margins(const Arithmetic& arithmetic, const MsaProblem& problem, const Row& qi, const Rows& ki,
                     const Vector& ties);

/// No less than score_margins for keys of those lengths, at a cost that does not grow with di. norms [n], |ki_j|.
/// Tag G7.
Vector score_bounds(const Arithmetic& arithmetic, const MsaProblem& problem, const Row& qi, const Vector& norms);

}  // namespace attnspec::reference
