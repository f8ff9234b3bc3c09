// A call of any operator.
#pragma once

#include <cstddef>
#include <span>
#include <string_view>
#include <vector>

#include "reference/problem.hpp"
#include "verify/operators/operators.hpp"
#include "verify/operators/tensor_view.hpp"

namespace attnspec::verify {

/// One call of an operator: its forward, or its backward, which is given what the forward read and wrote. Its tensors
/// are those of the operator's page, in that order; tensors that a call does not have are absent. Sequences are packed.
struct AnyCall {
  Operator op;
  bool is_backward;
  const reference::MobaProblem& problem;  // that of NSA's operators is `nsa`
  const reference::NsaProblem& nsa;
  std::vector<TensorView> tensors{};
  SelectionView selection{};         // has no rows where the call has none
  std::span<std::byte> workspace{};  // as many bytes as the kernel asked for, holding anything

  /// The tensor of that name. Throws std::out_of_range where the operator has none.
  TensorView& operator[](std::string_view tensor);
  const TensorView& operator[](std::string_view tensor) const;

  const reference::AttentionProblem& attention() const { return is_nsa(op) ? nsa.attention : problem.attention; }
};

/// A call without any tensor. The problems must outlive it.
AnyCall blank_call(Operator op, bool is_backward, const reference::MobaProblem& problem,
                   const reference::NsaProblem& nsa);

}  // namespace attnspec::verify
