// What a pass is worth: whether a row of o would show a fault of its selection or mask. docs/numerics.md, tag D2.
#pragma once

#include <cstdint>
#include <optional>

#include "reference/attention.hpp"
#include "reference/noise/noise.hpp"
#include "verify/cases/random.hpp"

namespace attnspec::verify {

/// One fault of one row, of a block or key that is picked by chance.
struct ImaginedFault {
  bool shows = false;
  double smallest_weight =
      0;  // of a block or key with the same values, at which the fault begins to show; above 1: none
};

struct ImaginedFaults {
  std::optional<ImaginedFault> left_out;  // one that it sees is left out; nothing: it sees none
  std::optional<ImaginedFault> too_many;  // one that it must not see is attended, too; nothing: there is none
};

/// A fault shows if it moves o by more than any correct kernel may err, whichever way: |move| - |floor| above
/// row_limit(1) sqrt(trace).
///
/// in, row: what the row sees and what attend made of it, at least one key. noise of its o. num_keys of the sequence;
/// block in keys: at least num_keys where the operator has no blocks. Then, and where a row sees one block only, a key
/// takes the place of the block. index: of the row.
ImaginedFaults imagine_faults(const reference::RowInputs& in, const reference::AttendedRow& row,
                              const reference::RowNoise& noise, std::int64_t num_keys, std::int64_t block,
                              const Random& random, std::int64_t index);

}  // namespace attnspec::verify
