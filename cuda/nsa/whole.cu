// The whole of NSA. Its parts are calls of the kernels that do them, one after the other in the stream and in the same
// workspace; the branches meet in the gated sum. What a branch hands on, in either direction, is stored in the format
// of the inputs.
#include <algorithm>
#include <cstddef>
#include <cstdint>
#include <stdexcept>
#include <vector>

#include "cuda/calls.hpp"
#include "cuda/kernel_list.hpp"
#include "cuda/nsa/gates.hpp"
#include "cuda/nsa/whole.hpp"

namespace attnspec::cuda::inline ATTNSPEC_TARGET {

namespace nsa_tiles {

namespace {

// ---- The parts of a call, as calls ----

/// no_queries: offsets of no queries, [num_sequences + 1].
AttnspecNsaCompress compression_of(const AttnspecNsa& p, const std::vector<std::int64_t>& no_queries,
                                   const DLTensor& tokens, const AttnspecPhi& phi, const DLTensor& rows) {
  auto part = part_of<AttnspecNsaCompress>(p);
  part.call.q_offsets = no_queries.data();
  part.sizes = p.sizes, part.tokens = tokens, part.phi = phi, part.rows = rows;
  return part;
}

AttnspecNsaCompressed compressed_of(const AttnspecNsa& p) {
  auto part = part_of<AttnspecNsaCompressed>(p);
  part.sizes = p.sizes, part.q = p.q, part.k = p.k_compressed, part.v = p.v_compressed, part.selection = p.selection;
  part.o = p.compressed.o, part.lse = p.compressed.lse;
  return part;
}

AttnspecSelected selected_of(const AttnspecNsa& p) {
  auto part = part_of<AttnspecSelected>(p);
  part.block = p.sizes.block, part.q = p.q, part.k = p.selected.k, part.v = p.selected.v, part.selection = p.selection;
  part.o = p.selected.o, part.lse = p.selected.lse;
  return part;
}

AttnspecWindow window_of(const AttnspecNsa& p) {
  auto part = part_of<AttnspecWindow>(p);
  part.window_size = p.sizes.window_size, part.q = p.q, part.k = p.window.k, part.v = p.window.v;
  part.o = p.window.o, part.lse = p.window.lse;
  return part;
}

/// The parts of a forward. Those that attend are in the order of the gates of a row.
struct Parts {
  std::vector<std::int64_t> no_queries;
  AttnspecNsaCompress keys, values;
  AttnspecNsaCompressed compressed;
  AttnspecSelected selected;
  AttnspecWindow window;

  explicit Parts(const AttnspecNsa& p)
      : no_queries(static_cast<std::size_t>(p.call.num_sequences + 1)),
        keys(compression_of(p, no_queries, p.compressed.k, p.phi_k, p.k_compressed)),
        values(compression_of(p, no_queries, p.compressed.v, p.phi_v, p.v_compressed)),
        compressed(compressed_of(p)),
        selected(selected_of(p)),
        window(window_of(p)) {}

  /// Bytes of workspace that each of them can do with.
  std::int64_t bytes(const PartKernels& kernels, bool is_backward) const {
    const auto of = [&](const AttnspecKernel& kernel, std::uint32_t op, const void* part) {
      return kernel.workspace_bytes(op, is_backward ? 1 : 0, part);
    };
    return std::max({of(kernels.compress, ATTNSPEC_NSA_COMPRESS, &keys),
                     of(kernels.compress, ATTNSPEC_NSA_COMPRESS, &values),
                     of(kernels.compressed, ATTNSPEC_NSA_COMPRESSED, &compressed),
                     of(kernels.selected, ATTNSPEC_SELECTED, &selected), of(kernels.window, ATTNSPEC_WINDOW, &window)});
  }
};

/// Throws std::runtime_error with the reason of a part that could not be done.
void require_done(const char* reason) {
  if (reason != nullptr) throw std::runtime_error(reason);
}

// ---- What joins them ----

template <class T>
PerBranch<const T> outputs_of(const AttnspecNsa& p) {
  return {rows_of<const T>(p.compressed.o), rows_of<const T>(p.selected.o), rows_of<const T>(p.window.o)};
}

RowSizes sizes_of(const DLTensor& rows) { return {rows.shape[0], rows.shape[1], rows.shape[2]}; }

/// Whether what joins the branches is for vectors; other calls are done whole by the baseline.
bool is_for_vectors(const AttnspecNsa& p) {
  return p.q.dtype.bits == 16 && is_for_vectors(sizes_of(p.q)) && is_for_vectors(sizes_of(p.compressed.o));
}

void add_gates(const AttnspecNsa& p, Buffers& buffers) {
  buffers.add("gates", p.gates), buffers.add("o", p.o), buffers.add("compressed.o", p.compressed.o);
  buffers.add("selected.o", p.selected.o), buffers.add("window.o", p.window.o);
}

/// A tensor in a workspace: [tokens, heads, features] of another, packed.
class PackedTensor {
 public:
  PackedTensor(const DLTensor& like, void* data)
      : strides_{like.shape[1] * like.shape[2], like.shape[2], 1}, tensor_(like) {
    tensor_.data = data, tensor_.byte_offset = 0;
  }

  DLTensor tensor() {
    tensor_.strides = strides_;
    return tensor_;
  }

 private:
  std::int64_t strides_[3];
  DLTensor tensor_;
};

/// What the backward keeps while its parts work: the gradient of each branch's o. Where it is no longer needed, there
/// is room for the next branch's dq.
struct BranchRoom {
  void* d_o[kBranches];
  std::int64_t bytes;

  BranchRoom(const AttnspecNsa& p, void* workspace) : d_o{}, bytes(0) {
    Workspace vectors(workspace);
    const std::int64_t features = std::max(p.q.shape[2], p.compressed.o.shape[2]);
    for (void*& branch : d_o) branch = vectors.take<std::uint16_t>(p.q.shape[0] * p.q.shape[1] * features);
    bytes = vectors.bytes();
  }
};

/// The call without the first bytes of its workspace.
AttnspecNsa behind(AttnspecNsa p, std::int64_t bytes) {
  if (p.call.workspace != nullptr) p.call.workspace = static_cast<std::byte*>(p.call.workspace) + bytes;
  p.call.workspace_bytes -= bytes;
  return p;
}

template <class Backward, class Forward>
Backward gradients_of(const Forward& forward, const DLTensor& d_o, const DLTensor& dq, const DLTensor& dk,
                      const DLTensor& dv) {
  return {sizeof(Backward), &forward, d_o, dq, dk, dv};
}

AttnspecNsaCompressBackward compression_gradients(const AttnspecNsaCompress& forward, const DLTensor& d_rows,
                                                  const DLTensor& d_tokens, const AttnspecPhi& d_phi) {
  return {sizeof(AttnspecNsaCompressBackward), &forward, d_rows, d_tokens, d_phi};
}

}  // namespace

const char* nsa(const AttnspecNsa* p, const PartKernels& kernels) {
  if (!is_for_vectors(*p)) return baseline::kernel().nsa(p);
  return reason_of([&] {
    const Parts parts(*p);
    require_done(kernels.compress.nsa_compress(&parts.keys));
    require_done(kernels.compress.nsa_compress(&parts.values));
    require_done(kernels.compressed.nsa_compressed(&parts.compressed));
    require_done(kernels.selected.selected(&parts.selected));
    require_done(kernels.window.window(&parts.window));
    Buffers buffers;
    add_gates(*p, buffers);
    with_16_bits(p->o, [&](auto zero) {
      using T = decltype(zero);
      combine_branches<T>(sizes_of(p->o), rows_of<const T>(p->gates), outputs_of<T>(*p), rows_of<T>(p->o),
                          p->call.stream);
    });
  });
}

const char* nsa_backward(const AttnspecNsaBackward* b, const PartKernels& kernels) {
  const AttnspecNsa& f = *b->forward;
  if (!is_for_vectors(f)) return baseline::kernel().nsa_backward(b);
  return reason_of([&] {
    const BranchRoom room(f, f.call.workspace);
    const Parts parts(behind(f, room.bytes));
    PackedTensor d_o[kBranches] = {{b->d_o, room.d_o[0]}, {b->d_o, room.d_o[1]}, {b->d_o, room.d_o[2]}};
    PackedTensor dq[kBranches - 1] = {{b->dq, room.d_o[0]}, {b->dq, room.d_o[1]}};  // the first goes to dq itself
    Buffers buffers;
    add_gates(f, buffers);
    buffers.add("d_o", b->d_o), buffers.add("d_gates", b->d_gates), buffers.add("dq", b->dq);
    buffers.add("workspace", f.call.workspace, f.call.workspace_bytes);
    with_16_bits(f.q, [&](auto zero) {
      using T = decltype(zero);
      separate_branches<T>(sizes_of(b->d_o), rows_of<const T>(f.gates), outputs_of<T>(f), rows_of<const T>(b->d_o),
                           {rows_of<T>(d_o[0].tensor()), rows_of<T>(d_o[1].tensor()), rows_of<T>(d_o[2].tensor())},
                           rows_of<T>(b->d_gates), f.call.stream);
    });
    const auto compressed = gradients_of<AttnspecNsaCompressedBackward>(parts.compressed, d_o[0].tensor(), b->dq,
                                                                        b->dk_compressed, b->dv_compressed);
    require_done(kernels.compressed.nsa_compressed_backward(&compressed));
    const auto selected = gradients_of<AttnspecSelectedBackward>(parts.selected, d_o[1].tensor(), dq[0].tensor(),
                                                                 b->d_selected.dk, b->d_selected.dv);
    require_done(kernels.selected.selected_backward(&selected));
    const auto window = gradients_of<AttnspecWindowBackward>(parts.window, d_o[2].tensor(), dq[1].tensor(),
                                                             b->d_window.dk, b->d_window.dv);
    require_done(kernels.window.window_backward(&window));
    with_16_bits(f.q, [&](auto zero) {
      using T = decltype(zero);
      add_branches<T>(sizes_of(b->dq),
                      {rows_of<const T>(b->dq), rows_of<const T>(dq[0].tensor()), rows_of<const T>(dq[1].tensor())},
                      rows_of<T>(b->dq), f.call.stream);
    });
    const auto keys = compression_gradients(parts.keys, b->dk_compressed, b->d_compressed.dk, b->d_phi_k);
    require_done(kernels.compress.nsa_compress_backward(&keys));
    const auto values = compression_gradients(parts.values, b->dv_compressed, b->d_compressed.dv, b->d_phi_v);
    require_done(kernels.compress.nsa_compress_backward(&values));
  });
}

std::int64_t nsa_bytes(const AttnspecNsa& forward, const PartKernels& kernels, bool is_backward) {
  AttnspecNsa p = forward;
  p.call.workspace = nullptr;  // there is none as yet
  if (!is_for_vectors(p)) return baseline::kernel().workspace_bytes(ATTNSPEC_NSA, is_backward ? 1 : 0, &p);
  return Parts(p).bytes(kernels, is_backward) + (is_backward ? BranchRoom(p, nullptr).bytes : 0);
}

}  // namespace nsa_tiles

}  // namespace attnspec::cuda::inline ATTNSPEC_TARGET
