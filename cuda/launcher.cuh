// What launchers share: number formats, errors, and the memory of a call.
#pragma once

#include <dlpack/dlpack.h>

#include <cstddef>
#include <cstdint>
#include <deque>
#include <exception>
#include <stdexcept>
#include <string>

#include "cuda/primitives/launch.cuh"
#include "cuda/primitives/numbers.cuh"
#ifndef __CUDACC__
#include "cuda/simulator/buffers.hpp"
#endif

namespace attnspec::cuda::inline ATTNSPEC_TARGET {

#ifdef __CUDACC__
inline constexpr DLDeviceType kDeviceType = kDLCUDA;
#else
inline constexpr DLDeviceType kDeviceType = kDLCPU;
#endif

/// Calls use(zero) with a zero of the tensor's type: bf16, fp16 or float.
template <class Use>
void with_dtype(const DLTensor& tensor, const Use& use) {
  if (tensor.dtype.code == kDLBfloat) return use(bf16{});
  if (tensor.dtype.bits == 16) return use(fp16{});
  use(0.f);
}

/// Runs a call; what it throws becomes the reason that the interface returns.
template <class Call>
const char* reason_of(const Call& call) {
  static thread_local std::string reason;
  try {
    call();
    return nullptr;
  } catch (const std::exception& error) {
    reason = error.what();
    return reason.c_str();
  }
}

/// Tells the simulator what a call may touch, for as long as this lives. A GPU's hardware knows pages only, so there it
/// does nothing.
class Buffers {
 public:
  void add([[maybe_unused]] const char* name, [[maybe_unused]] const void* data, [[maybe_unused]] std::int64_t bytes) {
#ifndef __CUDACC__
    if (bytes > 0) registered_.emplace_back(data, static_cast<std::size_t>(bytes), name);
#endif
  }
  /// From the first element of a tensor to its last.
  void add(const char* name, const DLTensor& t) {
    if (t.shape[0] == 0 || t.shape[1] == 0 || t.shape[2] == 0) return;
    const std::int64_t elements = (t.shape[0] - 1) * t.strides[0] + (t.shape[1] - 1) * t.strides[1] + t.shape[2];
    add(name, t.data, elements * (t.dtype.bits / 8));
  }

 private:
#ifndef __CUDACC__
  std::deque<simulator::RegisteredBuffer> registered_;
#endif
};

}  // namespace attnspec::cuda::inline ATTNSPEC_TARGET
