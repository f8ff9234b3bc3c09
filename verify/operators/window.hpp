// window: NSA's sliding window.
#pragma once

#include "verify/operators/parts.hpp"

namespace attnspec::verify {

inline OperatorPage window_page() {
  return {.name = "window",
          .summary = "q, k, v -> o, lse; d_o -> dq, dk, dv: NSA's sliding window",
          .keys = keys({kKeysOfAll, kKeysOfKvHeads, kKeysOfQueries, kKeysOfValues, {"window"}}),
          .is_nsa = true,
          .tensors = attention_tensors<AttnspecWindow, AttnspecWindowBackward>(),
          .reach = [](const reference::MobaProblem&, const reference::NsaProblem& nsa) { return window_reach(nsa); },
          .bit = ATTNSPEC_WINDOW,
          .forward = c_function<&AttnspecKernel::window>(),
          .backward = c_function<&AttnspecKernel::window_backward>(),
          .set_sizes = set_window_size<AttnspecWindow>};
}

}  // namespace attnspec::verify
