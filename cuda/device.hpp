// Which GPUs this build can run kernels on.
#pragma once

#include <string>
#include <vector>

namespace attnspec::cuda {

struct Devices {
  std::vector<std::string> names;  // "NVIDIA H200, sm_90", one per GPU
  std::string why_none;            // why there are none, one line; empty when there are some
};

/// Asks the driver once. Never an error: without toolkit, driver or GPU there are none, and why_none says why.
Devices find_devices();

}  // namespace attnspec::cuda
