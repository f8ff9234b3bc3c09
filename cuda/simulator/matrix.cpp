// ldmatrix and mma.sync, with the fragments of the PTX documentation. In a fragment of 16-bit numbers, a register holds
// two that are neighbours in a row (of B: in a column), the first in its low half. Lane 4 g + t belongs to group g.
#include <cstring>

#include "cuda/simulator/block.hpp"
#include "cuda/simulator/device.hpp"
#include "cuda/simulator/formats.hpp"

namespace attnspec::cuda::simulator {

namespace {

constexpr std::uint32_t kAllLanes = 0xffffffff;

/// These instructions are for whole warps.
void require_whole_warp(Block& block, const Collective::Lanes& lanes) {
  if (lanes.mask != kAllLanes)
    block.report(FaultKind::divergent_barrier, block.thread(), [] { return std::string("the warp is not complete"); });
}

struct Ldmatrix {
  std::uint32_t* fragments;
  int count;  // of 8x8 matrices
  bool transposed;
  const void* row;  // lane 8 m + r: row r of matrix m
};

void act_ldmatrix(Block& block, const Collective::Lanes& lanes) {
  require_whole_warp(block, lanes);
  const int count = lanes.at<Ldmatrix>(0).count;
  const bool transposed = lanes.at<Ldmatrix>(0).transposed;
  for (int matrix = 0; matrix < count; ++matrix) {
    std::uint16_t rows[8][8];
    for (int row = 0; row < 8; ++row) {
      const int lane = 8 * matrix + row;
      const void* const from = lanes.at<Ldmatrix>(lane).row;
      block.access_shared(lanes.first_thread + lane, AccessKind::read, reinterpret_cast<std::uintptr_t>(from),
                          sizeof rows[row], sizeof rows[row]);
      std::memcpy(rows[row], from, sizeof rows[row]);
    }
    for (int lane = 0; lane < kWarpLanes; ++lane) {
      const int group = lane / 4, first = lane % 4 * 2;
      const std::uint32_t low = transposed ? rows[first][group] : rows[group][first];
      const std::uint32_t high = transposed ? rows[first + 1][group] : rows[group][first + 1];
      lanes.at<Ldmatrix>(lane).fragments[matrix] = high << 16 | low;
    }
  }
}
const Collective kLdmatrix{"ldmatrix", true, act_ldmatrix};

struct Mma {
  float* c;
  const std::uint32_t *a, *b;
};

/// A row of B or C, which the compiler keeps in vector registers.
using Row = float __attribute__((vector_size(8 * sizeof(float))));

/// C += A B, [16, 8] += [16, 16] [16, 8]: exact products, added one after the other in fp32.
template <float (*decode)(std::uint16_t)>
void act_mma(Block& block, const Collective::Lanes& lanes) {
  require_whole_warp(block, lanes);
  float a[16][16];
  Row b[16], c[16];
  for (int lane = 0; lane < kWarpLanes; ++lane) {
    const int group = lane / 4, first = lane % 4 * 2;
    const auto& mine = lanes.at<Mma>(lane);
    const auto low = [](std::uint32_t pair) { return decode(static_cast<std::uint16_t>(pair)); };
    const auto high = [](std::uint32_t pair) { return decode(static_cast<std::uint16_t>(pair >> 16)); };
    for (int part = 0; part < 4; ++part) {
      float* const to = &a[group + part % 2 * 8][first + part / 2 * 8];
      to[0] = low(mine.a[part]);
      to[1] = high(mine.a[part]);
    }
    for (int part = 0; part < 2; ++part) {
      b[first + part * 8][group] = low(mine.b[part]);
      b[first + part * 8 + 1][group] = high(mine.b[part]);
    }
    for (int part = 0; part < 4; ++part) c[group + part / 2 * 8][first + part % 2] = mine.c[part];
  }
  for (int row = 0; row < 16; ++row) {
    Row sums = c[row];
    for (int k = 0; k < 16; ++k) sums += a[row][k] * b[k];
    c[row] = sums;
  }
  for (int lane = 0; lane < kWarpLanes; ++lane)
    for (int part = 0; part < 4; ++part)
      lanes.at<Mma>(lane).c[part] = c[lane / 4 + part / 2 * 8][lane % 4 * 2 + part % 2];
}
const Collective kMmaBf16{"mma_m16n8k16", true, act_mma<float_of_bf16>};
const Collective kMmaFp16{"mma_m16n8k16", true, act_mma<float_of_fp16>};

}  // namespace

void ldmatrix(std::uint32_t* fragments, int count, bool transposed, const void* row) {
  Ldmatrix mine{fragments, count, transposed, row};
  Call()->meet(kLdmatrix, kAllLanes, &mine, __builtin_return_address(0));
}

void mma_m16n8k16_bf16(float* c, const std::uint32_t* a, const std::uint32_t* b) {
  Mma mine{c, a, b};
  Call()->meet(kMmaBf16, kAllLanes, &mine, __builtin_return_address(0));
}

void mma_m16n8k16_fp16(float* c, const std::uint32_t* a, const std::uint32_t* b) {
  Mma mine{c, a, b};
  Call()->meet(kMmaFp16, kAllLanes, &mine, __builtin_return_address(0));
}

}  // namespace attnspec::cuda::simulator
