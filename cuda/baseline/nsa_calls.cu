// The launchers of NSA and its parts. The whole of NSA goes stage by stage; what a branch hands on, in either
// direction, is stored in the format of the inputs.
#include <algorithm>
#include <array>
#include <string>

#include "cuda/baseline/calls.hpp"
#include "cuda/baseline/nsa_calls.hpp"

namespace attnspec::cuda::inline ATTNSPEC_TARGET::baseline {

namespace {

// ---- What a call keeps in its workspace ----

/// T: the format of the inputs.
template <class T>
struct Scratch {
  Offsets offsets;
  std::int64_t* row_offsets;
  float* importances;        // [query tokens, Hkv, slots]
  float *hidden, *d_hidden;  // [compressed rows, Hkv, hidden]
  T* d_o;                    // of a branch, [query tokens, H, dv]
  T* dq[kBranches];          // [query tokens, H, dk]
  std::int64_t bytes;
};

/// How many numbers the parts have.
struct Parts {
  std::int64_t importances = 0, hidden = 0, d_hidden = 0, d_o = 0, dq = 0;
};

/// [compressed rows, Hkv, hidden]; none where phi is not the MLP.
std::int64_t num_hidden(const AttnspecCall& call, const AttnspecNsaSizes& sizes, const DLTensor& tokens,
                        const AttnspecPhi& phi) {
  if (sizes.phi_kind != ATTNSPEC_PHI_MLP) return 0;
  return sizes.row_offsets[call.num_sequences] * tokens.shape[1] * phi.w1.shape[2];
}

Parts parts_of(const AttnspecNsaCompress& p, bool is_backward) {
  const std::int64_t hidden = num_hidden(p.call, p.sizes, p.tokens, p.phi);
  return {.hidden = hidden, .d_hidden = is_backward ? hidden : 0};
}

Parts parts_of(const AttnspecNsaCompressed& p, bool is_backward) {
  return {.importances = is_backward ? 0 : p.q.shape[0] * p.k.shape[1] * p.selection.shape[2]};
}

Parts parts_of(const AttnspecWindow&, bool) { return {}; }

Parts parts_of(const AttnspecNsa& p, bool is_backward) {
  const std::int64_t hidden = std::max(num_hidden(p.call, p.sizes, p.compressed.k, p.phi_k),
                                       num_hidden(p.call, p.sizes, p.compressed.v, p.phi_v));
  const std::int64_t rows = p.q.shape[0] * p.q.shape[1];
  if (is_backward)
    return {.hidden = hidden, .d_hidden = hidden, .d_o = rows * p.compressed.v.shape[2], .dq = rows * p.q.shape[2]};
  return {.importances = p.q.shape[0] * p.compressed.k.shape[1] * p.selection.shape[2], .hidden = hidden};
}

template <class T>
Scratch<T> lay_out(const AttnspecCall& call, const Parts& parts) {
  Workspace workspace(call.workspace);
  Scratch<T> scratch{};
  scratch.offsets = take_offsets(workspace, call);
  scratch.row_offsets = workspace.take<std::int64_t>(call.num_sequences + 1);
  scratch.importances = workspace.take<float>(parts.importances);
  scratch.hidden = workspace.take<float>(parts.hidden);
  scratch.d_hidden = workspace.take<float>(parts.d_hidden);
  scratch.d_o = workspace.take<T>(parts.d_o);
  for (T*& dq : scratch.dq) dq = workspace.take<T>(parts.dq);
  scratch.bytes = workspace.bytes();
  return scratch;
}

// ---- Stages, given the tensors of a call ----

/// One call with its workspace, whose offsets it fills.
template <class T>
struct Stages {
  const AttnspecCall& call;
  const AttnspecNsaSizes& sizes;
  Scratch<T> scratch;
  Sequences sequences;  // tokens as keys

  Stages(const AttnspecCall& c, const AttnspecNsaSizes& s, const Parts& parts)
      : call(c), sizes(s), scratch(lay_out<T>(c, parts)), sequences(sequences_of(c, scratch.offsets)) {
    copy_offsets(call, scratch.row_offsets, sizes.row_offsets);
  }

  /// Attention to compressed rows k.
  Attention compressed_attention(const DLTensor& q, const DLTensor& k, std::int64_t dv) const {
    Attention a = attention_of(call, sequences, q, k, dv);
    a.sequences.k_offsets = scratch.row_offsets;
    a.reach = {scratch.offsets.k, sizes.compress_block, sizes.compress_stride};
    return a;
  }

  Compression compression(const DLTensor& tokens, const AttnspecPhi& phi) const {
    return compression_of(call, sizes, {scratch.row_offsets, scratch.offsets.k, call.num_sequences}, tokens, phi);
  }

  void compress(const DLTensor& tokens, const AttnspecPhi& phi, const DLTensor& rows) const {
    const Compression c = compression(tokens, phi);
    baseline::compress<T>(c, rows_of<const T>(tokens), parameters_of<const T>(phi),
                          packed(scratch.hidden, c.kv_heads, c.hidden), rows_of<T>(rows), call.stream);
  }

  void compress_backward(const DLTensor& tokens, const AttnspecPhi& phi, const DLTensor& d_rows,
                         const DLTensor& d_tokens, const AttnspecPhi& d_phi) const {
    const Compression c = compression(tokens, phi);
    baseline::compress_backward<T>(c, rows_of<const T>(tokens), parameters_of<const T>(phi),
                                   packed(scratch.hidden, c.kv_heads, c.hidden),
                                   packed(scratch.d_hidden, c.kv_heads, c.hidden), rows_of<const T>(d_rows),
                                   rows_of<T>(d_tokens), parameters_of<T>(d_phi), call.stream);
  }

  /// The blocks that attention `a` to compressed rows k says are important.
  void select(const Attention& a, const DLTensor& q, const DLTensor& k, const DLTensor& lse,
              const DLTensor& selection) const {
    select_important_blocks<T>(a,
                               {sizes.block, sizes.top_n, sizes.initial_blocks, sizes.local_blocks, selection.shape[2]},
                               rows_of<const T>(q), rows_of<const T>(k), rows_of<const float>(lse), scratch.importances,
                               rows_of<std::int32_t>(selection), call.stream);
  }
};

/// A branch of NSA: attention to some keys.
struct Branch {
  Attention attention;
  Blocks blocks;
  DLTensor k, v, o, lse;
};

/// In the order of the gates of a row.
template <class T>
std::array<Branch, kBranches> branches_of(const AttnspecNsa& p, const Stages<T>& stages) {
  const std::int64_t dv = p.compressed.v.shape[2];
  const Attention tokens = attention_of(p.call, stages.sequences, p.q, p.selected.k, dv);
  Attention window = tokens;
  window.reach.window = p.sizes.window_size;
  return {{{stages.compressed_attention(p.q, p.k_compressed, dv), kAllKeys, p.k_compressed, p.v_compressed,
            p.compressed.o, p.compressed.lse},
           {tokens, blocks_of(p.selection, p.sizes.block), p.selected.k, p.selected.v, p.selected.o, p.selected.lse},
           {window, kAllKeys, p.window.k, p.window.v, p.window.o, p.window.lse}}};
}

template <class T>
PerBranch<const T> outputs_of(const std::array<Branch, kBranches>& branches) {
  return {rows_of<const T>(branches[0].o), rows_of<const T>(branches[1].o), rows_of<const T>(branches[2].o)};
}

template <class T>
void run(const AttnspecNsa& p) {
  const Stages<T> stages(p.call, p.sizes, parts_of(p, false));
  const auto branches = branches_of(p, stages);
  const auto attend_to = [&](const Branch& b) {
    attend<T>(b.attention, b.blocks, rows_of<const T>(p.q), rows_of<const T>(b.k), rows_of<const T>(b.v),
              rows_of<T>(b.o), rows_of<float>(b.lse), p.call.stream);
  };
  stages.compress(p.compressed.k, p.phi_k, p.k_compressed);
  stages.compress(p.compressed.v, p.phi_v, p.v_compressed);
  attend_to(branches[0]);
  stages.select(branches[0].attention, p.q, p.k_compressed, p.compressed.lse, p.selection);
  attend_to(branches[1]);
  attend_to(branches[2]);
  combine_branches<T>(branches[0].attention, rows_of<const T>(p.gates), outputs_of<T>(branches), rows_of<T>(p.o),
                      p.call.stream);
}

template <class T>
void run(const AttnspecNsaBackward& p) {
  const AttnspecNsa& f = *p.forward;
  const Stages<T> stages(f.call, f.sizes, parts_of(f, true));
  const auto branches = branches_of(f, stages);
  const AttnspecBranchGradients gradients[kBranches] = {{p.dk_compressed, p.dv_compressed}, p.d_selected, p.d_window};
  const Attention& a = branches[0].attention;
  PerBranch<const T> all_dq;
  for (std::size_t i = 0; i < branches.size(); ++i) {
    const auto& [attention, blocks, k, v, o, lse] = branches[i];
    branch_gradient<T>(a, static_cast<int>(i), rows_of<const T>(f.gates), rows_of<const T>(p.d_o),
                       packed(stages.scratch.d_o, a.heads, a.dv), f.call.stream);
    const BackwardRows<T> rows{rows_of<const T>(f.q),     rows_of<const T>(k),
                               rows_of<const T>(v),       rows_of<const T>(o),
                               rows_of<const float>(lse), packed<const T>(stages.scratch.d_o, a.heads, a.dv)};
    attend_backward<T>(attention, blocks, rows, packed(stages.scratch.dq[i], a.heads, a.dk),
                       rows_of<T>(gradients[i].dk), rows_of<T>(gradients[i].dv), f.call.stream);
    all_dq.branch[i] = packed<const T>(stages.scratch.dq[i], a.heads, a.dk);
  }
  add_branches<T>(a, all_dq, rows_of<T>(p.dq), f.call.stream);
  gate_gradients<T>(a, outputs_of<T>(branches), rows_of<const T>(p.d_o), rows_of<T>(p.d_gates), f.call.stream);
  stages.compress_backward(f.compressed.k, f.phi_k, p.dk_compressed, p.d_compressed.dk, p.d_phi_k);
  stages.compress_backward(f.compressed.v, f.phi_v, p.dv_compressed, p.d_compressed.dv, p.d_phi_v);
}

Attention window_attention(const AttnspecWindow& p) {
  const Offsets offsets = lay_out<float>(p.call, {}).offsets;
  Attention a = attention_of(p.call, sequences_of(p.call, offsets), p.q, p.k, p.v.shape[2]);
  a.reach.window = p.window_size;
  return a;
}

// ---- What a call may touch ----

void add_branch(const std::string& name, const AttnspecBranch& branch, Buffers& buffers) {
  const auto add = [&](const char* part, const DLTensor& tensor) { buffers.add((name + part).c_str(), tensor); };
  add(".k", branch.k), add(".v", branch.v), add(".o", branch.o), add(".lse", branch.lse);
}

void add_tensors(const AttnspecNsaCompress& p, Buffers& buffers) {
  buffers.add("tokens", p.tokens), add_phi("phi", p.phi, buffers);
  buffers.add("workspace", p.call.workspace, p.call.workspace_bytes);
}

void add_tensors(const AttnspecNsa& p, Buffers& buffers) {
  buffers.add("q", p.q), buffers.add("gates", p.gates), buffers.add("selection", p.selection);
  add_branch("compressed", p.compressed, buffers), add_branch("selected", p.selected, buffers);
  add_branch("window", p.window, buffers), add_phi("phi_k", p.phi_k, buffers), add_phi("phi_v", p.phi_v, buffers);
  buffers.add("k_compressed", p.k_compressed), buffers.add("v_compressed", p.v_compressed);
  buffers.add("workspace", p.call.workspace, p.call.workspace_bytes);
}

void add_gradients(const AttnspecNsaBackward& p, Buffers& buffers) {
  buffers.add("d_o", p.d_o), buffers.add("dq", p.dq), buffers.add("d_gates", p.d_gates);
  for (const auto& [dk, dv] : {p.d_compressed, p.d_selected, p.d_window}) buffers.add("dk", dk), buffers.add("dv", dv);
  buffers.add("dk_compressed", p.dk_compressed), buffers.add("dv_compressed", p.dv_compressed);
  add_phi("d_phi_k", p.d_phi_k, buffers), add_phi("d_phi_v", p.d_phi_v, buffers);
}

/// params: the operator's forward struct, whose call says where the workspace is: none yet. given: a tensor in the
/// format of the inputs.
template <class Params>
std::int64_t bytes_of(const void* params, bool is_backward, DLTensor Params::*given) {
  Params p = *static_cast<const Params*>(params);
  p.call.workspace = nullptr;
  std::int64_t bytes = 0;
  with_dtype(p.*given, [&](auto zero) { bytes = lay_out<decltype(zero)>(p.call, parts_of(p, is_backward)).bytes; });
  return bytes;
}

}  // namespace

// ---- Calls ----

const char* nsa_compress(const AttnspecNsaCompress* p) {
  return reason_of([&] {
    Buffers buffers;
    add_tensors(*p, buffers);
    buffers.add("rows", p->rows);
    with_dtype(p->tokens, [&](auto zero) {
      Stages<decltype(zero)>(p->call, p->sizes, parts_of(*p, false)).compress(p->tokens, p->phi, p->rows);
    });
  });
}

const char* nsa_compress_backward(const AttnspecNsaCompressBackward* p) {
  return reason_of([&] {
    const AttnspecNsaCompress& f = *p->forward;
    Buffers buffers;
    add_tensors(f, buffers);
    buffers.add("d_rows", p->d_rows), buffers.add("d_tokens", p->d_tokens), add_phi("d_phi", p->d_phi, buffers);
    with_dtype(f.tokens, [&](auto zero) {
      Stages<decltype(zero)>(f.call, f.sizes, parts_of(f, true))
          .compress_backward(f.tokens, f.phi, p->d_rows, p->d_tokens, p->d_phi);
    });
  });
}

const char* nsa_compressed(const AttnspecNsaCompressed* p) {
  return reason_of([&] {
    Buffers buffers;
    add_tensors(*p, buffers);
    buffers.add("selection", p->selection);
    with_dtype(p->q, [&](auto zero) {
      using T = decltype(zero);
      const Stages<T> stages(p->call, p->sizes, parts_of(*p, false));
      const Attention a = stages.compressed_attention(p->q, p->k, p->v.shape[2]);
      forward<T>(*p, kAllKeys, a);
      stages.select(a, p->q, p->k, p->lse, p->selection);
    });
  });
}

const char* nsa_compressed_backward(const AttnspecNsaCompressedBackward* p) {
  return reason_of([&] {
    const AttnspecNsaCompressed& f = *p->forward;
    Buffers buffers;
    add_tensors(f, buffers);
    add_gradients(*p, buffers);
    with_dtype(f.q, [&](auto zero) {
      using T = decltype(zero);
      const Stages<T> stages(f.call, f.sizes, parts_of(f, true));
      backward<T>(*p, kAllKeys, stages.compressed_attention(f.q, f.k, f.v.shape[2]));
    });
  });
}

const char* window(const AttnspecWindow* p) {
  return reason_of([&] {
    Buffers buffers;
    add_tensors(*p, buffers);
    with_dtype(p->q, [&](auto zero) { forward<decltype(zero)>(*p, kAllKeys, window_attention(*p)); });
  });
}

const char* window_backward(const AttnspecWindowBackward* p) {
  return reason_of([&] {
    Buffers buffers;
    add_tensors(*p->forward, buffers);
    add_gradients(*p, buffers);
    with_dtype(p->d_o, [&](auto zero) { backward<decltype(zero)>(*p, kAllKeys, window_attention(*p->forward)); });
  });
}

const char* nsa(const AttnspecNsa* p) {
  return reason_of([&] {
    Buffers buffers;
    add_tensors(*p, buffers);
    buffers.add("o", p->o);
    with_dtype(p->q, [&](auto zero) { run<decltype(zero)>(*p); });
  });
}

const char* nsa_backward(const AttnspecNsaBackward* p) {
  return reason_of([&] {
    Buffers buffers;
    add_tensors(*p->forward, buffers);
    add_gradients(*p, buffers);
    with_dtype(p->d_o, [&](auto zero) { run<decltype(zero)>(*p); });
  });
}

std::int64_t nsa_workspace_bytes(std::uint32_t op, std::int32_t is_backward, const void* params) {
  const bool of_backward = is_backward != 0;
  if (op == ATTNSPEC_NSA_COMPRESS) return bytes_of(params, of_backward, &AttnspecNsaCompress::tokens);
  if (op == ATTNSPEC_NSA_COMPRESSED) return bytes_of(params, of_backward, &AttnspecNsaCompressed::q);
  if (op == ATTNSPEC_WINDOW) return bytes_of(params, of_backward, &AttnspecWindow::q);
  return bytes_of(params, of_backward, &AttnspecNsa::q);
}

}  // namespace attnspec::cuda::inline ATTNSPEC_TARGET::baseline
