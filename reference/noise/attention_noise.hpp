// The predicted noise of attention's forward: o and lse of one query row. docs/numerics.md, tags F1 to F7.
#pragma once

#include <optional>

#include "reference/noise/score_range.hpp"

namespace attnspec::reference {

struct AttentionNoise {
  RowErrors errors;  // of o, before its rounding to the output format; the rows it sums are the values
  RowNoise o;        // [dv]
  RowNoise lse;      // one element
  std::optional<WeightRange> range = {};  // where scores err too much for first order
};

/// row: `attend` on the same inputs. A row that sees no key has no noise: o = 0 and lse = -infinity are exact.
AttentionNoise attention_noise(const Arithmetic& arithmetic, const RowInputs& in, const AttendedRow& row);

}  // namespace attnspec::reference
