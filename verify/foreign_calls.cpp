#include "verify/foreign_calls.hpp"

#include <fmt/format.h>

#include <algorithm>
#include <array>
#include <deque>
#include <optional>
#include <stdexcept>
#include <type_traits>

#include "cuda/device.hpp"
#include "reference/nsa_compression.hpp"

namespace attnspec::verify {

namespace {

using reference::AttentionProblem;

static_assert(bit_of(Operator::dense) == ATTNSPEC_DENSE && bit_of(Operator::selected) == ATTNSPEC_SELECTED &&
              bit_of(Operator::moba_select) == ATTNSPEC_MOBA_SELECT && bit_of(Operator::moba) == ATTNSPEC_MOBA &&
              bit_of(Operator::nsa_compress) == ATTNSPEC_NSA_COMPRESS &&
              bit_of(Operator::nsa_compressed) == ATTNSPEC_NSA_COMPRESSED &&
              bit_of(Operator::window) == ATTNSPEC_WINDOW && bit_of(Operator::nsa) == ATTNSPEC_NSA);

// ---- Our calls as the structs of the C interface ----

/// Where the tensors of a call are: in the host's memory or, for the time of the call, in copies on the GPU. Keeps the
/// shapes and strides that its tensors point to.
class CallMemory {
 public:
  explicit CallMemory(std::int32_t device_type) : device_type_(device_type) {
    if (device_type == kDLCUDA) copies_.emplace();
  }

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
  void* of(std::span<std::byte> workspace) {
    return workspace.empty() ? nullptr : place(workspace.data(), std::ssize(workspace), sizeof(float));
  }

  void* stream() { return copies_ ? copies_->stream() : nullptr; }

  /// Waits until the call is done, and brings back what it wrote. Throws std::runtime_error with what the GPU says.
  void collect() {
    if (copies_) copies_->collect();
  }

 private:
  DLTensor make(void* data, DLDataType type, const std::array<std::int64_t, 6>& sizes) {
    std::int64_t* kept = sizes_.emplace_back(sizes).data();
    const std::int64_t elements = sizes[0] == 0 ? 0 : (sizes[0] - 1) * sizes[3] + (sizes[1] - 1) * sizes[4] + sizes[2];
    if (data != nullptr) data = place(data, elements * type.bits / 8, type.bits / 8);
    return {data, {static_cast<DLDeviceType>(device_type_), 0}, 3, type, kept, kept + 3, 0};
  }

  /// The kernel's address of memory of the harness, which is copied with the guards around it.
  void* place(void* data, std::int64_t bytes, std::int64_t element_bytes) {
    if (!copies_) return data;
    const std::int64_t guard = kGuardElements * element_bytes;
    return static_cast<std::byte*>(copies_->copy(static_cast<std::byte*>(data) - guard, bytes + 2 * guard)) + guard;
  }

  std::int32_t device_type_;
  std::optional<cuda::DeviceCopies> copies_;
  std::deque<std::array<std::int64_t, 6>> sizes_;  // shape, strides
};

AttnspecCall head(std::size_t struct_size, const AttentionProblem& problem, std::span<std::byte> workspace,
                  CallMemory& memory) {
  AttnspecCall call{};
  call.struct_size = struct_size;
  call.num_sequences = std::ssize(problem.q_offsets) - 1;
  call.q_offsets = problem.q_offsets.data();
  call.k_offsets = problem.k_offsets.data();
  call.scale = problem.scale;
  call.causal = problem.causal;
  call.stream = memory.stream();
  call.workspace = memory.of(workspace);
  call.workspace_bytes = std::ssize(workspace);
  return call;
}

/// row_offsets must live as long as the result.
AttnspecNsaSizes sizes_of(const reference::NsaProblem& nsa, const std::vector<std::int64_t>& row_offsets) {
  return {row_offsets.data(),
          nsa.compress_block,
          nsa.compress_stride,
          nsa.block,
          nsa.top_n,
          nsa.initial_blocks,
          nsa.local_blocks,
          nsa.window,
          static_cast<std::int32_t>(bit_of(nsa.phi)),
          static_cast<std::int32_t>(bit_of(nsa.activation))};
}

/// A kernel to call, and memory for its calls.
struct Target {
  const AttnspecKernel& kernel;
  const std::string& name;
  std::vector<std::int64_t>& row_offsets;
};

/// A forward call as the operator's struct, with what its pointers need.
template <class Params>
struct Translated {
  Params params{};
  CallMemory memory;
  std::vector<std::int64_t>& row_offsets;

  Translated(const Target& target, const AttentionProblem& problem, std::span<std::byte> workspace)
      : memory(target.kernel.device_type), row_offsets(target.row_offsets) {
    params.call = head(sizeof(Params), problem, workspace, memory);
  }
  Translated(const Translated&) = delete;

  void set_sizes(const reference::NsaProblem& nsa) {
    const std::vector<std::int64_t> offsets = reference::compressed_offsets(nsa);
    row_offsets.assign(offsets.begin(), offsets.end());
    params.sizes = sizes_of(nsa, row_offsets);
  }
  void set_attention(const ForwardCall& call) {
    params.q = memory.of(call.q);
    params.k = memory.of(call.k);
    params.v = memory.of(call.v);
    params.o = memory.of(call.o);
    params.lse = memory.of(call.lse);
  }
};

/// Gives `visit` the call as a Translated struct of its operator.
template <class Visit>
void translate(const Target& target, const ForwardCall& call, const Visit& visit) {
  const AttentionProblem& problem = is_nsa(call.op) ? call.nsa.attention : call.problem.attention;
  switch (call.op) {
    case Operator::dense: {
      Translated<AttnspecDense> t(target, problem, call.workspace);
      t.set_attention(call);
      return visit(t);
    }
    case Operator::selected: {
      Translated<AttnspecSelected> t(target, problem, call.workspace);
      t.set_attention(call);
      t.params.block = call.problem.block;
      t.params.selection = t.memory.of(call.selection);
      return visit(t);
    }
    case Operator::moba_select: {
      Translated<AttnspecMobaSelect> t(target, problem, call.workspace);
      t.params.block = call.problem.block;
      t.params.top_k = call.problem.top_k;
      t.params.gate = static_cast<std::int32_t>(bit_of(call.problem.gate));
      t.params.q = t.memory.of(call.q);
      t.params.k = t.memory.of(call.k);
      t.params.selection = t.memory.of(call.selection);
      return visit(t);
    }
    case Operator::moba: {
      Translated<AttnspecMoba> t(target, problem, call.workspace);
      t.set_attention(call);
      t.params.block = call.problem.block;
      t.params.top_k = call.problem.top_k;
      t.params.gate = static_cast<std::int32_t>(bit_of(call.problem.gate));
      t.params.selection = t.memory.of(call.selection);
      return visit(t);
    }
    case Operator::nsa_compressed: {
      Translated<AttnspecNsaCompressed> t(target, problem, call.workspace);
      t.set_sizes(call.nsa);
      t.set_attention(call);
      t.params.selection = t.memory.of(call.selection);
      return visit(t);
    }
    case Operator::window: {
      Translated<AttnspecWindow> t(target, problem, call.workspace);
      t.set_attention(call);
      t.params.window = call.nsa.window;
      return visit(t);
    }
    case Operator::nsa_compress:
    case Operator::nsa: break;  // have calls of their own
  }
}

template <class Visit>
void translate(const Target& target, const CompressCall& call, const Visit& visit) {
  Translated<AttnspecNsaCompress> t(target, call.nsa.attention, call.workspace);
  t.set_sizes(call.nsa);
  t.params.tokens = t.memory.of(call.tokens);
  t.params.phi = t.memory.of(call.phi);
  t.params.rows = t.memory.of(call.rows);
  visit(t);
}

template <class Visit>
void translate(const Target& target, const NsaCall& call, const Visit& visit) {
  Translated<AttnspecNsa> t(target, call.nsa.attention, call.workspace);
  const auto branch = [&](const BranchCall& b) {
    return AttnspecBranch{t.memory.of(b.k), t.memory.of(b.v), t.memory.of(b.o), t.memory.of(b.lse)};
  };
  t.set_sizes(call.nsa);
  t.params.q = t.memory.of(call.q);
  t.params.compressed = branch(call.compressed);
  t.params.selected = branch(call.selected);
  t.params.window = branch(call.window);
  t.params.gates = t.memory.of(call.gates);
  t.params.phi_k = t.memory.of(call.phi_k);
  t.params.phi_v = t.memory.of(call.phi_v);
  t.params.k_compressed = t.memory.of(call.k_compressed);
  t.params.v_compressed = t.memory.of(call.v_compressed);
  t.params.selection = t.memory.of(call.selection);
  t.params.o = t.memory.of(call.o);
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

// ---- Calls ----

/// Enters a function of a kernel, which no exception may leave: one that does ends the process.
template <class Result, class... Params, class... Arguments>
Result enter(Result (*function)(Params...), Arguments... arguments) noexcept {
  return function(arguments...);
}

template <class Params>
void run(const std::string& name, const char* (*function)(const Params*), const Params& params, CallMemory& memory) {
  if (function == nullptr) throw CallFailed(fmt::format("kernel '{}': has no function for this call", name));
  if (const char* message = enter(function, &params)) throw CallFailed(fmt::format("kernel '{}': {}", name, message));
  try {
    memory.collect();
  } catch (const std::runtime_error& error) {
    throw CallFailed(fmt::format("kernel '{}': {}", name, error.what()));
  }
}

template <class Call>
void run_call(const Target& target, const Call& call) {
  translate(target, call, [&](auto& t) {
    run(target.name, target.kernel.*Functions<std::decay_t<decltype(t.params)>>::forward, t.params, t.memory);
  });
}

template <class Params>
void run_backward(const Target& target, Translated<Params>& forward, typename Functions<Params>::Backward& params) {
  params.struct_size = sizeof params;
  params.forward = &forward.params;
  run(target.name, target.kernel.*Functions<Params>::backward, params, forward.memory);
}

void run_call(const Target& target, const BackwardCall& call) {
  translate(target, call.forward, [&](auto& t) {
    using Backward = typename Functions<std::decay_t<decltype(t.params)>>::Backward;
    if constexpr (!std::is_void_v<Backward>) {
      Backward params{};
      params.d_o = t.memory.of(call.d_o);
      params.dq = t.memory.of(call.dq);
      params.dk = t.memory.of(call.dk);
      params.dv = t.memory.of(call.dv);
      run_backward(target, t, params);
    }
  });
}

void run_call(const Target& target, const CompressBackwardCall& call) {
  translate(target, call.forward, [&](auto& t) {
    AttnspecNsaCompressBackward params{};
    params.d_rows = t.memory.of(call.d_rows);
    params.d_tokens = t.memory.of(call.d_tokens);
    params.d_phi = t.memory.of(call.d_phi);
    run_backward(target, t, params);
  });
}

void run_call(const Target& target, const NsaBackwardCall& call) {
  translate(target, call.forward, [&](auto& t) {
    const auto branch = [&](const BranchGradientViews& b) {
      return AttnspecBranchGradients{t.memory.of(b.dk), t.memory.of(b.dv)};
    };
    AttnspecNsaBackward params{};
    params.d_o = t.memory.of(call.d_o);
    params.dq = t.memory.of(call.dq);
    params.compressed = branch(call.compressed);
    params.selected = branch(call.selected);
    params.window = branch(call.window);
    params.d_gates = t.memory.of(call.d_gates);
    params.dk_compressed = t.memory.of(call.dk_compressed);
    params.dv_compressed = t.memory.of(call.dv_compressed);
    params.d_phi_k = t.memory.of(call.d_phi_k);
    params.d_phi_v = t.memory.of(call.d_phi_v);
    run_backward(target, t, params);
  });
}

constexpr std::int64_t kMostWorkspace = std::int64_t{1} << 40;

Operator operator_of(const ForwardCall& call) { return call.op; }
Operator operator_of(const CompressCall&) { return Operator::nsa_compress; }
Operator operator_of(const NsaCall&) { return Operator::nsa; }

template <class Params>
bool has_backward(const AttnspecKernel& kernel) {
  if constexpr (std::is_void_v<typename Functions<Params>::Backward>)
    return false;
  else
    return kernel.*Functions<Params>::backward != nullptr;
}

template <class Call>
std::int64_t ask_workspace(const Target& target, const Call& call) {
  std::int64_t bytes = 0;
  translate(target, call, [&](const auto& t) {
    using Params = std::decay_t<decltype(t.params)>;
    for (const bool is_backward : {false, true}) {
      if (is_backward && !has_backward<Params>(target.kernel)) continue;
      const std::int64_t asked =
          enter(target.kernel.workspace_bytes, bit_of(operator_of(call)), is_backward, &t.params);
      if (asked < 0 || asked > kMostWorkspace)
        throw CallFailed(fmt::format("kernel '{}': asks for {} bytes of workspace", target.name, asked));
      bytes = std::max(bytes, asked);
    }
  });
  return bytes;
}

}  // namespace

void ForeignCalls::run(const AnyCall& call) {
  std::visit([&](const auto& c) { run_call({kernel_, name_, row_offsets_}, c); }, call);
}

std::int64_t ForeignCalls::workspace_bytes(const AnyCall& call) {
  return std::visit(
      [&]<class Call>(const Call& c) -> std::int64_t {
        if constexpr (requires { c.forward; }) {
          throw std::logic_error("the workspace of a backward is that of its forward");
        } else {
          return ask_workspace({kernel_, name_, row_offsets_}, c);
        }
      },
      call);
}

}  // namespace attnspec::verify
