// The gated sum of NSA's branches and its backward: o = sum_b g_b o_b; do_b = g_b do, dg_b = <do, o_b>; dq = sum_b
// dq_b. A thread owns 8 features of a row; in `separate_rows` a group of 8 lanes owns a row, of whose features a lane
// has 8 of every 64, so that <do, o_b> is summed in a fixed order.
#include <limits>

#include "cuda/nsa/gates.hpp"
#include "cuda/nsa/vectors.cuh"
#include "cuda/primitives/warp.cuh"

namespace attnspec::cuda::inline ATTNSPEC_TARGET::nsa_tiles {

namespace {

/// The sum over the branches, each times its gate if there are gates.
template <class T, bool is_gated>
__global__ void sum_branches(VectorGrid grid, Rows<const T> gates, PerBranch<const T> branches, Rows<T> to) {
  const auto [token, h, d] = grid.place();
  if (token >= grid.rows) return;
  Numbers sum = {};
#pragma unroll
  for (int b = 0; b < kBranches; ++b) {
    Numbers numbers;
    load_vector(numbers, branches.branch[b].at(token, h) + d);
    add_vector(sum, numbers, is_gated ? to_float(gates.at(token, h)[b]) : 1);
  }
  store_vector(to.at(token, h) + d, sum);
}

constexpr int kRowLanes = 8, kRowColumns = kRowLanes * kVector;

/// grid: vectors of [tokens, heads, kRowColumns], a thread for each.
template <class T>
__global__ void separate_rows(VectorGrid grid, int features, Rows<const T> gates, PerBranch<const T> o_branches,
                              Rows<const T> d_o, PerBranch<T> d_o_branches, Rows<T> d_gates) {
  const auto [token, h, first] = grid.place();
  const bool is_there = token < grid.rows;
  float products[kBranches] = {};
  for (int d = first; is_there && d < features; d += kRowColumns) {
    Numbers gradient;
    load_vector(gradient, d_o.at(token, h) + d);
#pragma unroll
    for (int b = 0; b < kBranches; ++b) {
      const float gate = to_float(gates.at(token, h)[b]);
      Numbers numbers, scaled;
      load_vector(numbers, o_branches.branch[b].at(token, h) + d);
#pragma unroll
      for (int n = 0; n < kVector; ++n) products[b] += gradient[n] * numbers[n], scaled[n] = gate * gradient[n];
      store_vector(d_o_branches.branch[b].at(token, h) + d, scaled);
    }
  }
#pragma unroll
  for (int b = 0; b < kBranches; ++b) {
    const float sum = sum_lanes<kRowLanes>(products[b]);
    if (is_there && first == 0) d_gates.at(token, h)[b] = from_float<T>(sum);
  }
}

}  // namespace

bool is_for_vectors(const RowSizes& s) {
  const std::int64_t vectors = s.heads * (s.features + kRowColumns) / kVector;  // of a token, in any of the kernels
  return s.features % kVector == 0 && s.tokens < std::numeric_limits<std::int32_t>::max() / vectors - kVectorThreads;
}

template <class T>
void combine_branches(const RowSizes& s, Rows<const T> gates, const PerBranch<const T>& o_branches, Rows<T> o,
                      void* stream) {
  launch_vectors(sum_branches<T, true>, {s.tokens, s.heads, s.features}, stream, gates, o_branches, o);
}

template <class T>
void separate_branches(const RowSizes& s, Rows<const T> gates, const PerBranch<const T>& o_branches, Rows<const T> d_o,
                       const PerBranch<T>& d_o_branches, Rows<T> d_gates, void* stream) {
  launch_vectors(separate_rows<T>, {s.tokens, s.heads, kRowColumns}, stream, static_cast<int>(s.features), gates,
                 o_branches, d_o, d_o_branches, d_gates);
}

template <class T>
void add_branches(const RowSizes& s, const PerBranch<const T>& branches, Rows<T> sum, void* stream) {
  launch_vectors(sum_branches<T, false>, {s.tokens, s.heads, s.features}, stream, {}, branches, sum);
}

#define ATTNSPEC_INSTANTIATE(T)                                                                                 \
  template void combine_branches<T>(const RowSizes&, Rows<const T>, const PerBranch<const T>&, Rows<T>, void*); \
  template void separate_branches<T>(const RowSizes&, Rows<const T>, const PerBranch<const T>&, Rows<const T>,  \
                                     const PerBranch<T>&, Rows<T>, void*);                                      \
  template void add_branches<T>(const RowSizes&, const PerBranch<const T>&, Rows<T>, void*);
ATTNSPEC_INSTANTIATE(bf16)
ATTNSPEC_INSTANTIATE(fp16)

}  // namespace attnspec::cuda::inline ATTNSPEC_TARGET::nsa_tiles
