#include "verify/operators/any_call.hpp"

#include "verify/operators/operator.hpp"

namespace attnspec::verify {

const TensorView& AnyCall::operator[](std::string_view tensor) const {
  return tensors.at(static_cast<std::size_t>(&tensor_of(op, tensor) - page_of(op).tensors.data()));
}
TensorView& AnyCall::operator[](std::string_view tensor) {
  return tensors.at(static_cast<std::size_t>(&tensor_of(op, tensor) - page_of(op).tensors.data()));
}

AnyCall blank_call(Operator op, bool is_backward, const reference::MobaProblem& problem,
                   const reference::NsaProblem& nsa) {
  return {op, is_backward, problem, nsa, std::vector<TensorView>(page_of(op).tensors.size())};
}

}  // namespace attnspec::verify
