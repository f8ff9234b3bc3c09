// The rule that all selectors share: the best by score, and who wins a tie.
#pragma once

#include <cstdint>
#include <vector>

#include "reference/tensor.hpp"

namespace attnspec::reference {

/// The `wanted` of the candidates 0 .. past - 1 with the highest scores. MoBA's gate `top_k` (report eq. 5), and the
/// best blocks or tokens of MSA, DSA and QSA. Equation M4.
///
/// scores [>= past]; wanted <= past; result ascending. Ties: the higher score first, then the lower index.
std::vector<std::int32_t> select_top_k(const Vector& scores, std::int64_t past, std::int64_t wanted);

}  // namespace attnspec::reference
