#include "verify/run/foreign_calls.hpp"

#include <fmt/format.h>

#include <algorithm>
#include <functional>
#include <stdexcept>
#include <type_traits>

#include "reference/nsa/nsa_compression.hpp"
#include "verify/run/timed_call.hpp"

namespace attnspec::verify {

namespace {

using reference::AttentionProblem;

static_assert(bit_of(Operator::dense) == ATTNSPEC_DENSE && bit_of(Operator::selected) == ATTNSPEC_SELECTED &&
              bit_of(Operator::moba_select) == ATTNSPEC_MOBA_SELECT && bit_of(Operator::moba) == ATTNSPEC_MOBA &&
              bit_of(Operator::nsa_compress) == ATTNSPEC_NSA_COMPRESS &&
              bit_of(Operator::nsa_compressed) == ATTNSPEC_NSA_COMPRESSED &&
              bit_of(Operator::window) == ATTNSPEC_WINDOW && bit_of(Operator::nsa) == ATTNSPEC_NSA);

// ---- Our calls as the structs of the C interface ----

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

/// What to do with a call, whose tensors are in their place: enter it, once or more often.
using Runner = std::function<void(CallMemory& memory, std::int64_t kv_heads, const std::function<void()>& enter)>;

/// A kernel to call, and memory for its calls.
struct Target {
  const AttnspecKernel& kernel;
  std::vector<std::int64_t>& row_offsets;
  Runner run = {};
};

/// A forward call as the operator's struct, with what its pointers need.
template <class Params>
struct Translated {
  Params params{};
  CallMemory memory;
  std::int64_t kv_heads;
  std::vector<std::int64_t>& row_offsets;

  Translated(const Target& target, const AttentionProblem& problem, std::span<std::byte> workspace)
      : memory(target.kernel.device_type), kv_heads(problem.kv_heads), row_offsets(target.row_offsets) {
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
      t.params.window_size = call.nsa.window;
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

template <class Forward, class Params>
void run(const Target& target, const char* (*function)(const Params*), const Params& params, Forward& forward) {
  if (function == nullptr) throw CallFailed("the kernel has no function for this call");
  try {
    target.run(forward.memory, forward.kv_heads, [&] {
      if (const char* message = enter(function, &params)) throw CallFailed(message);
    });
    forward.memory.collect();
  } catch (const CallFailed&) {
    throw;
  } catch (const std::runtime_error& error) {
    throw CallFailed(error.what());
  }
}

template <class Call>
void run_call(const Target& target, const Call& call) {
  translate(target, call, [&](auto& t) {
    run(target, target.kernel.*Functions<std::decay_t<decltype(t.params)>>::forward, t.params, t);
  });
}

template <class Params>
void run_backward(const Target& target, Translated<Params>& forward, typename Functions<Params>::Backward& params) {
  params.struct_size = sizeof params;
  params.forward = &forward.params;
  run(target, target.kernel.*Functions<Params>::backward, params, forward);
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
    params.d_compressed = branch(call.compressed);
    params.d_selected = branch(call.selected);
    params.d_window = branch(call.window);
    params.d_gates = t.memory.of(call.d_gates);
    params.dk_compressed = t.memory.of(call.dk_compressed);
    params.dv_compressed = t.memory.of(call.dv_compressed);
    params.d_phi_k = t.memory.of(call.d_phi_k);
    params.d_phi_v = t.memory.of(call.d_phi_v);
    run_backward(target, t, params);
  });
}

constexpr std::int64_t kMaxWorkspace = std::int64_t{1} << 40;

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
      if (asked < 0 || asked > kMaxWorkspace)
        throw CallFailed(fmt::format("the kernel asks for {} bytes of workspace", asked));
      bytes = std::max(bytes, asked);
    }
  });
  return bytes;
}

}  // namespace

void ForeignCalls::run(const AnyCall& call) {
  const Runner once = [](CallMemory&, std::int64_t, const std::function<void()>& enter) { enter(); };
  std::visit([&](const auto& c) { run_call({kernel_, row_offsets_, once}, c); }, call);
}

Timing ForeignCalls::time(const AnyCall& call, const TimingPlan& plan) {
  Timing timing;
  const Runner timed = [&](CallMemory& memory, std::int64_t kv_heads, const std::function<void()>& enter) {
    timing = time_call(plan, memory, kv_heads, enter);
  };
  std::visit([&](const auto& c) { run_call({kernel_, row_offsets_, timed}, c); }, call);
  return timing;
}

std::int64_t ForeignCalls::workspace_bytes(const AnyCall& call) {
  return std::visit(
      [&]<class Call>(const Call& c) -> std::int64_t {
        if constexpr (requires { c.forward; }) {
          throw std::logic_error("the workspace of a backward is that of its forward");
        } else {
          return ask_workspace({kernel_, row_offsets_}, c);
        }
      },
      call);
}

}  // namespace attnspec::verify
