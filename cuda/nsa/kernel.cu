// The kernel as the judge takes it: its declaration, its launchers, and what a call needs of a workspace.
#include <algorithm>
#include <cstdint>
#include <limits>
#include <vector>

#include "cuda/baseline/calls.hpp"
#include "cuda/baseline/nsa_calls.hpp"
#include "cuda/calls.hpp"
#include "cuda/kernel_list.hpp"
#include "cuda/nsa/compress.hpp"
#include "cuda/nsa/whole.hpp"

namespace attnspec::cuda::inline ATTNSPEC_TARGET::nsa_tiles {

namespace {

/// Whether a call of phi is for tiles: 16-bit numbers, rows of which are multiples of 16 bytes, and not too many of
/// them.
bool is_for_tiles(const AttnspecCall& call, const AttnspecNsaSizes& sizes, const DLTensor& tokens,
                  const AttnspecPhi& phi) {
  const std::int64_t heads = tokens.shape[1], features = tokens.shape[2];
  const std::int64_t hidden = sizes.phi_kind == ATTNSPEC_PHI_MLP ? phi.w1.shape[2] : 8;
  const std::int64_t sets = sizes.phi_kind == ATTNSPEC_PHI_MEAN ? 1 : phi.position.shape[1];
  if (tokens.dtype.bits != 16 || features % 8 != 0 || hidden % 8 != 0) return false;
  if (sizes.phi_kind != ATTNSPEC_PHI_MEAN && product_shared_bytes() > max_shared_bytes()) return false;
  if (heads > 65535 || sizes.compress_block % sizes.compress_stride != 0) return false;
  // vectors of 8 numbers of tokens, of compressed rows, and of weights, each of whose rows 8 threads may own
  constexpr std::int64_t kMax = std::numeric_limits<std::int32_t>::max() - 1024;
  const std::int64_t columns = std::max(features, hidden);
  return tokens.shape[0] <= kMax / (heads * features / 8) &&
         sizes.row_offsets[call.num_sequences] <= kMax / (heads * columns / 8) &&
         sizes.compress_block <= kMax / (sets * features * std::max<std::int64_t>(columns / 8, 8));
}

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
  const Compression c = baseline::compression_of(call, sizes, sequences, tokens, phi);
  const std::int64_t hidden = c.num_rows * c.kv_heads * c.hidden;
  const auto take = [&]<class Number>(Number, std::int64_t count) {
    return baseline::packed(workspace.take<Number>(count), c.kv_heads, c.hidden);
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
  compress<T>(p.compression, rows_of<const T>(tokens), baseline::parameters_of<const T>(phi), p.room, rows_of<T>(rows),
              call.stream);
}

template <class T>
void compress_backward(const AttnspecCall& call, const PhiCall<T>& p, const DLTensor& tokens, const AttnspecPhi& phi,
                       const DLTensor& d_rows, const DLTensor& d_tokens, const AttnspecPhi& d_phi) {
  copy_offsets(call, p.device_chunks, p.chunks.data());
  compress_backward<T>(p.compression, rows_of<const T>(tokens), baseline::parameters_of<const T>(phi), p.room,
                       rows_of<const T>(d_rows), rows_of<T>(d_tokens), baseline::parameters_of<T>(d_phi), call.stream);
}

/// A call of phi alone.
template <class T>
struct Layout {
  std::int64_t *rows, *tokens;  // offsets
  PhiCall<T> phi;
  std::int64_t bytes;
};

template <class T>
Layout<T> lay_out(const AttnspecNsaCompress& f, bool is_backward) {
  Workspace workspace(f.call.workspace);
  Layout<T> l{};
  l.rows = workspace.take<std::int64_t>(f.call.num_sequences + 1);
  l.tokens = workspace.take<std::int64_t>(f.call.num_sequences + 1);
  l.phi = lay_out_phi<T>(workspace, f.call, f.sizes, {l.rows, l.tokens, f.call.num_sequences}, f.tokens, f.phi,
                         is_backward);
  l.bytes = workspace.bytes();
  return l;
}

/// The layout of a call, whose offsets are then on the device.
template <class T>
Layout<T> start(const AttnspecNsaCompress& f, bool is_backward) {
  const Layout<T> l = lay_out<T>(f, is_backward);
  copy_offsets(f.call, l.rows, f.sizes.row_offsets);
  copy_offsets(f.call, l.tokens, f.call.k_offsets);
  return l;
}

bool is_for_tiles(const AttnspecNsaCompress& f) { return is_for_tiles(f.call, f.sizes, f.tokens, f.phi); }

void add_tensors(const AttnspecNsaCompress& f, Buffers& buffers) {
  buffers.add("tokens", f.tokens), add_phi("phi", f.phi, buffers);
  buffers.add("workspace", f.call.workspace, f.call.workspace_bytes);
}

const char* nsa_compress(const AttnspecNsaCompress* f) {
  if (!is_for_tiles(*f)) return baseline::nsa_compress(f);
  return reason_of([&] {
    Buffers buffers;
    add_tensors(*f, buffers);
    buffers.add("rows", f->rows);
    with_16_bits(f->tokens, [&](auto zero) {
      compress(f->call, start<decltype(zero)>(*f, false).phi, f->tokens, f->phi, f->rows);
    });
  });
}

const char* nsa_compress_backward(const AttnspecNsaCompressBackward* b) {
  const AttnspecNsaCompress& f = *b->forward;
  if (!is_for_tiles(f)) return baseline::nsa_compress_backward(b);
  return reason_of([&] {
    Buffers buffers;
    add_tensors(f, buffers);
    buffers.add("d_rows", b->d_rows), buffers.add("d_tokens", b->d_tokens), add_phi("d_phi", b->d_phi, buffers);
    with_16_bits(f.tokens, [&](auto zero) {
      compress_backward(f.call, start<decltype(zero)>(f, true).phi, f.tokens, f.phi, b->d_rows, b->d_tokens, b->d_phi);
    });
  });
}

PartKernels parts() { return {kernel(), warpgroup_tiles::kernel(), token_tiles::kernel(), warpgroup_tiles::kernel()}; }

std::int64_t workspace_bytes(std::uint32_t op, std::int32_t is_backward, const void* params) {
  if (op == ATTNSPEC_NSA) return nsa_bytes(*static_cast<const AttnspecNsa*>(params), parts(), is_backward != 0);
  AttnspecNsaCompress f = *static_cast<const AttnspecNsaCompress*>(params);
  if (!is_for_tiles(f)) return baseline::nsa_workspace_bytes(op, is_backward, params);
  f.call.workspace = nullptr;                       // there is none as yet
  return lay_out<bf16>(f, is_backward != 0).bytes;  // fp16 takes as much
}

AttnspecKernel declare() {
  AttnspecKernel kernel = named_kernel(
      "nsa_tiles", "NSA whole, of the kernels that are best at its parts; its compression on tensor cores");
  kernel.operators = ATTNSPEC_NSA_COMPRESS | ATTNSPEC_NSA;
  kernel.promises =
      ATTNSPEC_EXPORTS_SELECTION | ATTNSPEC_DETERMINISTIC | ATTNSPEC_ROW_INDEPENDENT | ATTNSPEC_BATCH_INVARIANT;
  kernel.workspace_bytes = workspace_bytes;
  kernel.nsa_compress = nsa_compress;
  kernel.nsa_compress_backward = nsa_compress_backward;
  kernel.nsa = [](const AttnspecNsa* p) { return nsa(p, parts()); };
  kernel.nsa_backward = [](const AttnspecNsaBackward* p) { return nsa_backward(p, parts()); };
  kernel.limits.dk.largest = kernel.limits.dv.largest = baseline::kMaxFeatures;
  return kernel;
}

}  // namespace

const AttnspecKernel& kernel() {
  static const AttnspecKernel declared = declare();
  return declared;
}

}  // namespace attnspec::cuda::inline ATTNSPEC_TARGET::nsa_tiles
