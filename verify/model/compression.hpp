// The operator `nsa_compress`: phi makes one row of every compression block of every sequence.
#pragma once

#include <cstdint>
#include <vector>

#include "verify/model/stages.hpp"
#include "verify/run/kernel.hpp"

namespace attnspec::verify::model {

/// Where the compressed rows of each sequence begin in the packed tensor: [num_sequences + 1].
std::vector<std::int64_t> compressed_row_offsets(const NsaProblem& nsa);

/// Every compressed row.
void run(const Stages& stages, const Arithmetic& arithmetic, const CompressCall& call);

/// The gradients of every token and of phi's parameters.
void run(const Stages& stages, const Arithmetic& arithmetic, const CompressBackwardCall& call);

}  // namespace attnspec::verify::model
