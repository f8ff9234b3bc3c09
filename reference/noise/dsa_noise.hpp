// The margins of DSA's token scores. docs/numerics.md, tags G6 and G7.
#pragma once

#include "reference/dsa/dsa.hpp"
#include "reference/noise/index_noise.hpp"

namespace attnspec::reference {

/// How far a kernel's I_j may lie from the exact one, [n].
///
/// qi [Hi, di]; w [Hi]; ki [n, di], the keys 0 .. t of the query's sequence; ties [n], max_ties_of_rows(ki). A kernel
/// may multiply all scores by one positive number, inside or outside the ReLU; margins are those of scores that are not
/// multiplied. Tag G6.
Vector score_margins(const Arithmetic& arithmetic, const Matrix& qi, const Row& w, const Rows& ki, const Vector& ties);

/// No less than score_margins for keys of those lengths, at a cost that does not grow with di. norms [n], |ki_j|.
/// Tag G7.
Vector score_bounds(const Arithmetic& arithmetic, const Matrix& qi, const Row& w, const Vector& norms);

}  // namespace attnspec::reference
