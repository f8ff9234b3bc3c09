// The baseline: every stage with one thread for each row or number it writes, no shared memory, all of it in fp32.
#pragma once

#include <cstdint>
#include <limits>

#include "cuda/tensors.cuh"

namespace attnspec::cuda::inline ATTNSPEC_TARGET::baseline {

/// Features that a thread can keep of a row.
inline constexpr int kMaxFeatures = 256;

/// Which keys a query sees, whatever its blocks. A key is a token; or it is a compressed row, key j of a sequence made
/// of its tokens j stride .. j stride + tokens - 1, and seen where all of these are. Of those it sees the last ones.
struct Reach {
  const std::int64_t* token_offsets = nullptr;  // [count + 1], where keys are compressed rows
  std::int64_t tokens = 1, stride = 1;
  std::int64_t window = std::numeric_limits<std::int64_t>::max();  // keys
};

/// What all stages know of an attention.
struct Attention {
  Sequences sequences;
  std::int64_t num_queries, num_keys;  // of all sequences
  int heads, kv_heads, dk, dv;
  float scale;
  Reach reach = {};
};

/// The key blocks that queries attend to: [query tokens, heads, slots], -1 is none. Without data: all keys, as one
/// block.
struct Blocks {
  Rows<const std::int32_t> selected;
  std::int64_t heads, slots;
  std::int64_t tokens;  // in a block
};

/// How MoBA selects.
struct SelectionRule {
  std::int64_t block, top_k, slots;
  int gate;  // of ATTNSPEC_GATE_
};

/// o [query tokens, H, dv] and lse [query tokens, H, 1] of each query.
template <class T>
void attend(const Attention&, const Blocks&, Rows<const T> q, Rows<const T> k, Rows<const T> v, Rows<T> o,
            Rows<float> lse, void* stream);

/// What the backward reads.
template <class T>
struct BackwardRows {
  Rows<const T> q, k, v, o;
  Rows<const float> lse;
  Rows<const T> d_o;
};

/// dq [query tokens, H, dk] of each query, then dk and dv [key tokens, Hkv, dim] of each key.
template <class T>
void attend_backward(const Attention&, const Blocks&, const BackwardRows<T>&, Rows<T> dq, Rows<T> dk, Rows<T> dv,
                     void* stream);

/// Mean keys [blocks of all sequences, Hkv, dk]; sequence s has its blocks from mean_offsets[s] on.
template <class T>
void pool_keys(const Attention&, std::int64_t block, std::int64_t num_means, const std::int64_t* mean_offsets,
               Rows<const T> k, float* means, void* stream);

/// The blocks of each query, by its scores against mean keys.
template <class T>
void select_blocks(const Attention&, const SelectionRule&, const std::int64_t* mean_offsets, Rows<const T> q,
                   const float* means, Rows<std::int32_t> selection, void* stream);

}  // namespace attnspec::cuda::inline ATTNSPEC_TARGET::baseline
