// Where a thread is, and what it waits for.
#pragma once

#include <cstdint>

#include "cuda/primitives/qualifiers.cuh"
#include "cuda/primitives/shape.cuh"
#ifndef __CUDACC__
#include "cuda/simulator/device.hpp"
#endif

namespace attnspec::cuda::inline ATTNSPEC_TARGET {

inline constexpr std::uint32_t kAllLanes = 0xffffffff;

__device__ __forceinline__ Index3 thread_index() {
#ifdef __CUDACC__
  return {static_cast<int>(threadIdx.x), static_cast<int>(threadIdx.y), static_cast<int>(threadIdx.z)};
#else
  return simulator::thread_index();
#endif
}

__device__ __forceinline__ Index3 block_index() {
#ifdef __CUDACC__
  return {static_cast<int>(blockIdx.x), static_cast<int>(blockIdx.y), static_cast<int>(blockIdx.z)};
#else
  return simulator::block_index();
#endif
}

__device__ __forceinline__ Dim3 block_size() {
#ifdef __CUDACC__
  return {static_cast<int>(blockDim.x), static_cast<int>(blockDim.y), static_cast<int>(blockDim.z)};
#else
  return simulator::block_size();
#endif
}

__device__ __forceinline__ Dim3 grid_size() {
#ifdef __CUDACC__
  return {static_cast<int>(gridDim.x), static_cast<int>(gridDim.y), static_cast<int>(gridDim.z)};
#else
  return simulator::grid_size();
#endif
}

/// The thread's number in its block: x runs fastest, as in warps.
__device__ __forceinline__ int thread_number() {
  const Index3 thread = thread_index();
  const Dim3 size = block_size();
  return thread.x + size.x * (thread.y + size.y * thread.z);
}

/// The thread's place in its warp.
__device__ __forceinline__ int lane_index() { return thread_number() % kWarpLanes; }

/// The warp's place in its block.
__device__ __forceinline__ int warp_index() { return thread_number() / kWarpLanes; }

/// Waits for all threads of the block, which must come from the same line; orders memory among them.
__device__ __forceinline__ void sync_threads() {
#ifdef __CUDACC__
  __syncthreads();
#else
  simulator::sync_threads();
#endif
}

/// Waits for the lanes of the mask; orders memory among them.
__device__ __forceinline__ void sync_warp(std::uint32_t mask = kAllLanes) {
#ifdef __CUDACC__
  __syncwarp(mask);
#else
  simulator::sync_warp(mask);
#endif
}

/// Waits at a barrier (1 to 15) until `num_threads`, a multiple of 32, have come to it, with `barrier_sync` or
/// `barrier_arrive`; what all of them did before is then done.
__device__ __forceinline__ void barrier_sync(int barrier, int num_threads) {
#ifdef __CUDACC__
  asm volatile("bar.sync %0, %1;" ::"r"(barrier), "r"(num_threads) : "memory");
#else
  simulator::barrier_sync(barrier, num_threads);
#endif
}

/// Comes to a barrier and does not wait.
__device__ __forceinline__ void barrier_arrive(int barrier, int num_threads) {
#ifdef __CUDACC__
  asm volatile("bar.arrive %0, %1;" ::"r"(barrier), "r"(num_threads) : "memory");
#else
  simulator::barrier_arrive(barrier, num_threads);
#endif
}

}  // namespace attnspec::cuda::inline ATTNSPEC_TARGET
