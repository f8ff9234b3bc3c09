#include "verify/operators/phi.hpp"

namespace attnspec::verify {

namespace {

using reference::Matrix;
using reference::Tensor;

/// The parameters of one set, [rows, columns].
Matrix of_set(const Tensor& tensor, std::int64_t set) { return tensor.rows(0, tensor.tokens, set); }

}  // namespace

PhiTensors<Tensor> zero_parameters(const reference::NsaProblem& problem, std::int64_t features) {
  const std::int64_t l = problem.compress_block, hidden = problem.hidden;
  const std::int64_t sets = problem.shared_phi ? 1 : problem.attention.kv_heads;
  const auto tensor = [&](bool exists, std::int64_t rows, std::int64_t columns) {
    return Tensor(exists ? rows : 0, sets, columns);
  };
  const bool linear = problem.phi == reference::Phi::linear, mlp = problem.phi == reference::Phi::mlp;
  return {tensor(linear || mlp, l, features), tensor(linear, l * features, features),
          tensor(mlp, l * features, hidden),  tensor(mlp, 1, hidden),
          tensor(mlp, hidden, features),      tensor(mlp, 1, features)};
}

reference::PhiHeads phi_heads(const PhiTensors<Tensor>& parameters) {
  reference::PhiHeads heads;
  for (std::int64_t set = 0; set < parameters.position.heads; ++set) {
    const auto vector = [&](const Tensor& tensor) {
      return tensor.tokens == 0 ? reference::Vector() : reference::Vector(tensor.row(0, set));
    };
    heads.push_back({of_set(parameters.position, set), of_set(parameters.w, set), of_set(parameters.w1, set),
                     vector(parameters.b1), of_set(parameters.w2, set), vector(parameters.b2)});
  }
  return heads;
}

}  // namespace attnspec::verify
