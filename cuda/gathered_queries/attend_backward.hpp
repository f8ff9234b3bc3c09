// The backward of attention to given blocks by query lists.
#pragma once

#include <cstdint>

#include "cuda/gathered_queries/query_lists.hpp"
#include "cuda/tensors.cuh"
#include "cuda/thread_per_row/rows.hpp"
#include "cuda/workspace.hpp"

namespace attnspec::cuda::inline ATTNSPEC_TARGET::gathered_queries {

using thread_per_row::BackwardRows;

struct BackwardProblem {
  Selection selection;
  int heads, kv_heads, dk, dv;
  float scale;
};

template <class T>
struct Gradients {
  Rows<T> dq, dk, dv;
};

/// What a backward keeps between its stages.
struct BackwardScratch {
  QueryLists lists;
  float* deltas;    // [num_queries, heads]: <do, o>
  float* dq_parts;  // [query heads of a chunk, picks, key tiles of a block, dk]: dS k
};

/// Whether the kernels can do it, in 16 bits: dk and dv are multiples of 8 up to 256. Reads sizes only.
bool can_attend_backward(const BackwardProblem&);

/// The room of a backward; reads sizes only.
BackwardScratch take_backward_scratch(Workspace&, const BackwardProblem&);

/// dq of each query, dk and dv of each key, T being bf16 or fp16; the lists are made first. Rows are aligned to 16
/// bytes. The same bits every time.
template <class T>
void attend_backward(const BackwardProblem&, const BackwardRows<T>&, const Gradients<T>&, const BackwardScratch&,
                     void* stream);

}  // namespace attnspec::cuda::inline ATTNSPEC_TARGET::gathered_queries
