// What a law compares: the rows of a source call with those of its follow_ups.
#pragma once

#include <cstdint>
#include <functional>
#include <optional>
#include <string>
#include <vector>

#include "verify/cases/case.hpp"
#include "verify/cases/regimes.hpp"
#include "verify/run/calls/guarded_run.hpp"
#include "verify/run/kernel.hpp"

namespace attnspec::verify {

/// Where a row is among the tensors of a case.
struct RowPlace {
  RowsOf of;
  std::int64_t heads;     // of its tensor
  std::int64_t sequence;  // 0 of parameters
  std::int64_t token;     // in its sequence
  std::int64_t head;
};

/// An output of a call: its numbers, and the format they are stored in.
struct Output {
  std::string name;
  RowsOf rows;
  Format format;
  reference::Tensor values;
};

/// What a kernel made of its inputs.
struct Outputs {
  std::vector<Output> tensors;
  reference::Selection selection;  // without rows where the kernel exports none

  /// Throws std::out_of_range where there is none.
  const Output& at(const std::string& name) const;
};

struct SourceCall {
  const Kernel& kernel;
  const Case& c;
  const Inputs& inputs;
  const Outputs& outputs;
};

/// Where a row of the source call is in a follow_up; none where it is not there.
using Move = std::function<std::optional<RowPlace>(const RowPlace&)>;

/// Every row stays where it is.
inline std::optional<RowPlace> stay(const RowPlace& row) { return row; }

/// Another call, and what the law says of it.
struct FollowUp {
  Case c;
  Inputs inputs;
  Move move;
  /// Whether the law speaks of a row of this output; "selection" is one. Asked of rows that the follow_up has.
  std::function<bool(const std::string& output, const RowPlace&)> speaks_of;
  /// The output is that of the source call times this, a power of two or its negative. Empty: 1.
  std::function<double(const std::string& output)> factor{};
  int times = 1;  // that it is called
};

/// The first row of each sequence in a tensor of so many rows, and their number. Parameters are one sequence.
std::vector<std::int64_t> row_offsets(const Case& c, RowsOf of, std::int64_t tokens);

/// Calls visit(place, packed token) for every row of a tensor.
template <class Visit>
void for_each_row(const Case& c, RowsOf of, std::int64_t tokens, std::int64_t heads, const Visit& visit) {
  const std::vector<std::int64_t> offsets = row_offsets(c, of, tokens);
  for (std::size_t s = 0; s + 1 < offsets.size(); ++s)
    for (std::int64_t token = offsets[s]; token < offsets[s + 1]; ++token)
      for (std::int64_t head = 0; head < heads; ++head)
        visit(RowPlace{of, heads, static_cast<std::int64_t>(s), token - offsets[s], head}, token);
}

/// A tensor of the inputs.
struct InputTensor {
  reference::Tensor Inputs::*tensor;
  RowsOf rows;
};
/// All of them, but for the parameters of phi.
std::vector<InputTensor> input_tensors(const Case& c);

/// Inputs of the pattern `normal`, whatever that of the case.
Inputs normal_inputs(const Case& c);

/// The inputs of a follow_up: every row of the source call's that is in it.
Inputs moved(const Case& from, const Inputs& inputs, const Case& to, const Move& move);

}  // namespace attnspec::verify
