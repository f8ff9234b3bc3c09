// C = A B in 16-bit numbers and fp32 sums, on tensor cores. Where the numbers of A and B are, and where those of C go,
// is told by what a product is given:
//   an operand lies in lines of vectors of 8 numbers. Lines run along the rows of C (those of A), along its columns
//   (those of B), or along the depth that is summed over; vectors run along the other. A may be encoded: a number is
//   added to all numbers of a column of its lines, and the sum rounded, before it enters.
// A thread block of 8 warps owns 128 x 128 numbers of C and goes through the depth in order, 64 at a time; a warp owns
// 32 x 64 of them, in registers. Shared memory: SharedProduct, 101 KB, of which two stages are copied while one is
// used.
#pragma once

#include <cstdint>
#include <iterator>

#include "cuda/fragments.cuh"
#include "cuda/primitives/launch.cuh"
#include "cuda/tensors.cuh"

namespace attnspec::cuda::inline ATTNSPEC_TARGET::nsa_tiles {

inline constexpr int kTile = 128, kDepth = 64, kStages = 3, kProductThreads = 256;
inline constexpr int kWarpRows = 32, kWarpColumns = 64, kM = kWarpRows / 16, kN = kWarpColumns / 16;
static_assert(kProductThreads == 2 * kTile &&
              kTile / kWarpRows * (kTile / kWarpColumns) == kProductThreads / kWarpLanes);

/// A batch of C [rows, columns], summed over `depth`: in slices of so much, a multiple of kDepth unless there is but
/// one, each a C of its own.
struct Extent {
  int rows, columns, depth, slice, batch;

  int slices() const { return depth <= slice ? 1 : (depth + slice - 1) / slice; }
};

/// A line of an operand: where it begins, and which places of it there are; none of what is no line. Other numbers
/// are 0.
struct alignas(16) Line {
  std::int64_t offset;
  int first_place, end_place;
};

/// 8 numbers of a line: where, from its begin, and at which place. Below 0: in no line.
struct Vector {
  std::int64_t offset;
  int place;
};

/// One stage of what a thread block copies: lines of A with the encoding of their columns, and lines of B.
template <class T>
struct ProductStage {
  T a[kTile * kDepth], b[kTile * kDepth], encoding[kTile];
};

template <class T>
struct SharedProduct {
  ProductStage<T> stages[kStages];
  Line a_lines[kTile], b_lines[kTile];  // of operands whose lines do not run along the depth
};

/// An operand's tile in shared memory.
template <class T, class Operand>
using OperandRows = SharedRows<T, Operand::kAlongDepth ? kTile : kDepth>;

/// Starts to copy 8 numbers, or zeros where `from` is nullptr.
template <class T>
__device__ __forceinline__ void copy_vector(T* to, const T* from) {
  cp_async<16>(to, from, from == nullptr ? 0 : 16);
}

/// Starts to copy an operand's numbers [side, side + kTile) at depths [depth, depth + kDepth).
template <class T, class Operand>
__device__ __forceinline__ void copy_operand(const Operand& operand, int batch, int side, int depth,
                                             const Line (&lines)[kTile], T* tile) {
  constexpr bool kAlong = Operand::kAlongDepth;
  constexpr int kVectors = (kAlong ? kTile : kDepth) / 8, kLines = kAlong ? kDepth : kTile;
  const OperandRows<T, Operand> to{tile};
  const int number = thread_number() % kVectors;
  const Vector vector = operand.vector((kAlong ? side : depth) / 8 + number);
#pragma unroll
  for (int first = 0; first < kLines; first += kProductThreads / kVectors) {
    const int n = first + thread_number() / kVectors;
    const Line line = kAlong ? operand.line(batch, depth + n) : lines[n];
    const bool is_there = line.first_place <= vector.place && vector.place < line.end_place;
    copy_vector(to.chunk(n, number), is_there ? operand.data() + line.offset + vector.offset : nullptr);
  }
}

/// What is added to fragments of A: for each 16 columns of its lines, as many as the warp uses, the two words of a
/// lane.
template <class A>
using Encoding = std::uint32_t[A::kAlongDepth ? kM : kDepth / 16][2];

template <class T, class A>
__device__ __forceinline__ void load_encoding(Encoding<A>& words, const T* encoding, int warp_row) {
  const int lane = lane_index();
#pragma unroll
  for (int i = 0; i < static_cast<int>(std::size(words)); ++i)
#pragma unroll
    for (int half = 0; half < 2; ++half) {
      const T* columns = encoding + 16 * i + 8 * half;
      if constexpr (A::kAlongDepth) {
        const std::uint32_t number = columns[warp_row + lane / 4].bits;
        words[i][half] = number << 16 | number;
      } else {
        words[i][half] = *reinterpret_cast<const std::uint32_t*>(columns + lane % 4 * 2);
      }
    }
}

/// sums += A B of one stage.
template <class T, class A, class B>
__device__ __forceinline__ void multiply_stage(Sums<kM, kN>& sums, ProductStage<T>& stage, int warp_row,
                                               int warp_column) {
  const OperandRows<T, A> a_rows{stage.a};
  const OperandRows<T, B> b_rows{stage.b};
  const auto left = A::kAlongDepth ? a_rows.beside(0, warp_row) : a_rows.down(warp_row, 0);
  const auto right = B::kAlongDepth ? b_rows.down(0, warp_column) : b_rows.beside(warp_column, 0);
  [[maybe_unused]] Encoding<A> encoding;
  if constexpr (A::kIsEncoded) load_encoding<T, A>(encoding, stage.encoding, warp_row);
  multiply<T, kDepth, kM, kN>(
      sums,
      [&](auto& a, int row, int at) {
        if constexpr (A::kAlongDepth)
          ldmatrix_transposed(a, left.at(at, row));
        else
          ldmatrix(a, left.at(row, at));
        if constexpr (A::kIsEncoded) {
#pragma unroll
          for (int number = 0; number < 4; ++number)
            a[number] = add_pairs<T>(a[number],
                                     A::kAlongDepth ? encoding[row / 16][number % 2] : encoding[at / 16][number / 2]);
        }
      },
      [&](auto& b, int at, int column) {
        if constexpr (B::kAlongDepth)
          ldmatrix_transposed(b, right.at(at, column));
        else
          ldmatrix(b, right.at(column, at));
      });
}

/// Output: row(batch, slice, row)(column, first, second) stores two numbers.
template <class T, class A, class B, class Output>
__global__ void __launch_bounds__(kProductThreads, 2) product(Extent extent, A a, B b, Output output) {
  auto& shared = *dynamic_shared<SharedProduct<T>>();

  // phase 1 - the tile, and its lines
  const int column_tiles = (extent.columns + kTile - 1) / kTile;
  const int row = block_index().x / column_tiles * kTile, column = block_index().x % column_tiles * kTile;
  const int batch = block_index().y, begin = block_index().z * extent.slice;
  const int end = extent.depth - begin < extent.slice ? extent.depth : begin + extent.slice;
  const int mine = thread_number() % kTile;
  if (thread_number() < kTile) {
    if constexpr (!A::kAlongDepth) shared.a_lines[mine] = a.line(batch, row + mine);
  } else {
    if constexpr (!B::kAlongDepth) shared.b_lines[mine] = b.line(batch, column + mine);
  }
  sync_threads();

  // phase 2 - the depth, two stages ahead
  const auto copy_stage = [&](int depth, int number) {
    ProductStage<T>& stage = shared.stages[number];
    if (depth < end) {
      copy_operand(a, batch, row, depth, shared.a_lines, stage.a);
      copy_operand(b, batch, column, depth, shared.b_lines, stage.b);
      if constexpr (A::kIsEncoded) {
        constexpr int kVectors = (A::kAlongDepth ? kTile : kDepth) / 8;
        const int n = thread_number();
        if (n < kVectors)
          copy_vector(stage.encoding + 8 * n, a.encoding(batch, (A::kAlongDepth ? row : depth) / 8 + n));
      }
    }
    cp_async_commit();
  };
  constexpr int kWarpsAcross = kTile / kWarpColumns;
  const int warp_row = warp_index() / kWarpsAcross * kWarpRows;
  const int warp_column = warp_index() % kWarpsAcross * kWarpColumns;
  Sums<kM, kN> sums;
  clear<kM, kN>(sums);
#pragma unroll
  for (int ahead = 0; ahead < kStages - 1; ++ahead) copy_stage(begin + ahead * kDepth, ahead);
  for (int depth = begin, stage = 0; depth < end; depth += kDepth) {
    cp_async_wait<kStages - 2>();
    sync_threads();  // this stage is there, and the one before is free
    copy_stage(depth + (kStages - 1) * kDepth, (stage + kStages - 1) % kStages);
    multiply_stage<T, A, B>(sums, shared.stages[stage], warp_row, warp_column);
    stage = (stage + 1) % kStages;
  }
  cp_async_wait_all();

  // phase 3 - the sums
#pragma unroll
  for (int i = 0; i < kM; ++i)
#pragma unroll
    for (int half = 0; half < 2; ++half) {
      const int r = row + warp_row + 16 * i + 8 * half + lane_index() / 4;
      if (r >= extent.rows) continue;
      const auto store = output.row(batch, block_index().z, r);
#pragma unroll
      for (int j = 0; j < 2 * kN; ++j) {
        const int c = column + warp_column + 8 * j + lane_index() % 4 * 2;
        if (c < extent.columns) store(c, sums[i][j][2 * half], sums[i][j][2 * half + 1]);
      }
    }
}

template <class T, class A, class B, class Output>
void launch_product(const Extent& extent, const A& a, const B& b, const Output& output, void* stream) {
  if (extent.rows == 0 || extent.batch == 0) return;
  const auto tiles = [](int numbers) { return (numbers + kTile - 1) / kTile; };
  launch(product<T, A, B, Output>,
         {{tiles(extent.rows) * tiles(extent.columns), extent.batch, extent.slices()},
          {kProductThreads},
          sizeof(SharedProduct<T>)},
         stream, extent, a, b, output);
}

}  // namespace attnspec::cuda::inline ATTNSPEC_TARGET::nsa_tiles
