// What joins the branches of NSA, each number in fp32 and rounded once: o = sum_b g_b o_b; in the backward do_b = g_b
// do, dg_b = <do, o_b>, and dq = sum_b dq_b. A thread owns one number of what is written.
#include "cuda/baseline/nsa.hpp"
#include "cuda/baseline/visit.cuh"

namespace attnspec::cuda::inline ATTNSPEC_TARGET::baseline {

namespace {

template <class T>
__global__ void combine_rows(Attention a, Rows<const T> gates, PerBranch<const T> o_branches, Rows<T> o) {
  const std::int64_t number = global_thread();
  if (number >= a.num_queries * a.heads * a.dv) return;
  const auto [token, h, d] = place_of(number, a.heads, a.dv);
  float sum = 0;
  for (int b = 0; b < kBranches; ++b)
    sum += to_float(gates.at(token, h)[b]) * to_float(o_branches.branch[b].at(token, h)[d]);
  o.at(token, h)[d] = from_float<T>(sum);
}

template <class T>
__global__ void branch_gradient_rows(Attention a, int branch, Rows<const T> gates, Rows<const T> d_o,
                                     Rows<T> d_o_branch) {
  const std::int64_t number = global_thread();
  if (number >= a.num_queries * a.heads * a.dv) return;
  const auto [token, h, d] = place_of(number, a.heads, a.dv);
  d_o_branch.at(token, h)[d] = from_float<T>(to_float(gates.at(token, h)[branch]) * to_float(d_o.at(token, h)[d]));
}

template <class T>
__global__ void gate_gradient_rows(Attention a, PerBranch<const T> o_branches, Rows<const T> d_o, Rows<T> d_gates) {
  const std::int64_t number = global_thread();
  if (number >= a.num_queries * a.heads * kBranches) return;
  const auto [token, h, b] = place_of(number, a.heads, kBranches);
  d_gates.at(token, h)[b] = from_float<T>(dot(d_o.at(token, h), o_branches.branch[b].at(token, h), a.dv));
}

template <class T>
__global__ void add_rows(Attention a, PerBranch<const T> dq_branches, Rows<T> dq) {
  const std::int64_t number = global_thread();
  if (number >= a.num_queries * a.heads * a.dk) return;
  const auto [token, h, d] = place_of(number, a.heads, a.dk);
  float sum = 0;
  for (int b = 0; b < kBranches; ++b) sum += to_float(dq_branches.branch[b].at(token, h)[d]);
  dq.at(token, h)[d] = from_float<T>(sum);
}

}  // namespace

template <class T>
void combine_branches(const Attention& a, Rows<const T> gates, const PerBranch<const T>& o_branches, Rows<T> o,
                      void* stream) {
  launch_rows(combine_rows<T>, a.num_queries * a.heads * a.dv, stream, a, gates, o_branches, o);
}

template <class T>
void branch_gradient(const Attention& a, int branch, Rows<const T> gates, Rows<const T> d_o, Rows<T> d_o_branch,
                     void* stream) {
  launch_rows(branch_gradient_rows<T>, a.num_queries * a.heads * a.dv, stream, a, branch, gates, d_o, d_o_branch);
}

template <class T>
void gate_gradients(const Attention& a, const PerBranch<const T>& o_branches, Rows<const T> d_o, Rows<T> d_gates,
                    void* stream) {
  launch_rows(gate_gradient_rows<T>, a.num_queries * a.heads * kBranches, stream, a, o_branches, d_o, d_gates);
}

template <class T>
void add_branches(const Attention& a, const PerBranch<const T>& dq_branches, Rows<T> dq, void* stream) {
  launch_rows(add_rows<T>, a.num_queries * a.heads * a.dk, stream, a, dq_branches, dq);
}

#define ATTNSPEC_INSTANTIATE(T)                                                                                  \
  template void combine_branches<T>(const Attention&, Rows<const T>, const PerBranch<const T>&, Rows<T>, void*); \
  template void branch_gradient<T>(const Attention&, int, Rows<const T>, Rows<const T>, Rows<T>, void*);         \
  template void gate_gradients<T>(const Attention&, const PerBranch<const T>&, Rows<const T>, Rows<T>, void*);   \
  template void add_branches<T>(const Attention&, const PerBranch<const T>&, Rows<T>, void*);
ATTNSPEC_INSTANTIATE(bf16)
ATTNSPEC_INSTANTIATE(fp16)
ATTNSPEC_INSTANTIATE(float)

}  // namespace attnspec::cuda::inline ATTNSPEC_TARGET::baseline
