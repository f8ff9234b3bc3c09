// Atomic operations on global and shared memory. All return the value before, and none orders other accesses.
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

}  // namespace attnspec::cuda::inline ATTNSPEC_TARGET
