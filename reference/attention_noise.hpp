// The predicted noise of attention's forward: o and lse of one query row. docs/numerics.md, tags F1 to F5.
#pragma once

#include "reference/noise.hpp"

namespace attnspec::reference {

/// What one query row was computed from: q [dk], k [T, dk], v [T, dv] and the key ranges it sees.
struct RowInputs {
  Row q;
  Rows k;
  Rows v;
  std::span<const KeyRange> visible;
  double scale;
};

struct AttentionNoise {
  RowNoise o;    // [dv]
  RowNoise lse;  // one element
};

/// row: `attend` on the same inputs. A row that sees no key has no noise: o = 0 and lse = -infinity are exact.
AttentionNoise attention_noise(const Profile& profile, const RowInputs& in, const AttendedRow& row);

/// Covariance of the same errors of o, [dv, dv]; its diagonal is attention_noise(...).o.variance.
Matrix attention_covariance(const Profile& profile, const RowInputs& in, const AttendedRow& row);

}  // namespace attnspec::reference
