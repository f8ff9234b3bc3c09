// The operators that attend or select: MoBA assigns blocks itself, `selected` is given them, and `dense` and the parts
// of NSA are one block that holds the sequence.
#pragma once

#include "verify/model/stages.hpp"
#include "verify/run/kernel.hpp"

namespace attnspec::verify::model {

/// The forward of any operator but `nsa_compress` and `nsa`.
void run(const Stages& stages, const Arithmetic& arithmetic, const ForwardCall& call);

/// The backward of any operator but those.
void run(const Stages& stages, const Arithmetic& arithmetic, const BackwardCall& call);

}  // namespace attnspec::verify::model
