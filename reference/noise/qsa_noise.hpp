// The margins of QSA's block scores. docs/numerics.md, tags G6 and G7.
#pragma once

#include "reference/noise/dsa_noise.hpp"
#include "reference/qsa/qsa.hpp"

namespace attnspec::reference {

/// How far a kernel's S_b may lie from the exact one, [n]: G6 with all weights 1. kbar is given, so that its own
/// roundings are in no margin.
///
/// qi [Hi, di]; kbar [n, di], the complete blocks visible to the query; ties [n], max_ties_of_rows(kbar). Tag G6.
Vector score_margins(const Arithmetic& arithmetic, const Matrix& qi, const Rows& kbar, const Vector& ties);

/// No less than score_margins for keys of those lengths, at a cost that does not grow with di. norms [n], |kbar_b|.
/// Tag G7.
Vector score_bounds(const Arithmetic& arithmetic, const Matrix& qi, const Vector& norms);

}  // namespace attnspec::reference
