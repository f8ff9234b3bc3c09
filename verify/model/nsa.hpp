// The operator `nsa`: compression, the three branches one after the other, and the gates over them.
#pragma once

#include "verify/model/stages.hpp"
#include "verify/run/kernel.hpp"

namespace attnspec::verify::model {

/// The whole forward.
void run(const Stages& stages, const Arithmetic& arithmetic, const NsaCall& call);

/// The whole backward.
void run(const Stages& stages, const Arithmetic& arithmetic, const NsaBackwardCall& call);

}  // namespace attnspec::verify::model
