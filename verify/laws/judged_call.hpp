// A call together with the rounding that the judge predicts of it: what laws within rounding compare.
#pragma once

#include <cstdint>
#include <map>
#include <string>
#include <vector>

#include "verify/cases/regimes.hpp"
#include "verify/judge/result.hpp"
#include "verify/run/calls/guarded_run.hpp"
#include "verify/run/kernel.hpp"

namespace attnspec::verify {

/// A row of an output, or a sum of rows, with its predicted rounding.
struct NoisyRow {
  Vector observed;
  Vector expected;                // from the selection, o and lse that the kernel stored
  Vector variance, worst, floor;  // as in RowNoise

  /// A sum begins without elements.
  NoisyRow& operator+=(const NoisyRow& other);
  /// How far each element may be from the exact one, [n].
  Vector bound() const;
};

struct NoisyOutput {
  RowsOf rows;
  std::map<Place, NoisyRow> values;  // of the rows that were judged
};

struct SelectedBlocks {
  std::vector<std::int32_t> blocks;  // ascending
  bool is_right;                     // one that a correct kernel may have made
};

/// What dk and dv of all keys of a sequence and kv head share; see ObservedKeySums.
struct KeySums {
  std::string dk, dv;
  std::int64_t sequence, head;
  Vector d_o, dk_variance, dv_variance;
};

struct JudgedCall {
  const Kernel& kernel;
  Case c;
  Inputs inputs;
  std::map<std::string, NoisyOutput> outputs = {};
  std::map<Place, SelectedBlocks> selection = {};  // empty where the kernel exports none
  std::vector<KeySums> key_sums = {};

  /// Those of an output that were judged.
  const std::map<Place, NoisyRow>& rows(const std::string& output) const;
};

/// Calls the kernel and predicts the rounding of every row. Values and selections that are wrong are no findings here;
/// result: what the kernel did to memory.
JudgedCall judged_call(const Kernel& kernel, const Case& c, Inputs inputs, CaseResult& result);

}  // namespace attnspec::verify
