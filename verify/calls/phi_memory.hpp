// phi's parameters in memory that the harness owns.
#pragma once

#include <string>
#include <vector>

#include "verify/calls/guarded_run.hpp"
#include "verify/phi.hpp"
#include "verify/storage.hpp"

namespace attnspec::verify {

inline PhiTensors<TensorView> views(PhiTensors<HostTensor>& parameters) {
  return map_parts(parameters, [](HostTensor& tensor) { return tensor.view(); });
}

/// Adds the six tensors, named by the prefix and position, w, ...
inline void append_parts(std::vector<NamedTensor>& list, const std::string& prefix, PhiTensors<HostTensor>& phi) {
  for (const auto& [name, tensor] : kPhiParts<HostTensor>)
    list.push_back({prefix + name, phi.*tensor, RowsOf::parameters});
}

}  // namespace attnspec::verify
