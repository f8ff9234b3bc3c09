// What joins the branches of NSA, each number in fp32 and rounded once, for 16-bit rows that are multiples of 16 bytes.
#pragma once

#include <cstdint>

#include "cuda/baseline/nsa.hpp"
#include "cuda/tensors.cuh"

namespace attnspec::cuda::inline ATTNSPEC_TARGET::nsa_tiles {

using baseline::kBranches;
using baseline::PerBranch;

/// Tensors [tokens, heads, features].
struct RowSizes {
  std::int64_t tokens, heads, features;
};

/// Whether their vectors of 8 numbers are: a multiple of 8 features, and fewer than 2^31 vectors.
bool is_for_vectors(const RowSizes&);

/// o = sum over the branches of gate times o_branch. Reads three tensors of these sizes, and writes one.
template <class T>
void combine_branches(const RowSizes&, Rows<const T> gates, const PerBranch<const T>& o_branches, Rows<T> o,
                      void* stream);

/// The gradients of what `combine_branches` read: of a branch's o, gate times d_o, and d_gates [tokens, heads, 3] =
/// <d_o, o_branch>. Reads four tensors of these sizes, and writes three.
template <class T>
void separate_branches(const RowSizes&, Rows<const T> gates, const PerBranch<const T>& o_branches, Rows<const T> d_o,
                       const PerBranch<T>& d_o_branches, Rows<T> d_gates, void* stream);

/// sum = the sum over the branches. Reads three tensors of these sizes, and writes one.
template <class T>
void add_branches(const RowSizes&, const PerBranch<const T>& branches, Rows<T> sum, void* stream);

}  // namespace attnspec::cuda::inline ATTNSPEC_TARGET::nsa_tiles
