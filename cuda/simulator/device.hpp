// What the primitives of cuda/primitives/ do when kernels run in the simulator: see there for what each function does.
// Every function is called straight from kernel code, for the running thread.
#pragma once

#include <cstddef>
#include <cstdint>

#include "cuda/primitives/shape.cuh"

namespace attnspec::cuda::simulator {

Index3 thread_index();
Index3 block_index();
Dim3 block_size();
Dim3 grid_size();

void sync_threads();
void sync_warp(std::uint32_t mask);
void barrier_sync(int barrier, int num_threads);
void barrier_arrive(int barrier, int num_threads);

/// From which lane a shuffle takes its value, told from the lane itself.
enum class ShuffleFrom { lane, below, above, flipped };
std::uint32_t shuffle(std::uint32_t value, ShuffleFrom from, int operand, std::uint32_t mask);
std::uint32_t ballot(bool predicate, std::uint32_t mask);

void* shared_object(const void* key, std::size_t bytes, std::size_t alignment);
void* dynamic_shared();
void load(void* to, const void* from, std::size_t bytes);
void store(void* to, const void* from, std::size_t bytes);

void cp_async(void* shared, const void* global, int bytes, int source_bytes);
void cp_async_commit();
void cp_async_wait(int groups_left);
void cp_async_wait_all();

/// For int, unsigned, unsigned long long and float.
template <class T>
T atomic_add(T* address, T value);
/// For int, unsigned and unsigned long long.
template <class T>
T atomic_max(T* address, T value);
template <class T>
T atomic_exchange(T* address, T value);
template <class T>
T atomic_compare_exchange(T* address, T expected, T desired);

void ldmatrix(std::uint32_t* fragments, int count, bool transposed, const void* row);
void mma_m16n8k16_bf16(float* c, const std::uint32_t* a, const std::uint32_t* b);
void mma_m16n8k16_fp16(float* c, const std::uint32_t* a, const std::uint32_t* b);

/// See SwizzledMatrix.
struct Swizzled {
  const void* first;
  int panel_bytes;
};
/// What a thread asks of its warpgroup.
struct Product {
  float* sums;  // [columns / 8, 4]
  int columns;
  bool adds, is_bf16;
  const std::uint32_t* a;  // [4]; nullptr: in shared memory
  Swizzled a_shared, b;
  bool b_as_it_is;
};
void wgmma(const Product& product);
void wgmma_fence();
void wgmma_commit();
void wgmma_wait(int groups_left);
void fence_async_proxy();

}  // namespace attnspec::cuda::simulator
