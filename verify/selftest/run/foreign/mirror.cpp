// The mirror: the model kernel with every operator, behind the C interface. It ends where it is given anything else
// than the interface says.
#include <cstdlib>
#include <cstring>
#include <iterator>

#include "verify/abi/kernel_abi.h"
#include "verify/kernels.hpp"
#include "verify/operators/operator.hpp"

namespace attnspec::verify {

namespace {

void expect(bool is_so) {
  if (!is_so) std::abort();
}

TensorView view(const DLTensor& t) {
  const Format format = t.dtype.bits == 32 ? Format::fp32 : t.dtype.code == kDLBfloat ? Format::bf16 : Format::fp16;
  return {t.data, format, t.shape[0], t.shape[1], t.shape[2], t.strides[0], t.strides[1]};
}
SelectionView selection(const DLTensor& t) {
  return {static_cast<std::int32_t*>(t.data), t.shape[0], t.shape[1], t.shape[2], t.strides[0], t.strides[1]};
}
reference::AttentionProblem attention(const AttnspecCall& call, const DLTensor& q, const DLTensor& k, std::int64_t dv) {
  const auto offsets = [&](const std::int64_t* begin) { return std::vector(begin, begin + call.num_sequences + 1); };
  return {offsets(call.q_offsets), offsets(call.k_offsets), q.shape[1], k.shape[1], q.shape[2], dv, call.scale,
          call.causal != 0};
}

/// All of the problem but phi.
reference::NsaProblem nsa_problem(const AttnspecNsaSizes& sizes, const reference::AttentionProblem& problem) {
  reference::NsaProblem nsa;
  nsa.attention = problem;
  nsa.compress_block = sizes.compress_block, nsa.compress_stride = sizes.compress_stride;
  nsa.block = sizes.block, nsa.top_n = sizes.top_n;
  nsa.initial_blocks = sizes.initial_blocks, nsa.local_blocks = sizes.local_blocks;
  nsa.window = sizes.window_size;
  return nsa;
}

void set_phi(const AttnspecNsaSizes& sizes, const AttnspecPhi& parameters, reference::NsaProblem& nsa) {
  nsa.phi = sizes.phi_kind == ATTNSPEC_PHI_MEAN     ? reference::Phi::mean
            : sizes.phi_kind == ATTNSPEC_PHI_LINEAR ? reference::Phi::linear
                                                    : reference::Phi::mlp;
  nsa.activation = sizes.activation == ATTNSPEC_RELU   ? reference::Activation::relu
                   : sizes.activation == ATTNSPEC_SILU ? reference::Activation::silu
                                                       : reference::Activation::gelu;
  nsa.hidden = parameters.b1.shape[2];
  nsa.shared_phi = parameters.position.shape[1] == 1;
}

/// A tensor of a struct.
const DLTensor& tensor_at(const void* params, std::size_t offset) {
  return *reinterpret_cast<const DLTensor*>(static_cast<const std::byte*>(params) + offset);
}

/// A call in our own terms.
struct Mirrored {
  reference::MobaProblem moba;
  reference::NsaProblem nsa;
  AnyCall call;

  /// backward: null for a forward.
  template <class Params>
  Mirrored(Operator op, const Params& p, const void* backward = nullptr)
      : call(blank_call(op, backward != nullptr, moba, nsa)) {
    const std::vector<TensorInfo>& tensors = page_of(op).tensors;
    for (std::size_t i = 0; i < tensors.size(); ++i) {
      const bool is_of_backward = tensors[i].role == Role::gradient || tensors[i].role == Role::given_gradient;
      if (is_of_backward && backward == nullptr) continue;
      const DLTensor& tensor = tensor_at(is_of_backward ? backward : &p, tensors[i].offset);
      if (tensors[i].format == Stored::blocks)
        call.selection = selection(tensor);
      else
        call.tensors[i] = view(tensor);
    }
    set_problems(p);
    expect(p.call.struct_size == sizeof p);
    // The workspace is the kernel's to fill: 8 bytes for each query token.
    const std::int64_t queries = p.call.q_offsets[p.call.num_sequences];
    expect(p.call.workspace_bytes == 8 * queries);
    if (p.call.workspace != nullptr) std::memset(p.call.workspace, 1, static_cast<std::size_t>(8 * queries));
  }
  Mirrored(const Mirrored&) = delete;

 private:
  template <class Params>
  void set_problems(const Params& p) {
    if constexpr (requires { p.tokens; })
      moba.attention = attention(p.call, p.tokens, p.tokens, p.tokens.shape[2]);
    else if constexpr (requires { p.gates; })
      moba.attention = attention(p.call, p.q, p.window.k, p.window.v.shape[2]);
    else if constexpr (requires { p.v; })
      moba.attention = attention(p.call, p.q, p.k, p.v.shape[2]);
    else if constexpr (requires { p.kbar; })
      moba.attention = attention(p.call, p.qi, p.kbar, 1);
    else if constexpr (requires { p.ki; })
      moba.attention = attention(p.call, p.qi, p.ki, 1);
    else
      moba.attention = attention(p.call, p.q, p.k, 1);
    nsa.attention = moba.attention;
    if constexpr (requires { p.block; }) moba.block = p.block;
    if constexpr (requires { p.top_k; }) moba.top_k = p.top_k;
    if constexpr (requires { p.gate; }) {
      moba.gate = p.gate == ATTNSPEC_GATE_TOP_K    ? reference::Gate::top_k
                  : p.gate == ATTNSPEC_GATE_WINDOW ? reference::Gate::window
                                                   : reference::Gate::sink;
    }
    if constexpr (requires { p.sizes; }) nsa = nsa_problem(p.sizes, moba.attention);
    if constexpr (requires { p.window_size; }) nsa.window = p.window_size;
    if constexpr (requires { p.phi; }) {
      set_phi(p.sizes, p.phi, nsa);
      expect(p.sizes.row_offsets[p.call.num_sequences] == p.rows.shape[0]);
    }
    if constexpr (requires { p.phi_k; }) set_phi(p.sizes, p.phi_k, nsa);
  }
};

/// The model kernel with every operator.
const Kernel& model() {
  static const Kernel kernel = [] {
    Kernel all = find_kernel("model:moba");
    all.operators.assign(std::begin(kOperators), std::end(kOperators));
    return all;
  }();
  return kernel;
}

template <Operator op, class Params>
const char* forward(const Params* p) {
  model().call(Mirrored(op, *p).call);
  return nullptr;
}
template <Operator op, class Backward>
const char* backward(const Backward* p) {
  expect(p->struct_size == sizeof *p);
  model().call(Mirrored(op, *p->forward, p).call);
  return nullptr;
}

/// 8 bytes for each query token, read off the struct of the operator.
std::int64_t workspace_bytes(std::uint32_t op, std::int32_t, const void* params) {
  const auto& call = *static_cast<const AttnspecCall*>(params);
  if (op == ATTNSPEC_NSA) {
    const auto& p = *static_cast<const AttnspecNsa*>(params);
    expect(p.selected.o.shape[0] == call.q_offsets[call.num_sequences]);
    expect(p.k_compressed.shape[0] == p.sizes.row_offsets[call.num_sequences]);
    expect(p.q.data == nullptr);
  }
  return 8 * call.q_offsets[call.num_sequences];
}

AttnspecKernel mirror() {
  AttnspecKernel kernel{};
  kernel.struct_size = sizeof kernel;
  kernel.abi_version = ATTNSPEC_ABI_VERSION;
  kernel.device_type = kDLCPU;
  kernel.name = "mirror";
  kernel.summary = "the model kernel";
  kernel.arithmetic = "";
  kernel.operators = 2047;
  kernel.promises =
      ATTNSPEC_EXPORTS_SELECTION | ATTNSPEC_DETERMINISTIC | ATTNSPEC_ROW_INDEPENDENT | ATTNSPEC_BATCH_INVARIANT;
  kernel.workspace_bytes = workspace_bytes;
  kernel.dense = forward<Operator::dense>;
  kernel.dense_backward = backward<Operator::dense>;
  kernel.selected = forward<Operator::selected>;
  kernel.selected_backward = backward<Operator::selected>;
  kernel.moba_select = forward<Operator::moba_select>;
  kernel.msa_select = forward<Operator::msa_select>;
  kernel.dsa_select = forward<Operator::dsa_select>;
  kernel.qsa_select = forward<Operator::qsa_select>;
  kernel.moba = forward<Operator::moba>;
  kernel.moba_backward = backward<Operator::moba>;
  kernel.nsa_compress = forward<Operator::nsa_compress>;
  kernel.nsa_compress_backward = backward<Operator::nsa_compress>;
  kernel.nsa_compressed = forward<Operator::nsa_compressed>;
  kernel.nsa_compressed_backward = backward<Operator::nsa_compressed>;
  kernel.window = forward<Operator::window>;
  kernel.window_backward = backward<Operator::window>;
  kernel.nsa = forward<Operator::nsa>;
  kernel.nsa_backward = backward<Operator::nsa>;
#ifdef ATTNSPEC_TILED  // what many kernels of GPUs can do
  kernel.limits.dtypes = ATTNSPEC_BF16;
  kernel.limits.only_causal = kernel.limits.only_equal_dims = 1;
  kernel.limits.dk.set[0] = kernel.limits.dv.set[0] = 64;
  kernel.limits.dk.set[1] = kernel.limits.dv.set[1] = 128;
  kernel.limits.group.set[0] = 16;
  kernel.limits.block.set[0] = 64;
#endif
  return kernel;
}

}  // namespace

}  // namespace attnspec::verify

const AttnspecKernel* attnspec_kernel() {
  static const AttnspecKernel kernel = attnspec::verify::mirror();
  return &kernel;
}
