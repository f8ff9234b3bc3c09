// The laws that change numbers which some rows do not read.
#pragma once

#include <vector>

#include "verify/laws/twin.hpp"

namespace attnspec::verify {

/// Everything after a position of each sequence is another.
std::vector<Twin> future_twins(const FirstCall& first);
/// The values of one block of each sequence are others; of one key outside the window.
std::vector<Twin> unselected_twins(const FirstCall& first);

}  // namespace attnspec::verify
