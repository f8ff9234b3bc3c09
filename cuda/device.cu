#include <cuda_runtime.h>

#include "cuda/device.hpp"

namespace attnspec::cuda {

Devices find_devices() {
  int count = 0;
  const cudaError_t status = cudaGetDeviceCount(&count);
  if (status != cudaSuccess) return {{}, std::string("no GPU: ") + cudaGetErrorString(status)};
  Devices devices;
  for (int device = 0; device < count; ++device) {
    cudaDeviceProp properties;
    if (cudaGetDeviceProperties(&properties, device) == cudaSuccess)
      devices.names.push_back(std::string(properties.name) + ", sm_" + std::to_string(properties.major) +
                              std::to_string(properties.minor));
  }
  if (devices.names.empty()) devices.why_none = "no GPU found";
  return devices;
}

}  // namespace attnspec::cuda
