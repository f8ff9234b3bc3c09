// Why a row selected its blocks.
#pragma once

#include <cstdint>
#include <span>
#include <string>

#include "verify/judge/selection.hpp"

namespace attnspec::verify {

struct Reasons {
  std::string selected;  // "2 own, 0 (-1, rank 1)"; "-": no block
  std::string left_out;  // "1 (-2, rank 2)"; "-": no block
  std::string margin;    // by how much the weakest selected block beats the strongest other; "-": nothing was left out
};

/// own: the query's own block.
Reasons reasons(const SelectionRule& rule, std::span<const std::int32_t> selected, std::int64_t own);

}  // namespace attnspec::verify
