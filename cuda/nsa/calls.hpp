// What launchers of NSA share: a call of phi with its room in a workspace.
#pragma once

#include <cstdint>
#include <vector>

#include "cuda/calls.hpp"
#include "cuda/nsa/compress.hpp"
#include "cuda/thread_per_row/calls.hpp"

namespace attnspec::cuda::inline ATTNSPEC_TARGET::nsa_tiles {

/// Whether a call of phi is for tiles: 16-bit numbers, rows of which are multiples of 16 bytes, and not too many of
/// them.
bool is_for_tiles(const AttnspecCall&, const AttnspecNsaSizes&, const DLTensor& tokens, const AttnspecPhi&);

/// A call of phi, or of its backward.
template <class T>
struct PhiCall {
  Compression compression;
  std::vector<std::int64_t> chunks;  // offsets (run_offsets)
  std::int64_t* device_chunks;
  Room<T> room;
};

/// sequences: on the device, tokens as keys and compressed rows in the place of queries.
template <class T>
PhiCall<T> lay_out_phi(Workspace& workspace, const AttnspecCall& call, const AttnspecNsaSizes& sizes,
                       const Sequences& sequences, const DLTensor& tokens, const AttnspecPhi& phi, bool is_backward) {
  const Compression c = thread_per_row::compression_of(call, sizes, sequences, tokens, phi);
  const std::int64_t hidden = c.num_rows * c.kv_heads * c.hidden;
  const auto take = [&]<class Number>(Number, std::int64_t count) {
    return thread_per_row::packed(workspace.take<Number>(count), c.kv_heads, c.hidden);
  };
  PhiCall<T> p{c,
               run_offsets(call.k_offsets, call.num_sequences, c.stride),
               workspace.take<std::int64_t>(call.num_sequences + 1),
               {}};
  p.room.starts = workspace.take<std::int64_t>(c.num_rows);
  p.room.chunk_offsets = p.device_chunks;
  p.room.num_chunks = p.chunks.back();
  p.room.activations = take(T{}, hidden);
  if (!is_backward) return p;
  p.room.hidden = take(0.f, hidden);
  p.room.d_hidden = take(T{}, hidden);
  p.room.partials = workspace.take<float>(num_partials(c));
  p.room.sums = workspace.take<float>(std::int64_t{c.sets} * (c.hidden > c.features ? c.hidden : c.features));
  return p;
}

template <class T>
void compress(const AttnspecCall& call, const PhiCall<T>& p, const DLTensor& tokens, const AttnspecPhi& phi,
              const DLTensor& rows) {
  compress<T>(p.compression, rows_of<const T>(tokens), thread_per_row::parameters_of<const T>(phi), p.room,
              rows_of<T>(rows), call.stream);
}

template <class T>
void compress_backward(const AttnspecCall& call, const PhiCall<T>& p, const DLTensor& tokens, const AttnspecPhi& phi,
                       const DLTensor& d_rows, const DLTensor& d_tokens, const AttnspecPhi& d_phi) {
  copy_offsets(call, p.device_chunks, p.chunks.data());
  compress_backward<T>(p.compression, rows_of<const T>(tokens), thread_per_row::parameters_of<const T>(phi), p.room,
                       rows_of<const T>(d_rows), rows_of<T>(d_tokens), thread_per_row::parameters_of<T>(d_phi),
                       call.stream);
}

}  // namespace attnspec::cuda::inline ATTNSPEC_TARGET::nsa_tiles
