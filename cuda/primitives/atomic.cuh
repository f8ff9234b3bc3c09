// Atomic operations on global and shared memory. None orders other accesses; all but the last return the value before.
#pragma once

#include "cuda/primitives/qualifiers.cuh"
#ifndef __CUDACC__
#include "cuda/simulator/device.hpp"
#endif

namespace attnspec::cuda::inline ATTNSPEC_TARGET {

/// T: int, unsigned, unsigned long long or float.
template <class T>
__device__ __forceinline__ T atomic_add(T* address, T value) {
#ifdef __CUDACC__
  return atomicAdd(address, value);
#else
  return simulator::atomic_add(address, value);
#endif
}

/// T: int, unsigned or unsigned long long, as below.
template <class T>
__device__ __forceinline__ T atomic_max(T* address, T value) {
#ifdef __CUDACC__
  return atomicMax(address, value);
#else
  return simulator::atomic_max(address, value);
#endif
}

template <class T>
__device__ __forceinline__ T atomic_exchange(T* address, T value) {
#ifdef __CUDACC__
  return atomicExch(address, value);
#else
  return simulator::atomic_exchange(address, value);
#endif
}

/// Stores `desired` if `expected` is there.
template <class T>
__device__ __forceinline__ T atomic_compare_exchange(T* address, T expected, T desired) {
#ifdef __CUDACC__
  return atomicCAS(address, expected, desired);
#else
  return simulator::atomic_compare_exchange(address, expected, desired);
#endif
}

/// Adds to two neighbours in global memory, aligned to 8 bytes, at once or one after the other.
__device__ __forceinline__ void atomic_add_pair(float* address, float first, float second) {
#if defined(__CUDA_ARCH__) && __CUDA_ARCH__ >= 900
  asm volatile("red.global.add.v2.f32 [%0], {%1, %2};" ::"l"(address), "f"(first), "f"(second) : "memory");
#else
  atomic_add(address, first);
  atomic_add(address + 1, second);
#endif
}

}  // namespace attnspec::cuda::inline ATTNSPEC_TARGET
