#include "verify/operators/phi.hpp"

namespace attnspec::verify {

namespace {

using reference::Matrix;
using reference::Tensor;

/// The parameters of one set, [rows, columns].
Matrix of_set(const Tensor& tensor, std::int64_t set) { return tensor.rows(0, tensor.tokens, set); }

}  // namespace

PhiTensors<std::array<std::int64_t, 3>> parameter_shapes(const reference::NsaProblem& problem, std::int64_t features) {
  const std::int64_t l = problem.compress_block, hidden = problem.hidden;
  const std::int64_t sets = problem.shared_phi ? 1 : problem.attention.kv_heads;
  const auto shape = [&](bool exists, std::int64_t rows, std::int64_t columns) {
    return std::array{exists ? rows : 0, sets, columns};
  };
  const bool linear = problem.phi == reference::Phi::linear, mlp = problem.phi == reference::Phi::mlp;
  return {shape(linear || mlp, l, features), shape(linear, l * features, features),
          shape(mlp, l * features, hidden),  shape(mlp, 1, hidden),
          shape(mlp, hidden, features),      shape(mlp, 1, features)};
}

PhiTensors<Tensor> zero_parameters(const reference::NsaProblem& problem, std::int64_t features) {
  const auto shapes = parameter_shapes(problem, features);
  return map_parts(shapes, [](const auto& shape) { return Tensor(shape[0], shape[1], shape[2]); });
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
