// Launching a kernel: on the GPU, or in the simulator where the source was compiled for a CPU.
#pragma once

#include <cstddef>
#include <cstdint>
#include <cstring>
#include <type_traits>

#include "cuda/primitives/qualifiers.cuh"
#include "cuda/primitives/shape.cuh"
#ifdef __CUDACC__
#include <cuda_runtime.h>

#include <stdexcept>
#include <string>
#else
#include "cuda/simulator/grid.hpp"
#endif

namespace attnspec::cuda::inline ATTNSPEC_TARGET {

#ifdef __CUDACC__
/// Throws std::runtime_error with what CUDA says, if that is an error.
inline void require(cudaError_t status) {
  if (status != cudaSuccess) throw std::runtime_error(std::string("CUDA: ") + cudaGetErrorString(status));
}
#endif

/// Copies pageable host memory to the device, in order with what is in the stream; the host memory may go at once.
inline void copy_to_device(void* to, const void* from, std::size_t bytes, [[maybe_unused]] void* stream) {
#ifdef __CUDACC__
  require(cudaMemcpyAsync(to, from, bytes, cudaMemcpyHostToDevice, static_cast<cudaStream_t>(stream)));
#else
  std::memcpy(to, from, bytes);
#endif
}

/// Sets memory on the device to zero, in order with what is in the stream.
inline void clear_on_device(void* data, std::int64_t bytes, [[maybe_unused]] void* stream) {
#ifdef __CUDACC__
  require(cudaMemsetAsync(data, 0, static_cast<std::size_t>(bytes), static_cast<cudaStream_t>(stream)));
#else
  std::memset(data, 0, static_cast<std::size_t>(bytes));
#endif
}

/// Bytes of shared memory that the current device gives a thread block that asks for them; 0 without a device.
inline std::size_t max_shared_bytes() {
#ifdef __CUDACC__
  int device = 0, bytes = 0;
  const bool is_known = cudaGetDevice(&device) == cudaSuccess &&
                        cudaDeviceGetAttribute(&bytes, cudaDevAttrMaxSharedMemoryPerBlockOptin, device) == cudaSuccess;
  return is_known ? static_cast<std::size_t>(bytes) : 0;
#else
  return simulator::max_shared_bytes();
#endif
}

/// Multiprocessors of the current device. Throws std::runtime_error with what CUDA says.
inline int multiprocessors() {
#ifdef __CUDACC__
  int device = 0, count = 0;
  require(cudaGetDevice(&device));
  require(cudaDeviceGetAttribute(&count, cudaDevAttrMultiProcessorCount, device));
  return count;
#else
  return simulator::kMultiprocessors;
#endif
}

/// Whether the current device runs what is compiled for sm_90a, products of warpgroups: compute capability 9.0.
inline bool has_warpgroups() {
#ifdef __CUDACC__
  int device = 0, major = 0, minor = 0;
  return cudaGetDevice(&device) == cudaSuccess &&
         cudaDeviceGetAttribute(&major, cudaDevAttrComputeCapabilityMajor, device) == cudaSuccess &&
         cudaDeviceGetAttribute(&minor, cudaDevAttrComputeCapabilityMinor, device) == cudaSuccess && major == 9 &&
         minor == 0;
#else
  return simulator::has_warpgroups();
#endif
}

/// Launches a kernel in a stream (a cudaStream_t; of no meaning to the simulator, which returns when the kernel has
/// ended). Throws what is derived from std::runtime_error: simulator::KernelFaults, or what CUDA says of the launch.
template <class... Parameters>
void launch(void (*kernel)(Parameters...), const LaunchShape& shape, [[maybe_unused]] void* stream,
            const std::type_identity_t<Parameters>&... arguments) {
#ifdef __CUDACC__
  const auto dim3_of = [](const Dim3& size) {
    return dim3(static_cast<unsigned>(size.x), static_cast<unsigned>(size.y), static_cast<unsigned>(size.z));
  };
  if (shape.shared_bytes > 48 * 1024)  // more must be asked for
    require(cudaFuncSetAttribute(kernel, cudaFuncAttributeMaxDynamicSharedMemorySize,
                                 static_cast<int>(shape.shared_bytes)));
  kernel<<<dim3_of(shape.grid), dim3_of(shape.block), shape.shared_bytes, static_cast<cudaStream_t>(stream)>>>(
      arguments...);
  require(cudaGetLastError());
#else
  simulator::run(kernel, shape, arguments...);
#endif
}

}  // namespace attnspec::cuda::inline ATTNSPEC_TARGET
