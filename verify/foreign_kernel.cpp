#include "verify/foreign_kernel.hpp"

#include <fmt/format.h>

#include <algorithm>
#include <array>
#include <cstring>
#include <deque>
#include <memory>
#include <numeric>
#include <stdexcept>

#include "reference/moba.hpp"
#include "reference/nsa_compression.hpp"
#include "reference/nsa_selection.hpp"
#include "verify/kernel_abi.h"

namespace attnspec::verify {

namespace {

using reference::AttentionProblem;

constexpr std::uint32_t bit_of(Operator op) { return 1u << static_cast<unsigned>(op); }
static_assert(bit_of(Operator::dense) == ATTNSPEC_DENSE && bit_of(Operator::selected) == ATTNSPEC_SELECTED &&
              bit_of(Operator::moba_select) == ATTNSPEC_MOBA_SELECT && bit_of(Operator::moba) == ATTNSPEC_MOBA &&
              bit_of(Operator::nsa_compress) == ATTNSPEC_NSA_COMPRESS &&
              bit_of(Operator::nsa_compressed) == ATTNSPEC_NSA_COMPRESSED &&
              bit_of(Operator::window) == ATTNSPEC_WINDOW && bit_of(Operator::nsa) == ATTNSPEC_NSA);

constexpr std::uint32_t bit_of(Format format) {
  return format == Format::bf16 ? ATTNSPEC_BF16 : format == Format::fp16 ? ATTNSPEC_FP16 : ATTNSPEC_FP32;
}
constexpr std::int32_t bit_of(reference::Gate gate) {
  return gate == reference::Gate::top_k    ? ATTNSPEC_GATE_TOP_K
         : gate == reference::Gate::window ? ATTNSPEC_GATE_WINDOW
                                           : ATTNSPEC_GATE_SINK;
}
constexpr std::int32_t bit_of(reference::Phi phi) {
  return phi == reference::Phi::mean     ? ATTNSPEC_PHI_MEAN
         : phi == reference::Phi::linear ? ATTNSPEC_PHI_LINEAR
                                         : ATTNSPEC_PHI_MLP;
}
constexpr std::int32_t bit_of(reference::Activation activation) {
  return activation == reference::Activation::relu   ? ATTNSPEC_RELU
         : activation == reference::Activation::silu ? ATTNSPEC_SILU
                                                     : ATTNSPEC_GELU;
}

// ---- Our calls as the structs of the C interface ----

/// Tensors as DLPack has them; keeps the shapes and strides that they point to.
class DlTensors {
 public:
  DLTensor of(const TensorView& view) {
    const auto bits = static_cast<std::uint8_t>(8 * bytes_of(view.format));
    const std::uint8_t code = view.format == Format::bf16 ? kDLBfloat : kDLFloat;
    return make(view.data, {code, bits, 1},
                {view.tokens, view.heads, view.dim, view.token_stride, view.head_stride, 1});
  }
  DLTensor of(const SelectionView& view) {
    return make(view.data, {kDLInt, 32, 1},
                {view.tokens, view.heads, view.slots, view.heads * view.slots, view.slots, 1});
  }
  AttnspecPhi of(const PhiTensors<TensorView>& phi) {
    return {of(phi.position), of(phi.w), of(phi.w1), of(phi.b1), of(phi.w2), of(phi.b2)};
  }

 private:
  DLTensor make(void* data, DLDataType type, const std::array<std::int64_t, 6>& sizes) {
    std::int64_t* kept = sizes_.emplace_back(sizes).data();
    return {data, {kDLCPU, 0}, 3, type, kept, kept + 3, 0};
  }

  std::deque<std::array<std::int64_t, 6>> sizes_;  // shape, strides
};

AttnspecCall head(std::size_t struct_size, const AttentionProblem& problem, std::span<std::byte> workspace) {
  AttnspecCall call{};
  call.struct_size = struct_size;
  call.num_sequences = std::ssize(problem.q_offsets) - 1;
  call.q_offsets = problem.q_offsets.data();
  call.k_offsets = problem.k_offsets.data();
  call.scale = problem.scale;
  call.causal = problem.causal;
  call.workspace = workspace.empty() ? nullptr : workspace.data();
  call.workspace_bytes = std::ssize(workspace);
  return call;
}

/// row_offsets must live as long as the result.
AttnspecNsaSizes sizes_of(const reference::NsaProblem& nsa, const std::vector<std::int64_t>& row_offsets) {
  return {row_offsets.data(), nsa.compress_block, nsa.compress_stride, nsa.block,       nsa.top_n,
          nsa.initial_blocks, nsa.local_blocks,   nsa.window,          bit_of(nsa.phi), bit_of(nsa.activation)};
}

/// A forward call as the operator's struct, with what its pointers need.
template <class Params>
struct Translated {
  Params params{};
  DlTensors tensors;
  std::vector<std::int64_t> row_offsets;

  explicit Translated(const AttentionProblem& problem, std::span<std::byte> workspace) {
    params.call = head(sizeof(Params), problem, workspace);
  }
  Translated(const Translated&) = delete;

  void set_sizes(const reference::NsaProblem& nsa) {
    row_offsets = reference::compressed_offsets(nsa);
    params.sizes = sizes_of(nsa, row_offsets);
  }
  void set_attention(const ForwardCall& call) {
    params.q = tensors.of(call.q);
    params.k = tensors.of(call.k);
    params.v = tensors.of(call.v);
    params.o = tensors.of(call.o);
    params.lse = tensors.of(call.lse);
  }
};

/// Gives `visit` the call as a Translated struct of its operator.
template <class Visit>
void translate(const ForwardCall& call, const Visit& visit) {
  const AttentionProblem& problem = is_nsa(call.op) ? call.nsa.attention : call.problem.attention;
  switch (call.op) {
    case Operator::dense: {
      Translated<AttnspecDense> t(problem, call.workspace);
      t.set_attention(call);
      return visit(t);
    }
    case Operator::selected: {
      Translated<AttnspecSelected> t(problem, call.workspace);
      t.set_attention(call);
      t.params.block = call.problem.block;
      t.params.selection = t.tensors.of(call.selection);
      return visit(t);
    }
    case Operator::moba_select: {
      Translated<AttnspecMobaSelect> t(problem, call.workspace);
      t.params.block = call.problem.block;
      t.params.top_k = call.problem.top_k;
      t.params.gate = bit_of(call.problem.gate);
      t.params.q = t.tensors.of(call.q);
      t.params.k = t.tensors.of(call.k);
      t.params.selection = t.tensors.of(call.selection);
      return visit(t);
    }
    case Operator::moba: {
      Translated<AttnspecMoba> t(problem, call.workspace);
      t.set_attention(call);
      t.params.block = call.problem.block;
      t.params.top_k = call.problem.top_k;
      t.params.gate = bit_of(call.problem.gate);
      t.params.selection = t.tensors.of(call.selection);
      return visit(t);
    }
    case Operator::nsa_compressed: {
      Translated<AttnspecNsaCompressed> t(problem, call.workspace);
      t.set_sizes(call.nsa);
      t.set_attention(call);
      t.params.selection = t.tensors.of(call.selection);
      return visit(t);
    }
    case Operator::window: {
      Translated<AttnspecWindow> t(problem, call.workspace);
      t.set_attention(call);
      t.params.window = call.nsa.window;
      return visit(t);
    }
    case Operator::nsa_compress:
    case Operator::nsa: break;  // have calls of their own
  }
}

template <class Visit>
void translate(const CompressCall& call, const Visit& visit) {
  Translated<AttnspecNsaCompress> t(call.nsa.attention, call.workspace);
  t.set_sizes(call.nsa);
  t.params.tokens = t.tensors.of(call.tokens);
  t.params.phi = t.tensors.of(call.phi);
  t.params.rows = t.tensors.of(call.rows);
  visit(t);
}

template <class Visit>
void translate(const NsaCall& call, const Visit& visit) {
  Translated<AttnspecNsa> t(call.nsa.attention, call.workspace);
  const auto branch = [&](const BranchCall& b) {
    return AttnspecBranch{t.tensors.of(b.k), t.tensors.of(b.v), t.tensors.of(b.o), t.tensors.of(b.lse)};
  };
  t.set_sizes(call.nsa);
  t.params.q = t.tensors.of(call.q);
  t.params.compressed = branch(call.compressed);
  t.params.selected = branch(call.selected);
  t.params.window = branch(call.window);
  t.params.gates = t.tensors.of(call.gates);
  t.params.phi_k = t.tensors.of(call.phi_k);
  t.params.phi_v = t.tensors.of(call.phi_v);
  t.params.k_compressed = t.tensors.of(call.k_compressed);
  t.params.v_compressed = t.tensors.of(call.v_compressed);
  t.params.selection = t.tensors.of(call.selection);
  t.params.o = t.tensors.of(call.o);
  visit(t);
}

// ---- The functions of each struct ----

template <class Params>
struct Functions;
template <>
struct Functions<AttnspecDense> {
  using Backward = AttnspecDenseBackward;
  static constexpr auto forward = &AttnspecKernel::dense;
  static constexpr auto backward = &AttnspecKernel::dense_backward;
};
template <>
struct Functions<AttnspecSelected> {
  using Backward = AttnspecSelectedBackward;
  static constexpr auto forward = &AttnspecKernel::selected;
  static constexpr auto backward = &AttnspecKernel::selected_backward;
};
template <>
struct Functions<AttnspecMobaSelect> {
  using Backward = void;
  static constexpr auto forward = &AttnspecKernel::moba_select;
};
template <>
struct Functions<AttnspecMoba> {
  using Backward = AttnspecMobaBackward;
  static constexpr auto forward = &AttnspecKernel::moba;
  static constexpr auto backward = &AttnspecKernel::moba_backward;
};
template <>
struct Functions<AttnspecNsaCompress> {
  using Backward = AttnspecNsaCompressBackward;
  static constexpr auto forward = &AttnspecKernel::nsa_compress;
  static constexpr auto backward = &AttnspecKernel::nsa_compress_backward;
};
template <>
struct Functions<AttnspecNsaCompressed> {
  using Backward = AttnspecNsaCompressedBackward;
  static constexpr auto forward = &AttnspecKernel::nsa_compressed;
  static constexpr auto backward = &AttnspecKernel::nsa_compressed_backward;
};
template <>
struct Functions<AttnspecWindow> {
  using Backward = AttnspecWindowBackward;
  static constexpr auto forward = &AttnspecKernel::window;
  static constexpr auto backward = &AttnspecKernel::window_backward;
};
template <>
struct Functions<AttnspecNsa> {
  using Backward = AttnspecNsaBackward;
  static constexpr auto forward = &AttnspecKernel::nsa;
  static constexpr auto backward = &AttnspecKernel::nsa_backward;
};

/// Whether there is a forward and a backward of the operator.
struct HasFunctions {
  Operator op;
  bool forward, backward;
};
template <class Params>
HasFunctions has_functions(const AttnspecKernel& kernel, Operator op) {
  if constexpr (std::is_void_v<typename Functions<Params>::Backward>)
    return {op, kernel.*Functions<Params>::forward != nullptr, false};
  else
    return {op, kernel.*Functions<Params>::forward != nullptr, kernel.*Functions<Params>::backward != nullptr};
}
std::array<HasFunctions, std::size(kOperators)> all_functions(const AttnspecKernel& kernel) {
  return {has_functions<AttnspecDense>(kernel, Operator::dense),
          has_functions<AttnspecSelected>(kernel, Operator::selected),
          has_functions<AttnspecMobaSelect>(kernel, Operator::moba_select),
          has_functions<AttnspecMoba>(kernel, Operator::moba),
          has_functions<AttnspecNsaCompress>(kernel, Operator::nsa_compress),
          has_functions<AttnspecNsaCompressed>(kernel, Operator::nsa_compressed),
          has_functions<AttnspecWindow>(kernel, Operator::window),
          has_functions<AttnspecNsa>(kernel, Operator::nsa)};
}

// ---- Calls ----

/// Runs the calls of a foreign kernel. `run` is the one place where its functions are entered.
class ForeignCalls {
 public:
  ForeignCalls(const AttnspecKernel& kernel, std::string name) : kernel_(kernel), name_(std::move(name)) {}

  template <class Call>
  void forward(const Call& call) const {
    translate(call, [&](const auto& t) {
      using Params = std::decay_t<decltype(t.params)>;
      run(kernel_.*Functions<Params>::forward, t.params);
    });
  }

  void backward(const BackwardCall& call) const {
    translate(call.forward, [&](auto& t) {
      using Backward = typename Functions<std::decay_t<decltype(t.params)>>::Backward;
      if constexpr (!std::is_void_v<Backward> && requires(Backward b) { b.dq; }) {
        Backward params{};
        params.d_o = t.tensors.of(call.d_o);
        params.dq = t.tensors.of(call.dq);
        params.dk = t.tensors.of(call.dk);
        params.dv = t.tensors.of(call.dv);
        run_backward(t, params);
      }
    });
  }

  void backward(const CompressBackwardCall& call) const {
    translate(call.forward, [&](auto& t) {
      AttnspecNsaCompressBackward params{};
      params.d_rows = t.tensors.of(call.d_rows);
      params.d_tokens = t.tensors.of(call.d_tokens);
      params.d_phi = t.tensors.of(call.d_phi);
      run_backward(t, params);
    });
  }

  void backward(const NsaBackwardCall& call) const {
    translate(call.forward, [&](auto& t) {
      const auto branch = [&](const BranchGradientViews& b) {
        return AttnspecBranchGradients{t.tensors.of(b.dk), t.tensors.of(b.dv)};
      };
      AttnspecNsaBackward params{};
      params.d_o = t.tensors.of(call.d_o);
      params.dq = t.tensors.of(call.dq);
      params.compressed = branch(call.compressed);
      params.selected = branch(call.selected);
      params.window = branch(call.window);
      params.d_gates = t.tensors.of(call.d_gates);
      params.dk_compressed = t.tensors.of(call.dk_compressed);
      params.dv_compressed = t.tensors.of(call.dv_compressed);
      params.d_phi_k = t.tensors.of(call.d_phi_k);
      params.d_phi_v = t.tensors.of(call.d_phi_v);
      run_backward(t, params);
    });
  }

  /// Of a forward or backward of this call, whose tensors need no data.
  template <class Call>
  std::int64_t workspace_bytes(Operator op, const Call& call) const {
    std::int64_t bytes = 0;
    translate(call, [&](const auto& t) {
      for (const std::int32_t is_backward : {0, 1}) {
        const std::int64_t asked = kernel_.workspace_bytes(bit_of(op), is_backward, &t.params);
        if (asked < 0 || asked > kMostWorkspace)
          throw CallFailed(fmt::format("kernel '{}': asks for {} bytes of workspace", name_, asked));
        bytes = std::max(bytes, asked);
      }
    });
    return bytes;
  }

 private:
  static constexpr std::int64_t kMostWorkspace = std::int64_t{1} << 40;

  template <class Params>
  void run(const char* (*function)(const Params*), const Params& params) const {
    if (function == nullptr) throw CallFailed(fmt::format("kernel '{}': has no function for this call", name_));
    if (const char* message = function(&params)) throw CallFailed(fmt::format("kernel '{}': {}", name_, message));
  }

  template <class Params, class Backward>
  void run_backward(const Translated<Params>& forward, Backward& params) const {
    params.struct_size = sizeof params;
    params.forward = &forward.params;
    run(kernel_.*Functions<Params>::backward, params);
  }

  AttnspecKernel kernel_;
  std::string name_;
};

// ---- Sizes of a case, before it has tensors ----

std::int64_t sum(const std::vector<std::int64_t>& lengths) {
  return std::accumulate(lengths.begin(), lengths.end(), std::int64_t{0});
}

TensorView packed(Format format, std::int64_t tokens, std::int64_t heads, std::int64_t dim) {
  return {nullptr, format, tokens, heads, dim, heads * dim, dim};
}

PhiTensors<TensorView> packed_phi(const Case& c, const reference::NsaProblem& nsa, std::int64_t features) {
  const PhiTensors<reference::Tensor> zero = zero_parameters(nsa, features);
  PhiTensors<TensorView> views;
  for (std::size_t i = 0; i < kPhiParts<TensorView>.size(); ++i) {
    const reference::Tensor& tensor = zero.*kPhiParts<reference::Tensor>[i].tensor;
    views.*kPhiParts<TensorView>[i].tensor = packed(c.dtype, tensor.tokens, tensor.heads, tensor.dim);
  }
  return views;
}

std::int64_t workspace_bytes(const ForeignCalls& calls, Format output, const Case& c) {
  const reference::MobaProblem moba = problem_of(c);
  const reference::NsaProblem nsa = nsa_problem_of(c);
  const std::int64_t queries = sum(query_rows(c)), keys = sum(key_rows(c));
  const TensorView q = packed(c.dtype, queries, c.heads, c.dk), k = packed(c.dtype, keys, c.kv_heads, c.dk),
                   v = packed(c.dtype, keys, c.kv_heads, c.dv), o = packed(output, queries, c.heads, c.dv),
                   lse = packed(Format::fp32, queries, c.heads, 1);
  const auto selection = [&](std::int64_t heads, std::int64_t slots) {
    return SelectionView{nullptr, queries, heads, slots};
  };
  if (compresses(c.op)) {
    const std::int64_t rows = reference::compressed_offsets(nsa).back();
    const TensorView compressed = packed(c.dtype, rows, c.kv_heads, c.dk);
    if (c.op == Operator::nsa_compress)
      return calls.workspace_bytes(c.op, CompressCall{nsa, k, packed_phi(c, nsa, c.dk), compressed, {}});
    const BranchCall branch{k, v, o, lse};
    const NsaCall call{nsa,
                       q,
                       branch,
                       branch,
                       branch,
                       packed(c.dtype, queries, c.heads, 3),
                       packed_phi(c, nsa, c.dk),
                       packed_phi(c, nsa, c.dv),
                       compressed,
                       packed(c.dtype, rows, c.kv_heads, c.dv),
                       selection(c.kv_heads, reference::selection_slots(nsa)),
                       o,
                       {}};
    return calls.workspace_bytes(c.op, call);
  }
  ForwardCall call{c.op, moba, nsa, q, k, {}, {}, {}, {}, {}};
  if (c.op == Operator::selected) call.selection = selection(c.shared_selection ? c.kv_heads : c.heads, c.top_k);
  if (selects(c.op)) call.selection = selection(c.heads, reference::selection_slots(moba));
  if (c.op == Operator::nsa_compressed) call.selection = selection(c.kv_heads, reference::selection_slots(nsa));
  if (attends(c.op)) call.v = v, call.o = o, call.lse = lse;
  return calls.workspace_bytes(c.op, call);
}

// ---- Limits ----

/// Why a size is outside a limit; empty when it is not.
std::string outside(const char* size, std::int64_t value, const AttnspecLimit& limit) {
  if (limit.largest > 0 && value > limit.largest)
    return fmt::format("{} {} is above its limit {}", size, value, limit.largest);
  if (limit.multiple_of > 0 && value % limit.multiple_of != 0)
    return fmt::format("{} {} is not a multiple of {}", size, value, limit.multiple_of);
  return "";
}

/// The first limit that excludes the case.
std::optional<std::string> unsupported(const AttnspecLimits& limits, const Case& c) {
  const bool queries = c.op != Operator::nsa_compress, nsa = c.op == Operator::nsa;
  const bool chooses = c.op == Operator::nsa_compressed || nsa;
  if (limits.dtypes != 0 && (limits.dtypes & bit_of(c.dtype)) == 0)
    return fmt::format("dtype {} is none of its own", reference::name(c.dtype));
  if (selects(c.op) && limits.gates != 0 && (limits.gates & static_cast<std::uint32_t>(bit_of(c.gate))) == 0)
    return "the gate is none of its own";
  if (compresses(c.op) && limits.phis != 0 && (limits.phis & static_cast<std::uint32_t>(bit_of(c.phi))) == 0)
    return "phi is none of its own";
  if (limits.only_causal != 0 && !c.causal) return "it is causal only";
  if (limits.only_equal_dims != 0 && attends(c.op) && c.dk != c.dv)
    return fmt::format("it needs dk = dv, not {} and {}", c.dk, c.dv);
  if (limits.only_equal_lengths != 0 && queries && c.q_lens != c.lens) return "it needs as many queries as keys";
  std::vector<std::string> reasons{outside("dk", c.dk, limits.dk)};
  if (attends(c.op)) reasons.push_back(outside("dv", c.dv, limits.dv));
  if (queries) reasons.push_back(outside("group", c.heads / c.kv_heads, limits.group));
  if (selects(c.op) || c.op == Operator::selected || chooses) {
    reasons.push_back(outside("block", c.block, limits.block));
    reasons.push_back(chooses ? outside("top_n", c.top_n, limits.top_k) : outside("top_k", c.top_k, limits.top_k));
  }
  if (compresses(c.op) || chooses)
    reasons.push_back(outside("compress_block", c.compress_block, limits.compress_block));
  if (c.op == Operator::window || nsa) reasons.push_back(outside("window", c.window, limits.window));
  for (std::string& reason : reasons)
    if (!reason.empty()) return std::move(reason);
  return std::nullopt;
}

// ---- The declaration ----

/// What no other kernel is: bad data in a library, in one line.
[[noreturn]] void reject(const std::string& name, const std::string& why) {
  throw std::invalid_argument(fmt::format("kernel '{}': {}", name, why));
}

/// One line of text that a kernel declares.
std::string line(const std::string& name, const char* field, const char* text) {
  if (text == nullptr) reject(name, fmt::format("{} is NULL", field));
  if (std::strchr(text, '\n') != nullptr) reject(name, fmt::format("{} is more than one line", field));
  return text;
}

/// The declaration as this version has it. What a later one added at its end is left out.
AttnspecKernel checked(const AttnspecKernel& declared, const std::string& name) {
  if (declared.abi_version != ATTNSPEC_ABI_VERSION)
    reject(name,
           fmt::format("abi_version={}: this attnspec has version {}", declared.abi_version, ATTNSPEC_ABI_VERSION));
  if (declared.struct_size < sizeof(AttnspecKernel))
    reject(name, fmt::format("struct_size={}: in version {} it is at least {}", declared.struct_size,
                             ATTNSPEC_ABI_VERSION, sizeof(AttnspecKernel)));
  AttnspecKernel kernel = declared;
  if (kernel.device_type == kDLCUDA) reject(name, "needs a CUDA device, which this build does not support yet");
  if (kernel.device_type != kDLCPU)
    reject(name, fmt::format("device_type={}: is neither kDLCPU nor kDLCUDA", kernel.device_type));
  if (kernel.operators == 0) reject(name, "declares no operator");
  if (const std::uint32_t unknown = kernel.operators >> std::size(kOperators); unknown != 0)
    reject(name, fmt::format("operators={:#x}: has bits of no operator", kernel.operators));
  for (const HasFunctions& functions : all_functions(kernel))
    if ((kernel.operators & bit_of(functions.op)) != 0 && !functions.forward)
      reject(name, fmt::format("operator {} is declared without a function", verify::name(functions.op)));
  if ((kernel.operators & ATTNSPEC_MOBA_SELECT) != 0 && (kernel.promises & ATTNSPEC_EXPORTS_SELECTION) == 0)
    reject(name, "operator moba_select needs the promise ATTNSPEC_EXPORTS_SELECTION");
  return kernel;
}

}  // namespace

Kernel make_foreign_kernel(const AttnspecKernel& declared, const std::string& name) {
  const AttnspecKernel abi = checked(declared, name);
  Kernel kernel;
  kernel.name = name;
  kernel.summary = line(name, "name", abi.name) + ": " + line(name, "summary", abi.summary);
  const std::string departures = line(name, "departures", abi.departures);
  try {
    kernel.departures = reference::parse_departures(departures.empty() ? "" : "+" + departures).departures;
  } catch (const std::invalid_argument& error) {
    reject(name, error.what());
  }
  bool attention_backward = false;
  for (const HasFunctions& functions : all_functions(abi)) {
    if ((abi.operators & bit_of(functions.op)) == 0) continue;
    kernel.operators.push_back(functions.op);
    if (!functions.backward) kernel.forward_only.push_back(functions.op);
    attention_backward = attention_backward || (functions.backward && !compresses(functions.op));
  }
  kernel.exports_selection = (abi.promises & ATTNSPEC_EXPORTS_SELECTION) != 0;
  kernel.unsupported = [limits = abi.limits](const Case& c) { return unsupported(limits, c); };
  const auto calls = std::make_shared<ForeignCalls>(abi, name);
  if (abi.workspace_bytes != nullptr)
    kernel.workspace_bytes = [calls, departures = kernel.departures](const Case& c) {
      return workspace_bytes(*calls, reference::make_profile(c.dtype, departures).output, c);
    };
  kernel.forward = [calls](const ForwardCall& call) { calls->forward(call); };
  kernel.compress = [calls](const CompressCall& call) { calls->forward(call); };
  kernel.nsa = [calls](const NsaCall& call) { calls->forward(call); };
  if (attention_backward) kernel.backward = [calls](const BackwardCall& call) { calls->backward(call); };
  if (abi.nsa_compress_backward != nullptr)
    kernel.compress_backward = [calls](const CompressBackwardCall& call) { calls->backward(call); };
  if (abi.nsa_backward != nullptr)
    kernel.nsa_backward = [calls](const NsaBackwardCall& call) { calls->backward(call); };
  return kernel;
}

}  // namespace attnspec::verify
