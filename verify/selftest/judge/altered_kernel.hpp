// Kernels with something done to their calls or outputs.
#pragma once

#include <functional>

#include "verify/kernels.hpp"

namespace attnspec::verify {

inline const Kernel& model_kernel() {
  static const Kernel kernel = find_kernel("model:moba");
  return kernel;
}

using DoCall = std::function<void(const AnyCall&)>;
/// What is done instead of a call; do_call: what the kernel does.
using Instead = std::function<void(const AnyCall& call, const DoCall& do_call)>;

inline void replace_calls(Kernel& kernel, bool is_backward, Instead instead) {
  kernel.call = [is_backward, instead, do_call = kernel.call](const AnyCall& call) {
    call.is_backward == is_backward ? instead(call, do_call) : do_call(call);
  };
}
inline void replace_forward(Kernel& kernel, Instead instead) { replace_calls(kernel, false, std::move(instead)); }
inline void replace_backward(Kernel& kernel, Instead instead) { replace_calls(kernel, true, std::move(instead)); }

/// The kernel, with something done to its outputs afterwards.
inline Kernel with_altered_outputs(Kernel kernel, const DoCall& after_forward, const DoCall& after_backward = {}) {
  for (const bool is_backward : {false, true}) {
    const DoCall& after = is_backward ? after_backward : after_forward;
    if (!after) continue;
    replace_calls(kernel, is_backward, [after](const AnyCall& call, const DoCall& do_call) {
      do_call(call);
      after(call);
    });
  }
  return kernel;
}
/// The model kernel likewise.
inline Kernel altered(const DoCall& after_forward, const DoCall& after_backward = {}) {
  return with_altered_outputs(model_kernel(), after_forward, after_backward);
}

}  // namespace attnspec::verify
