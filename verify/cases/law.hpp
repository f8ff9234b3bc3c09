// What a law asks of the case that it judges. laws/laws.hpp says what it does with it.
#pragma once

#include "verify/cases/case.hpp"

namespace attnspec::verify {

/// Whether cases of the operator can have the law, which is not Law::none.
bool has_law(Operator op, Law law);

/// Whether the law speaks of causal calls alone.
bool needs_causality(Law law);

/// Softmax scales, other than 0, below which the law `power` says nothing of gradients.
inline constexpr double kMinPowerScale = 0x1p-10;

}  // namespace attnspec::verify
