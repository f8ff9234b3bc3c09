// o and lse of each query from its attention to single blocks: with lse_b and o_b of the block in slot b,
//   lse = log sum_b exp(lse_b),  o = sum_b exp(lse_b - lse) o_b
// in fp32, in the order of the slots; a query that sees none of its blocks has o = 0 and lse = -infinity.
//
// Partials as in forward.hpp, selection [query tokens, list heads, slots]; o [query tokens, H, dv] in any strides of an
// even number of elements. A thread block of 8 warps owns 8 queries of a head, a warp one of them: lane l has the four
// features of each 16 bytes l, l + 32 of the row. No shared memory.
#include <cmath>

#include "cuda/gathered_queries/forward.hpp"
#include "cuda/primitives/launch.cuh"
#include "cuda/primitives/memory.cuh"
#include "cuda/primitives/thread.cuh"
#include "cuda/primitives/warp.cuh"

namespace attnspec::cuda::inline ATTNSPEC_TARGET::gathered_queries {

namespace {

constexpr int kWarps = 8;
constexpr int kSlotsAtOnce = 8;  // whose partials are loaded before they are summed

/// The lse of the block in a slot; -infinity for a slot that is in no list.
__device__ __forceinline__ float lse_of_slot(const Selection& selection, const std::int32_t* selected, const float* lse,
                                             std::int64_t slot, std::int64_t visible) {
  if (slot >= selection.slots) return -INFINITY;
  const std::int64_t block = selected[slot];
  return block < 0 || block * selection.block >= visible ? -INFINITY : lse[slot];
}

template <class T, int parts>  // of 128 features
__global__ void __launch_bounds__(kWarps* kWarpLanes)
    merge_rows(Attention a, Selection selection, Heads heads, Partials partials, Rows<T> o, Rows<float> lse) {
  // phase 1 - the warp's row
  const int heads_per_list = a.heads / selection.heads, lane = lane_index();
  const std::int64_t token = static_cast<std::int64_t>(block_index().x) * kWarps + warp_index();
  if (token >= selection.num_queries) return;
  const int head = heads.first * heads_per_list + block_index().y;
  const std::int64_t row = block_index().y * selection.num_queries + token;  // of the partials
  const Sequence s = sequence_of(a.sequences, a.sequences.q_offsets, token);
  const std::int64_t visible = num_visible_keys(a.sequences, s, token - s.q_begin);
  const std::int32_t* selected = selection.selected.at(token, head / heads_per_list);
  const float* row_lse = partials.lse + row * selection.slots;

  // phase 2 - the largest lse
  float largest = -INFINITY;
  for (std::int64_t slot = lane; slot < selection.slots; slot += kWarpLanes)
    largest = fmaxf(largest, lse_of_slot(selection, selected, row_lse, slot, visible));
  largest = max_lanes(largest);

  // phase 3 - the sums, slot by slot
  const std::int64_t features = padded_features(a.dv);
  const float* row_o = partials.o + row * selection.slots * features;
  float sums[parts][4] = {}, total = 0;
  for (std::int64_t first = 0; first < selection.slots; first += kWarpLanes) {
    const float mine = lse_of_slot(selection, selected, row_lse, first + lane, visible);
    const float weight = mine == -INFINITY ? 0 : exp2_approx(mine - largest);
    for (int slot = 0; slot < kWarpLanes && first + slot < selection.slots; slot += kSlotsAtOnce) {
      Words4 x[kSlotsAtOnce][parts];  // all loads at once; those of no slot, or no list, are not used
#pragma unroll
      for (int n = 0; n < kSlotsAtOnce; ++n)
#pragma unroll
        for (int part = 0; part < parts; ++part) {
          const std::int64_t from = first + slot + n < selection.slots ? first + slot + n : first;
          const int feature = 4 * (lane + part * kWarpLanes);
          x[n][part] = load_128_constant(row_o + from * features + (feature < features ? feature : 0));
        }
#pragma unroll
      for (int n = 0; n < kSlotsAtOnce; ++n) {
        const float w = shuffle(weight, slot + n);  // 0 behind the last slot
        total += w;
#pragma unroll
        for (int part = 0; part < parts; ++part)
#pragma unroll
          for (int word = 0; word < 4; ++word)
            sums[part][word] += w > 0 ? w * __builtin_bit_cast(float, x[n][part].words[word]) : 0;
      }
    }
  }

  // phase 4 - the row
  const float normaliser = total > 0 ? 1 / total : 0;
#pragma unroll
  for (int part = 0; part < parts; ++part)
#pragma unroll
    for (int pair = 0; pair < 2; ++pair) {
      const int feature = (lane + part * kWarpLanes) / 4 * 16 + pair * 8 + lane % 4 * 2;
      if (feature >= a.dv) continue;
      *reinterpret_cast<std::uint32_t*>(o.at(token, head) + feature) =
          pack<T>(sums[part][2 * pair] * normaliser, sums[part][2 * pair + 1] * normaliser);
    }
  if (lane == 0) *lse.at(token, head) = total > 0 ? (largest + log2f(total)) * 0.693147181f : -INFINITY;
}

}  // namespace

template <class T>
void merge_partials(const Attention& a, const Selection& selection, const Heads& heads, const Partials& partials,
                    Rows<T> o, Rows<float> lse, void* stream) {
  if (selection.num_queries == 0) return;
  LaunchShape shape;
  shape.grid.x = static_cast<int>((selection.num_queries + kWarps - 1) / kWarps);
  shape.grid.y = heads.count * (a.heads / selection.heads);
  shape.block.x = kWarps * kWarpLanes;
  launch(a.dv <= 128 ? merge_rows<T, 1> : merge_rows<T, 2>, shape, stream, a, selection, heads, partials, o, lse);
}

#define ATTNSPEC_INSTANTIATE(T)                                                                               \
  template void merge_partials<T>(const Attention&, const Selection&, const Heads&, const Partials&, Rows<T>, \
                                  Rows<float>, void*);
ATTNSPEC_INSTANTIATE(bf16)
ATTNSPEC_INSTANTIATE(fp16)

}  // namespace attnspec::cuda::inline ATTNSPEC_TARGET::gathered_queries
