// Selectors with an indexer, which scores keys by queries and keys of its own.
#pragma once

#include "verify/model/stages.hpp"

namespace attnspec::verify::model {

/// One call of msa_select, dsa_select or qsa_select.
void run(const Stages& stages, const Arithmetic& arithmetic, const IndexCall& call);

}  // namespace attnspec::verify::model
