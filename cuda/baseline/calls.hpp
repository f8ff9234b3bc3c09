// What launchers of attention share: its sizes, from those of a call, and the rows that it reads and writes.
#pragma once

#include <cstdint>

#include "cuda/baseline/nsa.hpp"
#include "cuda/baseline/rows.hpp"
#include "cuda/calls.hpp"

namespace attnspec::cuda::inline ATTNSPEC_TARGET::baseline {

/// The sequences of a call, whose offsets it fills.
inline Sequences sequences_of(const AttnspecCall& call, const Offsets& offsets) {
  copy_offsets(call, offsets);
  return {offsets.q, offsets.k, call.num_sequences, call.causal != 0};
}

inline Attention attention_of(const AttnspecCall& call, const Sequences& sequences, const DLTensor& q,
                              const DLTensor& k, std::int64_t dv) {
  return {sequences,
          q.shape[0],
          k.shape[0],
          static_cast<int>(q.shape[1]),
          static_cast<int>(k.shape[1]),
          static_cast<int>(q.shape[2]),
          static_cast<int>(dv),
          static_cast<float>(call.scale)};
}

/// sequences: tokens as keys, compressed rows in the place of queries.
inline Compression compression_of(const AttnspecCall& call, const AttnspecNsaSizes& sizes, const Sequences& sequences,
                                  const DLTensor& tokens, const AttnspecPhi& phi) {
  Compression c{};
  c.sequences = sequences;
  c.num_rows = sizes.row_offsets[call.num_sequences];
  c.num_tokens = tokens.shape[0];
  c.block = sizes.compress_block;
  c.stride = sizes.compress_stride;
  c.kv_heads = static_cast<int>(tokens.shape[1]);
  c.features = static_cast<int>(tokens.shape[2]);
  c.sets = sizes.phi_kind == ATTNSPEC_PHI_MEAN ? 1 : static_cast<int>(phi.position.shape[1]);
  c.hidden = sizes.phi_kind == ATTNSPEC_PHI_MLP ? static_cast<int>(phi.w1.shape[2]) : 0;
  c.phi = sizes.phi_kind;
  c.activation = sizes.activation;
  return c;
}

template <class Number>
Phi<Number> parameters_of(const AttnspecPhi& phi) {
  return {rows_of<Number>(phi.position), rows_of<Number>(phi.w),  rows_of<Number>(phi.w1),
          rows_of<Number>(phi.b1),       rows_of<Number>(phi.w2), rows_of<Number>(phi.b2)};
}

/// A packed tensor in a workspace.
template <class T>
Rows<T> packed(T* data, std::int64_t heads, std::int64_t dim) {
  return {data, heads * dim, dim};
}

inline constexpr Blocks kAllKeys{{}, 0, 1, std::int64_t{1} << 60};

inline Blocks blocks_of(const DLTensor& selection, std::int64_t block) {
  return {rows_of<const std::int32_t>(selection), selection.shape[1], selection.shape[2], block};
}

template <class T, class Params>
void forward(const Params& p, const Blocks& blocks, const Attention& a) {
  attend<T>(a, blocks, rows_of<const T>(p.q), rows_of<const T>(p.k), rows_of<const T>(p.v), rows_of<T>(p.o),
            rows_of<float>(p.lse), p.call.stream);
}

template <class T, class Params>
BackwardRows<T> backward_rows(const Params& p) {
  const auto& f = *p.forward;
  return {rows_of<const T>(f.q), rows_of<const T>(f.k),       rows_of<const T>(f.v),
          rows_of<const T>(f.o), rows_of<const float>(f.lse), rows_of<const T>(p.d_o)};
}

template <class T, class Params>
void backward(const Params& p, const Blocks& blocks, const Attention& a) {
  attend_backward<T>(a, blocks, backward_rows<T>(p), rows_of<T>(p.dq), rows_of<T>(p.dk), rows_of<T>(p.dv),
                     p.forward->call.stream);
}

}  // namespace attnspec::cuda::inline ATTNSPEC_TARGET::baseline
