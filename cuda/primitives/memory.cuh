// Shared memory, wide accesses, and copies that run beside the threads.
#pragma once

#include <cstddef>
#include <cstdint>

#include "cuda/primitives/qualifiers.cuh"
#ifndef __CUDACC__
#include "cuda/simulator/device.hpp"
#endif

namespace attnspec::cuda::inline ATTNSPEC_TARGET {

/// The block's one object of a type in static shared memory, uninitialised. A kernel that wants several arrays there
/// puts them in a struct.
template <class T>
__device__ __forceinline__ T& static_shared() {
#ifdef __CUDACC__
  __shared__ T object;
  return object;
#else
  static constexpr char key = 0;
  return *static_cast<T*>(simulator::shared_object(&key, sizeof(T), alignof(T)));
#endif
}

/// The block's dynamic shared memory, `LaunchShape::shared_bytes` of it, aligned to 1024 bytes.
template <class T = std::byte>
__device__ __forceinline__ T* dynamic_shared() {
#ifdef __CUDACC__
  extern __shared__ __align__(1024) std::byte dynamic_shared_memory[];
  return reinterpret_cast<T*>(dynamic_shared_memory);
#else
  return static_cast<T*>(simulator::dynamic_shared());
#endif
}

/// 16 bytes, which are loaded and stored at once.
struct alignas(16) Words4 {
  std::uint32_t words[4];
};

/// 16 bytes of global or shared memory, aligned.
__device__ __forceinline__ Words4 load_128(const void* from) {
  Words4 result;
#ifdef __CUDACC__
  *reinterpret_cast<uint4*>(&result) = *static_cast<const uint4*>(from);
#else
  simulator::load(&result, from, sizeof result);
#endif
  return result;
}

/// 16 bytes of global memory that no thread writes while the kernel runs.
__device__ __forceinline__ Words4 load_128_constant(const void* from) {
  Words4 result;
#ifdef __CUDACC__
  *reinterpret_cast<uint4*>(&result) = __ldg(static_cast<const uint4*>(from));
#else
  simulator::load(&result, from, sizeof result);
#endif
  return result;
}

__device__ __forceinline__ void store_128(void* to, const Words4& value) {
#ifdef __CUDACC__
  *static_cast<uint4*>(to) = *reinterpret_cast<const uint4*>(&value);
#else
  simulator::store(to, &value, sizeof value);
#endif
}

/// An arithmetic value in global memory that no thread writes while the kernel runs.
template <class T>
__device__ __forceinline__ T load_constant(const T* from) {
#ifdef __CUDACC__
  return __ldg(from);
#else
  T result;
  simulator::load(&result, from, sizeof result);
  return result;
#endif
}

/// Starts to copy 4, 8 or 16 bytes from global to shared memory, both aligned to as much: the first `source_bytes` from
/// there, and zeros for the rest. They arrive when the same thread waits for the group.
template <int bytes>
__device__ __forceinline__ void cp_async(void* shared, const void* global, int source_bytes = bytes) {
  static_assert(bytes == 4 || bytes == 8 || bytes == 16);
#ifdef __CUDACC__
  const auto to = static_cast<std::uint32_t>(__cvta_generic_to_shared(shared));
  if constexpr (bytes == 16)  // past the L1 cache
    asm volatile("cp.async.cg.shared.global [%0], [%1], 16, %2;" ::"r"(to), "l"(global), "r"(source_bytes) : "memory");
  else
    asm volatile("cp.async.ca.shared.global [%0], [%1], %2, %3;" ::"r"(to), "l"(global), "n"(bytes), "r"(source_bytes)
                 : "memory");
#else
  simulator::cp_async(shared, global, bytes, source_bytes);
#endif
}

/// Makes a group of the thread's copies since the last group.
__device__ __forceinline__ void cp_async_commit() {
#ifdef __CUDACC__
  asm volatile("cp.async.commit_group;" ::: "memory");
#else
  simulator::cp_async_commit();
#endif
}

/// Waits for all of the thread's groups but the latest `groups_left`. Other threads see the bytes after a barrier.
template <int groups_left>
__device__ __forceinline__ void cp_async_wait() {
#ifdef __CUDACC__
  asm volatile("cp.async.wait_group %0;" ::"n"(groups_left) : "memory");
#else
  simulator::cp_async_wait(groups_left);
#endif
}

/// Waits for all of the thread's copies, grouped or not.
__device__ __forceinline__ void cp_async_wait_all() {
#ifdef __CUDACC__
  asm volatile("cp.async.wait_all;" ::: "memory");
#else
  simulator::cp_async_wait_all();
#endif
}

}  // namespace attnspec::cuda::inline ATTNSPEC_TARGET
