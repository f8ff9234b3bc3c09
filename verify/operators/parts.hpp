// Parts that several pages have.
#pragma once

#include <cstddef>
#include <initializer_list>
#include <string>
#include <utility>
#include <vector>

#include "verify/abi/kernel_abi.h"
#include "verify/operators/operator.hpp"

namespace attnspec::verify {

// ---- Keys ----

/// Keys that the cases of every operator have, but for an indexer, which has one key head.
inline const std::vector<std::string> kKeysOfAll{"lens",    "dk",   "dtype",   "layout", "regime",
                                                 "numbers", "seed", "session", "law"};
inline const std::vector<std::string> kKeysOfKvHeads{"kv_heads"};
/// Of operators with queries; of those that attend; of those with phi; of those with importance.
inline const std::vector<std::string> kKeysOfQueries{"q_lens", "heads", "sample"};
inline const std::vector<std::string> kKeysOfValues{"dv", "scale"};
inline const std::vector<std::string> kKeysOfPhi{"compress_block", "compress_stride", "phi",
                                                 "activation",     "hidden",          "shared_phi"};
inline const std::vector<std::string> kKeysOfImportance{"compress_block", "compress_stride", "block",
                                                        "top_n",          "initial_blocks",  "local_blocks"};

/// All of the lists, one after the other.
template <class T>
std::vector<T> joined(std::initializer_list<std::vector<T>> lists) {
  std::vector<T> all;
  for (const auto& list : lists) all.insert(all.end(), list.begin(), list.end());
  return all;
}
inline std::vector<std::string> keys(std::initializer_list<std::vector<std::string>> lists) {
  return joined<std::string>(lists);
}
inline std::vector<TensorInfo> tensors(std::initializer_list<std::vector<TensorInfo>> lists) {
  return joined<TensorInfo>(lists);
}

// ---- Tensors ----

/// Queries, keys and values. Forward: the operator's struct of kernel_abi.h.
template <class Forward>
TensorInfo q_tensor() {
  return {.name = "q", .offset = offsetof(Forward, q), .input = &Inputs::q};
}
template <class Forward>
TensorInfo k_tensor(RowsOf rows = RowsOf::keys) {
  return {.name = "k", .rows = rows, .heads = Heads::kv, .offset = offsetof(Forward, k), .input = &Inputs::k};
}

/// Queries and keys of an indexer: heads of qi are index heads, and ki has one head.
template <class Forward>
std::vector<TensorInfo> index_tensors(std::size_t keys_offset, const std::string& keys = "ki",
                                      RowsOf rows = RowsOf::keys) {
  return {{.name = "qi", .offset = offsetof(Forward, qi), .input = &Inputs::q},
          {.name = keys, .rows = rows, .heads = Heads::kv, .offset = keys_offset, .input = &Inputs::k}};
}

/// A selection that the forward writes, per head.
inline TensorInfo written_selection(std::size_t offset, Heads heads, InBackward in_backward = InBackward::read) {
  return {.name = "selection",
          .role = Role::output,
          .heads = heads,
          .dim = Dim::slots,
          .format = Stored::blocks,
          .offset = offset,
          .in_backward = in_backward};
}

/// The tensors of an operator that makes o and lse of q, k and v. rows: of k and v.
template <class Forward, class Backward>
std::vector<TensorInfo> attention_tensors(RowsOf rows = RowsOf::keys) {
  return {
      q_tensor<Forward>(),
      k_tensor<Forward>(rows),
      {.name = "v",
       .rows = rows,
       .heads = Heads::kv,
       .dim = Dim::dv,
       .offset = offsetof(Forward, v),
       .input = &Inputs::v},
      {.name = "o",
       .role = Role::output,
       .dim = Dim::dv,
       .format = Stored::as_output,
       .offset = offsetof(Forward, o),
       .degrees = {.v = 1}},
      {.name = "lse", .role = Role::output, .dim = Dim::one, .format = Stored::fp32, .offset = offsetof(Forward, lse)},
      {.name = "d_o",
       .role = Role::given_gradient,
       .dim = Dim::dv,
       .offset = offsetof(Backward, d_o),
       .input = &Inputs::d_o},
      {.name = "dq",
       .role = Role::gradient,
       .format = Stored::as_output,
       .offset = offsetof(Backward, dq),
       .input = &Inputs::q,
       .degrees = {.k = 1, .v = 1, .gradient = 1},
       .follows_from_stored = true},
      {.name = "dk",
       .role = Role::gradient,
       .rows = rows,
       .heads = Heads::kv,
       .format = Stored::as_output,
       .offset = offsetof(Backward, dk),
       .input = &Inputs::k,
       .degrees = {.q = 1, .v = 1, .gradient = 1},
       .follows_from_stored = true},
      {.name = "dv",
       .role = Role::gradient,
       .rows = rows,
       .heads = Heads::kv,
       .dim = Dim::dv,
       .format = Stored::as_output,
       .offset = offsetof(Backward, dv),
       .input = &Inputs::v,
       .degrees = {.gradient = 1},
       .follows_from_stored = true}};
}

/// The six parameters of phi, or their gradients: field.position and so on. base: their common fields, the offset
/// of the AttnspecPhi that holds them among it.
inline std::vector<TensorInfo> phi_tensors(const std::string& field, const TensorInfo& base) {
  constexpr std::size_t kOffsets[] = {offsetof(AttnspecPhi, position), offsetof(AttnspecPhi, w),
                                      offsetof(AttnspecPhi, w1),       offsetof(AttnspecPhi, b1),
                                      offsetof(AttnspecPhi, w2),       offsetof(AttnspecPhi, b2)};
  std::vector<TensorInfo> all;
  for (const auto& [name, part] : kPhiParts<reference::Tensor>) {
    TensorInfo tensor = base;
    tensor.name = field + "." + name;
    tensor.rows = RowsOf::parameters;
    tensor.heads = Heads::kv;
    tensor.offset = base.offset + kOffsets[all.size()];
    tensor.part = part;
    all.push_back(std::move(tensor));
  }
  return all;
}

// ---- The C interface ----

template <class Params, const char* (*AttnspecKernel::*function)(const Params*)>
constexpr CFunction c_function_of() {
  return {sizeof(Params), [](const AttnspecKernel& kernel) { return kernel.*function != nullptr; },
          [](const AttnspecKernel& kernel, const void* params) noexcept {
            return (kernel.*function)(static_cast<const Params*>(params));
          }};
}
template <auto function>
constexpr CFunction c_function() {
  return []<class Params>(const char* (*AttnspecKernel::*)(const Params*)) {
    return c_function_of<Params, function>();
  }(function);
}

inline std::int32_t bit_of(reference::Gate gate) {
  return gate == reference::Gate::top_k    ? ATTNSPEC_GATE_TOP_K
         : gate == reference::Gate::window ? ATTNSPEC_GATE_WINDOW
                                           : ATTNSPEC_GATE_SINK;
}

/// block, top_k and gate of MoBA.
template <class Forward>
void set_moba_sizes(const AnyCall& call, const AttnspecNsaSizes&, void* forward) {
  auto& params = *static_cast<Forward*>(forward);
  params.block = call.problem.block;
  params.top_k = call.problem.top_k;
  params.gate = bit_of(call.problem.gate);
}

/// block and top_k of a selector with an indexer.
template <class Forward>
void set_index_sizes(const AnyCall& call, const AttnspecNsaSizes&, void* forward) {
  auto& params = *static_cast<Forward*>(forward);
  params.block = call.problem.block;
  params.top_k = call.problem.top_k;
}

/// The sizes of NSA.
template <class Forward>
void set_nsa_sizes(const AnyCall&, const AttnspecNsaSizes& sizes, void* forward) {
  static_cast<Forward*>(forward)->sizes = sizes;
}

/// window_size alone.
template <class Forward>
void set_window_size(const AnyCall& call, const AttnspecNsaSizes&, void* forward) {
  static_cast<Forward*>(forward)->window_size = call.nsa.window;
}

// ---- What the judge asks ----

/// The lengths of the rows of index keys.
inline reference::Vector row_norms(const reference::Tensor& keys) {
  return keys.rows(0, keys.tokens, 0).rowwise().norm();
}

/// The rows of these blocks, one block after the other. block: rows of each.
inline reference::Matrix rows_of_blocks(const reference::Rows& rows, const std::vector<Eigen::Index>& blocks,
                                        std::int64_t block) {
  reference::Matrix result(std::ssize(blocks) * block, rows.cols());
  for (std::size_t i = 0; i < blocks.size(); ++i)
    result.middleRows(static_cast<Eigen::Index>(i) * block, block) = rows.middleRows(blocks[i] * block, block);
  return result;
}

/// MoBA's selection.
inline RuleOfRow rule_of_moba(const Case& c, const reference::Arithmetic& arithmetic, const Inputs& inputs) {
  return moba_rule(arithmetic, problem_of(c), inputs.q, inputs.k, has_exact_scores(c));
}

/// Every key up to the query's own, or every key.
inline Reach reach_of_attention(const reference::MobaProblem& problem, const reference::NsaProblem&) {
  return causal_reach(problem.attention);
}

}  // namespace attnspec::verify
