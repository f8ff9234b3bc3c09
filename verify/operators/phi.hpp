// phi's parameters as the harness and kernels hold them: six tensors, one set of parameters for each kv head or one for
// all of them.
#pragma once

#include <array>
#include <cstdint>
#include <type_traits>

#include "reference/nsa/nsa_compression.hpp"
#include "reference/tensor.hpp"

namespace attnspec::verify {

/// Parameters of phi or their gradients, as tensors of any kind, [rows, sets, columns]. Features are those of the rows
/// that phi compresses; a tensor that a kind of phi does not have holds no rows.
template <class T>
struct PhiTensors {
  T position;  // [l, sets, features], linear and mlp
  T w;         // [l features, sets, features], linear; row s features + f reads feature f of token s
  T w1;        // [l features, sets, hidden], mlp; rows likewise
  T b1;        // [1, sets, hidden], mlp
  T w2;        // [hidden, sets, features], mlp
  T b2;        // [1, sets, features], mlp
};

/// One of the six.
template <class T>
struct PhiPart {
  const char* name;
  T PhiTensors<T>::*tensor;
};
template <class T>
inline constexpr std::array<PhiPart<T>, 6> kPhiParts{{{"position", &PhiTensors<T>::position},
                                                      {"w", &PhiTensors<T>::w},
                                                      {"w1", &PhiTensors<T>::w1},
                                                      {"b1", &PhiTensors<T>::b1},
                                                      {"w2", &PhiTensors<T>::w2},
                                                      {"b2", &PhiTensors<T>::b2}}};

/// convert(tensor) of each of the six.
template <class T, class Convert>
auto map_parts(T& phi, const Convert& convert) {
  return PhiTensors<std::decay_t<decltype(convert(phi.w))>>{convert(phi.position), convert(phi.w),  convert(phi.w1),
                                                            convert(phi.b1),       convert(phi.w2), convert(phi.b2)};
}

/// [rows, sets, columns] of each parameter as the problem asks for it.
PhiTensors<std::array<std::int64_t, 3>> parameter_shapes(const reference::NsaProblem& problem, std::int64_t features);

/// All parameters zero, in the shapes that the problem asks for.
PhiTensors<reference::Tensor> zero_parameters(const reference::NsaProblem& problem, std::int64_t features);

/// As the reference takes them.
reference::PhiHeads phi_heads(const PhiTensors<reference::Tensor>& parameters);

}  // namespace attnspec::verify
