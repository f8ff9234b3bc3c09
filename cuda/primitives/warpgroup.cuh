// Matrix products of a warpgroup: the 128 threads of four warps of which the first has a number divisible by four. They
// run beside the threads, which all do alike, on compute capability 9.0: sources that use them are compiled for sm_90a.
//
// A product reads shared memory another way than threads do, so whoever wrote there, with cp_async as well (after its
// wait), calls `fence_async_proxy` before the barrier that the warpgroup comes to. It uses registers without the
// compiler's knowledge: sums and A stay untouched from `wgmma_fence` until the `wgmma_wait` that names them.
#pragma once

#include <cstddef>
#include <cstdint>
#include <type_traits>

#include "cuda/primitives/numbers.cuh"
#ifndef __CUDACC__
#include "cuda/simulator/device.hpp"
#endif

namespace attnspec::cuda::inline ATTNSPEC_TARGET {

/// The threads of a warpgroup.
inline constexpr int kWarpgroupThreads = 128;

/// A matrix of 16-bit numbers in shared memory from some element on. It lies there in panels of 64 columns, each
/// [rows, 64] at a multiple of 1024 bytes, with the chunks of 16 bytes permuted: number c of row r is at c ^ (r % 8).
/// `first` is where the first element would be without that; its row is a multiple of 8 and its column one of 16.
struct SwizzledMatrix {
  const void* first;
  int panel_bytes;  // from a panel to the next
};

/// How B [16, n] is stored: as it is, n a whole number of panels, or as its transpose.
enum class StoredB { as_it_is, transposed };

#ifdef __CUDACC__

/// The "matrix descriptor" of the PTX documentation, for swizzling in 128 bytes.
__device__ __forceinline__ std::uint64_t descriptor(const SwizzledMatrix& matrix) {
  constexpr std::uint64_t kEightRows = 1024, kSwizzle128 = 1;
  const std::uint64_t first = __cvta_generic_to_shared(matrix.first);
  return first >> 4 | static_cast<std::uint64_t>(matrix.panel_bytes) >> 4 << 16 | kEightRows >> 4 << 32 |
         kSwizzle128 << 62;
}

/// Keeps registers from being touched on the other side of this.
template <std::size_t n>
__device__ __forceinline__ void pin(float (&registers)[n][4]) {
#pragma unroll
  for (std::size_t group = 0; group < n; ++group)
#pragma unroll
    for (int each = 0; each < 4; ++each) asm volatile("" : "+f"(registers[group][each])::"memory");
}
template <std::size_t n>
__device__ __forceinline__ void pin(std::uint32_t (&registers)[n][4]) {
#pragma unroll
  for (std::size_t group = 0; group < n; ++group)
#pragma unroll
    for (int each = 0; each < 4; ++each) asm volatile("" : "+r"(registers[group][each])::"memory");
}

#define ATTNSPEC_REGISTERS_64                                              \
  "%0, %1, %2, %3, %4, %5, %6, %7, %8, %9, %10, %11, %12, %13, %14, %15, " \
  "%16, %17, %18, %19, %20, %21, %22, %23, %24, %25, %26, %27, %28, %29, %30, %31"
#define ATTNSPEC_REGISTERS_128                                                       \
  "%0, %1, %2, %3, %4, %5, %6, %7, %8, %9, %10, %11, %12, %13, %14, %15, "           \
  "%16, %17, %18, %19, %20, %21, %22, %23, %24, %25, %26, %27, %28, %29, %30, %31, " \
  "%32, %33, %34, %35, %36, %37, %38, %39, %40, %41, %42, %43, %44, %45, %46, %47, " \
  "%48, %49, %50, %51, %52, %53, %54, %55, %56, %57, %58, %59, %60, %61, %62, %63"
#define ATTNSPEC_SUMS_8(j) "+f"(c[j][0]), "+f"(c[j][1]), "+f"(c[j][2]), "+f"(c[j][3])
#define ATTNSPEC_SUMS_32(j) ATTNSPEC_SUMS_8(j), ATTNSPEC_SUMS_8(j + 1), ATTNSPEC_SUMS_8(j + 2), ATTNSPEC_SUMS_8(j + 3)
#define ATTNSPEC_SUMS_64 ATTNSPEC_SUMS_32(0), ATTNSPEC_SUMS_32(4)
#define ATTNSPEC_SUMS_128 ATTNSPEC_SUMS_32(0), ATTNSPEC_SUMS_32(4), ATTNSPEC_SUMS_32(8), ATTNSPEC_SUMS_32(12)

// A in shared memory: its descriptor, that of B, whether C is added to, and whether B is stored as it is
#define ATTNSPEC_WGMMA_SHARED(COLUMNS, TYPE, A, B, ADDS, STORED)                                                    \
  asm volatile("{\n.reg .pred adds;\nsetp.ne.b32 adds, " ADDS ", 0;\nwgmma.mma_async.sync.aligned.m64n" #COLUMNS    \
               "k16.f32." TYPE "." TYPE " {" ATTNSPEC_REGISTERS_##COLUMNS "}, " A ", " B ", adds, 1, 1, 0, " STORED \
                                                                          ";\n}"                                    \
               : ATTNSPEC_SUMS_##COLUMNS                                                                            \
               : "l"(descriptor(a)), "l"(descriptor(b)), "r"(static_cast<int>(adds)), "n"(kStored)                  \
               : "memory")
#define ATTNSPEC_WGMMA_REGISTERS(COLUMNS, TYPE, A, B, ADDS, STORED)                                               \
  asm volatile(                                                                                                   \
      "{\n.reg .pred adds;\nsetp.ne.b32 adds, " ADDS ", 0;\nwgmma.mma_async.sync.aligned.m64n" #COLUMNS           \
      "k16.f32." TYPE "." TYPE " {" ATTNSPEC_REGISTERS_##COLUMNS "}, {" A "}, " B ", adds, 1, 1, " STORED ";\n}"  \
      : ATTNSPEC_SUMS_##COLUMNS                                                                                   \
      : "r"(a[0]), "r"(a[1]), "r"(a[2]), "r"(a[3]), "l"(descriptor(b)), "r"(static_cast<int>(adds)), "n"(kStored) \
      : "memory")

#endif

/// Starts C (+)= A B with A [64, 16] and B [16, n] in T (bf16 or fp16) and C [64, n] in fp32; `adds`: to what C is.
/// n: 64 or 128. Of the n / 8 groups of 8 columns of C, a warp has 16 rows, lanes as in mma_m16n8k16. Products that
/// are started one after the other add up in that order.
template <class T, StoredB stored, int groups>
__device__ __forceinline__ void wgmma(float (&c)[groups][4], const SwizzledMatrix& a, const SwizzledMatrix& b,
                                      bool adds) {
  static_assert(std::is_same_v<T, bf16> || std::is_same_v<T, fp16>);
  static_assert(groups == 8 || groups == 16);
#ifdef __CUDACC__
  constexpr int kStored = stored == StoredB::as_it_is;
  if constexpr (std::is_same_v<T, bf16> && groups == 8)
    ATTNSPEC_WGMMA_SHARED(64, "bf16", "%32", "%33", "%34", "%35");
  else if constexpr (std::is_same_v<T, bf16>)
    ATTNSPEC_WGMMA_SHARED(128, "bf16", "%64", "%65", "%66", "%67");
  else if constexpr (groups == 8)
    ATTNSPEC_WGMMA_SHARED(64, "f16", "%32", "%33", "%34", "%35");
  else
    ATTNSPEC_WGMMA_SHARED(128, "f16", "%64", "%65", "%66", "%67");
#else
  simulator::wgmma({&c[0][0],
                    8 * groups,
                    adds,
                    std::is_same_v<T, bf16>,
                    nullptr,
                    {a.first, a.panel_bytes},
                    {b.first, b.panel_bytes},
                    stored == StoredB::as_it_is});
#endif
}

/// The same with A in registers: a warp has 16 rows, lanes as in mma_m16n8k16.
template <class T, StoredB stored, int groups>
__device__ __forceinline__ void wgmma(float (&c)[groups][4], const std::uint32_t (&a)[4], const SwizzledMatrix& b,
                                      bool adds) {
  static_assert(std::is_same_v<T, bf16> || std::is_same_v<T, fp16>);
  static_assert(groups == 8 || groups == 16);
#ifdef __CUDACC__
  constexpr int kStored = stored == StoredB::as_it_is;
  if constexpr (std::is_same_v<T, bf16> && groups == 8)
    ATTNSPEC_WGMMA_REGISTERS(64, "bf16", "%32, %33, %34, %35", "%36", "%37", "%38");
  else if constexpr (std::is_same_v<T, bf16>)
    ATTNSPEC_WGMMA_REGISTERS(128, "bf16", "%64, %65, %66, %67", "%68", "%69", "%70");
  else if constexpr (groups == 8)
    ATTNSPEC_WGMMA_REGISTERS(64, "f16", "%32, %33, %34, %35", "%36", "%37", "%38");
  else
    ATTNSPEC_WGMMA_REGISTERS(128, "f16", "%64, %65, %66, %67", "%68", "%69", "%70");
#else
  simulator::wgmma({&c[0][0],
                    8 * groups,
                    adds,
                    std::is_same_v<T, bf16>,
                    a,
                    {},
                    {b.first, b.panel_bytes},
                    stored == StoredB::as_it_is});
#endif
}

#ifdef __CUDACC__
#undef ATTNSPEC_WGMMA_REGISTERS
#undef ATTNSPEC_WGMMA_SHARED
#undef ATTNSPEC_SUMS_128
#undef ATTNSPEC_SUMS_64
#undef ATTNSPEC_SUMS_32
#undef ATTNSPEC_SUMS_8
#undef ATTNSPEC_REGISTERS_128
#undef ATTNSPEC_REGISTERS_64
#endif

/// Before the first product, and before every one whose sums or A the threads have touched since the last: these.
template <class... Registers>
__device__ __forceinline__ void wgmma_fence([[maybe_unused]] Registers&... touched) {
#ifdef __CUDACC__
  (pin(touched), ...);
  asm volatile("wgmma.fence.sync.aligned;" ::: "memory");
#else
  simulator::wgmma_fence();
#endif
}

/// Makes a group of the warpgroup's products since the last group.
__device__ __forceinline__ void wgmma_commit() {
#ifdef __CUDACC__
  asm volatile("wgmma.commit_group.sync.aligned;" ::: "memory");
#else
  simulator::wgmma_commit();
#endif
}

/// Waits for all of the warpgroup's groups but the latest `groups_left`: these sums and A are the threads' again.
template <int groups_left, class... Registers>
__device__ __forceinline__ void wgmma_wait([[maybe_unused]] Registers&... done) {
#ifdef __CUDACC__
  asm volatile("wgmma.wait_group.sync.aligned %0;" ::"n"(groups_left) : "memory");
  (pin(done), ...);
#else
  simulator::wgmma_wait(groups_left);
#endif
}

/// Has registers computed before what comes next: a compiler that sees that a wait does not need them may put it first.
template <class... Registers>
__device__ __forceinline__ void finish([[maybe_unused]] Registers&... registers) {
#ifdef __CUDACC__
  (pin(registers), ...);
#endif
}

/// The same for a number that is not negative, where that does not keep the assembler from it: it leaves waits behind
/// what might be the thread's end.
__device__ __forceinline__ void finish_not_negative([[maybe_unused]] float x) {
#ifdef __CUDACC__
  asm volatile("{\n.reg .pred negative;\nsetp.lt.f32 negative, %0, 0f00000000;\n@negative exit;\n}" ::"f"(x)
               : "memory");
#endif
}

/// Lets products see what the thread has written to shared memory, after the next barrier.
__device__ __forceinline__ void fence_async_proxy() {
#ifdef __CUDACC__
  asm volatile("fence.proxy.async.shared::cta;" ::: "memory");
#else
  simulator::fence_async_proxy();
#endif
}

/// A warpgroup's threads give registers back until each has `left` (a multiple of 8), or take what others gave until
/// each has `wanted`. The block is launched with bounds on its registers.
template <int left>
__device__ __forceinline__ void give_registers() {
#ifdef __CUDACC__
  asm volatile("setmaxnreg.dec.sync.aligned.u32 %0;" ::"n"(left));
#endif
}
template <int wanted>
__device__ __forceinline__ void take_registers() {
#ifdef __CUDACC__
  asm volatile("setmaxnreg.inc.sync.aligned.u32 %0;" ::"n"(wanted));
#endif
}

}  // namespace attnspec::cuda::inline ATTNSPEC_TARGET
