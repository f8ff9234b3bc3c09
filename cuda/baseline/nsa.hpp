// The stages of NSA beside attention: phi, the selection by importance, and the gates.
#pragma once

#include <cstdint>

#include "cuda/baseline/rows.hpp"

namespace attnspec::cuda::inline ATTNSPEC_TARGET::baseline {

/// What phi knows of the rows that it makes.
struct Compression {
  Sequences sequences;           // its tokens as keys, and in the place of queries its compressed rows
  std::int64_t num_rows;         // compressed rows of all sequences
  std::int64_t num_tokens;       // of all sequences
  std::int64_t block, stride;    // tokens of a compression block, and from one to the next
  int kv_heads, features, sets;  // sets of parameters: kv_heads, or 1 for all of them
  int hidden;                    // features between the layers of the MLP
  int phi, activation;           // of ATTNSPEC_PHI_, and ATTNSPEC_RELU ...
};

/// The parameters of phi or their gradients: [rows, sets, columns] as the interface has them.
template <class T>
struct Phi {
  Rows<T> position, w, w1, b1, w2, b2;
};

/// rows [compressed rows, Hkv, features]. hidden [compressed rows, Hkv, hidden] is room for what the MLP has between
/// its layers.
template <class T>
void compress(const Compression&, Rows<const T> tokens, const Phi<const T>&, Rows<float> hidden, Rows<T> rows,
              void* stream);

/// d_tokens [tokens, Hkv, features], and the gradients of the parameters. hidden and d_hidden: room as for `compress`.
template <class T>
void compress_backward(const Compression&, Rows<const T> tokens, const Phi<const T>&, Rows<float> hidden,
                       Rows<float> d_hidden, Rows<const T> d_rows, Rows<T> d_tokens, const Phi<T>& d_phi, void* stream);

/// How NSA selects.
struct ImportanceRule {
  std::int64_t block;  // tokens
  std::int64_t top_n, initial_blocks, local_blocks;
  std::int64_t slots;
};

/// The blocks of each query and kv head, [query tokens, Hkv, slots], by what its attention to compressed rows k says of
/// them. importances: room for as many numbers.
template <class T>
void select_important_blocks(const Attention&, const ImportanceRule&, Rows<const T> q, Rows<const T> k,
                             Rows<const float> lse, float* importances, Rows<std::int32_t> selection, void* stream);

/// The branches of NSA, in the order of the gates of a row.
inline constexpr int kBranches = 3;

/// One tensor of each branch.
template <class T>
struct PerBranch {
  Rows<T> branch[kBranches];
};

/// o = sum over the branches of gate times o_branch, [query tokens, H, dv].
template <class T>
void combine_branches(const Attention&, Rows<const T> gates, const PerBranch<const T>& o_branches, Rows<T> o,
                      void* stream);

/// The gradient of a branch's o: gate times d_o.
template <class T>
void branch_gradient(const Attention&, int branch, Rows<const T> gates, Rows<const T> d_o, Rows<T> d_o_branch,
                     void* stream);

/// d_gates [query tokens, H, 3] = <d_o, o_branch>.
template <class T>
void gate_gradients(const Attention&, const PerBranch<const T>& o_branches, Rows<const T> d_o, Rows<T> d_gates,
                    void* stream);

/// dq = sum over the branches, [query tokens, H, dk].
template <class T>
void add_branches(const Attention&, const PerBranch<const T>& dq_branches, Rows<T> dq, void* stream);

}  // namespace attnspec::cuda::inline ATTNSPEC_TARGET::baseline
