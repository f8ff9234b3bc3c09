// The backward of attention to given blocks by query lists.
#pragma once

#include <cstdint>
#include <functional>

#include "cuda/baseline/rows.hpp"
#include "cuda/gathered_queries/query_lists.hpp"
#include "cuda/tensors.cuh"
#include "cuda/workspace.hpp"

namespace attnspec::cuda::inline ATTNSPEC_TARGET::gathered_queries {

using baseline::BackwardRows;

/// How dq is made: of parts that are merged, in an order of its own; added up with atomics, in any order, which takes
/// less memory and gives other bits every time; or not here, but by the caller, apart or from dS, which is kept for it.
enum class QueryGradients { merged, added, apart, from_scores };

/// The most features of keys and of values where dq is made by the caller.
inline constexpr int kMaxApartFeatures = 128;

/// dS = P (do v^T - delta) of every assignment of some key/value heads in 16 bits: [kv_count, assignments, group / 8,
/// keys, 8 heads]. Picks that are in no list have none.
struct ScoreGradients {
  std::uint16_t* numbers = nullptr;  // nullptr: they are not kept
  int kv_begin = 0, kv_count = 0;
  std::int64_t assignments = 0;  // of a head: queries * slots
  int octets = 0;                // heads of a group, in 8
  int keys = 0;                  // of a block, rounded up to a multiple of 16

  /// Where those of 8 heads of a assignment begin, [keys, 8].
  __host__ __device__ __forceinline__ std::int64_t place_of(int kv_head, std::int64_t assignment, int octet) const {
    return (((kv_head - kv_begin) * assignments + assignment) * octets + octet) * keys * 8;
  }
};

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
  float* deltas;                  // [num_queries, heads]: <do, o>
  float* dq_parts;                // dS k; see Problem::dq_parts_of
  std::int64_t* segment_offsets;  // [kv_heads * num_blocks + 1]
  float* segment_sums;            // dk and dv of the segments of long lists; see Segments
  std::uint16_t* scores;          // see ScoreGradients
};

/// Whether the kernels can do it, in 16 bits: dk and dv are multiples of 8 up to 256. Where dq is made by the caller
/// they are up to kMaxApartFeatures, and the heads of a group share their lists; dS is kept of groups that are
/// multiples of 8, where it is not much larger than q, k, v and o. Reads sizes only.
bool can_attend_backward(const BackwardProblem&);

/// The room of a backward; reads sizes only.
BackwardScratch take_backward_scratch(Workspace&, const BackwardProblem&);

/// Starts to make dq of some key/value heads from dS.
using MakeQueryGradients = std::function<void(const ScoreGradients&)>;

/// dq of each query unless the caller makes it, dk and dv of each key, T being bf16 or fp16; the lists are made first.
/// Rows are aligned to 16 bytes. The same bits every time, but those of dq where it is added up.
template <class T>
void attend_backward(const BackwardProblem&, const BackwardRows<T>&, const Gradients<T>&, const BackwardScratch&,
                     const MakeQueryGradients&, void* stream);

}  // namespace attnspec::cuda::inline ATTNSPEC_TARGET::gathered_queries
