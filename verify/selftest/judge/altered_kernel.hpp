// The model kernel with something done to its outputs.
#pragma once

#include <functional>

#include "verify/kernels.hpp"

namespace attnspec::verify {

inline const Kernel& model_kernel() {
  static const Kernel kernel = find_kernel("model:moba");
  return kernel;
}

/// The model kernel, with something done to its outputs afterwards.
inline Kernel altered(std::function<void(const ForwardCall&)> after_forward,
                      std::function<void(const BackwardCall&)> after_backward = {}) {
  Kernel kernel = model_kernel();
  kernel.forward = [=](const ForwardCall& call) {
    model_kernel().forward(call);
    if (after_forward) after_forward(call);
  };
  kernel.backward = [=](const BackwardCall& call) {
    model_kernel().backward(call);
    if (after_backward) after_backward(call);
  };
  return kernel;
}

}  // namespace attnspec::verify
