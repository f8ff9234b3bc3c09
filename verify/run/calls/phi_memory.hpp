// phi's parameters in memory that the harness owns.
#pragma once

#include <string>
#include <vector>

#include "verify/operators/phi.hpp"
#include "verify/run/calls/guarded_run.hpp"
#include "verify/run/storage.hpp"

namespace attnspec::verify {

/// What a kind of phi does not have, which holds no rows, is absent.
inline PhiTensors<TensorView> views(PhiTensors<HostTensor>& parameters) {
  return map_parts(parameters, [](HostTensor& tensor) {
    const TensorView view = tensor.view();
    return view.tokens == 0 ? absent_tensor(view.format) : view;
  });
}

/// Adds the six tensors, named "phi_k.position", "phi_k.w", ... after the field that holds them.
inline void append_parts(std::vector<NamedTensor>& list, const std::string& field, PhiTensors<HostTensor>& phi) {
  for (const auto& [name, tensor] : kPhiParts<HostTensor>)
    list.push_back({field + "." + name, phi.*tensor, RowsOf::parameters});
}

}  // namespace attnspec::verify
