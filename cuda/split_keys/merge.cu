// o and lse of a row from what was found in splits of its keys: with the largest score m_i to base 2, the sum l_i of
// the weights relative to it, and o_i likewise,
//   m = max_i m_i,  l = sum_i 2^(m_i - m) l_i,  o = sum_i 2^(m_i - m) o_i / l,  lse = (m + log2 l) / log2 e
// in fp32, in the order of the splits; a row without keys has o = 0 and lse = -infinity.
//
// Partials as in stages.hpp; o [query tokens, H, dv] with rows on multiples of 16 bytes, lse [query tokens, H, 1]. A
// warp owns a row: lane l has its features 4 l .. 4 l + 3, and those 128 behind. No shared memory.
#include <cmath>
#include <cstdint>

#include "cuda/primitives/launch.cuh"
#include "cuda/primitives/memory.cuh"
#include "cuda/primitives/numbers.cuh"
#include "cuda/primitives/warp.cuh"
#include "cuda/split_keys/stages.hpp"

namespace attnspec::cuda::inline ATTNSPEC_TARGET::split_keys {

namespace {

constexpr int kWarps = 4;
constexpr int kAtOnce = 8;  // splits whose o is loaded before it is added

/// Four neighbouring features, which are stored at once.
struct alignas(8) FeaturePairs {
  std::uint32_t first, second;
};

template <class T, int parts>  // of 128 features
__global__ void __launch_bounds__(kWarps* kWarpLanes)
    merge_rows(Problem p, Tokens tokens, Partials partials, Rows<T> o, Rows<float> lse) {
  // phase 1 - the warp's row
  const std::int64_t row = static_cast<std::int64_t>(block_index().x) * kWarps + warp_index();
  if (row >= std::int64_t{tokens.count} * p.heads) return;
  const std::int64_t token = tokens.first + row / p.heads;
  const int head = static_cast<int>(row % p.heads), lane = lane_index();

  // phase 2 - the weights of its splits: the lane's, and the 32 behind
  SplitTotals totals[2];
#pragma unroll
  for (int i = 0; i < 2; ++i) {
    const int split = lane + i * kWarpLanes;
    totals[i] = split < partials.splits ? partials.totals[row * partials.splits + split] : SplitTotals{-INFINITY, 0};
  }
  const int splits = count_bits(ballot(totals[0].sum > 0)) + count_bits(ballot(totals[1].sum > 0));
  const float largest = max_lanes(fmaxf(totals[0].largest, totals[1].largest));
  float weights[2] = {0, 0}, total = 0;
#pragma unroll
  for (int i = 0; i < 2; ++i)
    if (totals[i].sum > 0) weights[i] = exp2_approx(totals[i].largest - largest), total += weights[i] * totals[i].sum;
  total = sum_lanes(total);

  // phase 3 - the sum of its splits
  const float* from = partials.o + row * partials.splits * p.dv;
  float sums[parts][4] = {};
  for (int first = 0; first < splits; first += kAtOnce) {
    Words4 x[kAtOnce][parts];  // all loads at once; those of no split have the weight 0
#pragma unroll
    for (int n = 0; n < kAtOnce; ++n)
#pragma unroll
      for (int part = 0; part < parts; ++part) {
        const int split = first + n < splits ? first + n : splits - 1, feature = 4 * (lane + part * kWarpLanes);
        x[n][part] = load_128(from + std::int64_t{split} * p.dv + (feature < p.dv ? feature : 0));
      }
#pragma unroll
    for (int n = 0; n < kAtOnce; ++n) {
      const float weight = shuffle(first < kWarpLanes ? weights[0] : weights[1], (first + n) % kWarpLanes);
#pragma unroll
      for (int part = 0; part < parts; ++part)
#pragma unroll
        for (int word = 0; word < 4; ++word)
          sums[part][word] += weight * __builtin_bit_cast(float, x[n][part].words[word]);
    }
  }

  // phase 4 - the row
  const float normaliser = total > 0 ? 1 / total : 0;
#pragma unroll
  for (int part = 0; part < parts; ++part) {
    const int feature = 4 * (lane + part * kWarpLanes);
    if (feature >= p.dv) continue;
    *reinterpret_cast<FeaturePairs*>(o.at(token, head) + feature) = {
        pack<T>(sums[part][0] * normaliser, sums[part][1] * normaliser),
        pack<T>(sums[part][2] * normaliser, sums[part][3] * normaliser)};
  }
  if (lane == 0) *lse.at(token, head) = total > 0 ? (largest + log2f(total)) * 0.693147181f : -INFINITY;
}

}  // namespace

template <class T>
void merge_splits(const Problem& p, const Tokens& tokens, const Partials& partials, Rows<T> o, Rows<float> lse,
                  void* stream) {
  if (tokens.count == 0) return;
  const std::int64_t rows = std::int64_t{tokens.count} * p.heads;
  launch(p.dv <= 128 ? merge_rows<T, 1> : merge_rows<T, 2>,
         {{static_cast<int>((rows + kWarps - 1) / kWarps)}, {kWarps * kWarpLanes}}, stream, p, tokens, partials, o,
         lse);
}

#define ATTNSPEC_INSTANTIATE(T) \
  template void merge_splits<T>(const Problem&, const Tokens&, const Partials&, Rows<T>, Rows<float>, void*);
ATTNSPEC_INSTANTIATE(bf16)
ATTNSPEC_INSTANTIATE(fp16)

}  // namespace attnspec::cuda::inline ATTNSPEC_TARGET::split_keys
