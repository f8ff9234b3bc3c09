// The backward of attention to given blocks by query lists.
#pragma once

#include <cstdint>

#include "cuda/gathered_queries/query_lists.hpp"
#include "cuda/tensors.cuh"
#include "cuda/thread_per_row/rows.hpp"
#include "cuda/workspace.hpp"

namespace attnspec::cuda::inline ATTNSPEC_TARGET::gathered_queries {

using thread_per_row::BackwardRows;

/// How dq is made: of parts that are merged, in an order of its own; added up with atomics, in any order, which takes
/// less memory and gives other bits every time; or not here, but in a kernel of the caller's.
enum class QueryGradients { merged, added, apart };

/// The most features of keys and of values where dq is made apart.
inline constexpr int kMostApartFeatures = 128;

struct BackwardProblem {
  Selection selection;
  int heads, kv_heads, dk, dv;
  float scale;
  QueryGradients dq;
};

template <class T>
struct Gradients {
  Rows<T> dq, dk, dv;
};

/// What a backward keeps between its stages.
struct BackwardScratch {
  QueryLists lists;
  float* deltas;                // [num_queries, heads]: <do, o>
  float* dq_parts;              // dS k; see Problem::dq_parts_of
  std::int64_t* piece_offsets;  // [kv_heads * num_blocks + 1]
  float* piece_sums;            // dk and dv of the pieces of long lists; see Pieces
};

/// Whether the kernels can do it, in 16 bits: dk and dv are multiples of 8 up to 256; where dq is made apart up to
/// kMostApartFeatures, and the heads of a group share their lists. Reads sizes only.
bool can_attend_backward(const BackwardProblem&);

/// The room of a backward; reads sizes only.
BackwardScratch take_backward_scratch(Workspace&, const BackwardProblem&);

/// dq of each query unless it is made apart, dk and dv of each key, T being bf16 or fp16; the lists are made first.
/// Rows are aligned to 16 bytes. The same bits every time, but those of dq where it is added up.
template <class T>
void attend_backward(const BackwardProblem&, const BackwardRows<T>&, const Gradients<T>&, const BackwardScratch&,
                     void* stream);

}  // namespace attnspec::cuda::inline ATTNSPEC_TARGET::gathered_queries
