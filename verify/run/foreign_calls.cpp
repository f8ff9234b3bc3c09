#include "verify/run/foreign_calls.hpp"

#include <fmt/format.h>

#include <algorithm>
#include <cstddef>
#include <functional>
#include <stdexcept>

#include "reference/nsa/nsa_compression.hpp"
#include "verify/operators/operator.hpp"
#include "verify/run/timed_call.hpp"

namespace attnspec::verify {

namespace {

// ---- Our calls as the structs of the C interface ----

std::int32_t bit_of(reference::Phi phi) {
  return phi == reference::Phi::mean     ? ATTNSPEC_PHI_MEAN
         : phi == reference::Phi::linear ? ATTNSPEC_PHI_LINEAR
                                         : ATTNSPEC_PHI_MLP;
}
std::int32_t bit_of(reference::Activation activation) {
  return activation == reference::Activation::relu   ? ATTNSPEC_RELU
         : activation == reference::Activation::silu ? ATTNSPEC_SILU
                                                     : ATTNSPEC_GELU;
}

/// What every backward struct begins with.
struct BackwardHead {
  std::uint64_t struct_size;
  const void* forward;
};
static_assert(offsetof(BackwardHead, forward) == offsetof(AttnspecNsaBackward, forward));

/// A struct of kernel_abi.h, zero when made.
class Params {
 public:
  explicit Params(std::size_t bytes) : memory_(bytes) {}

  void* data() { return memory_.data(); }
  const void* data() const { return memory_.data(); }
  /// What lies so many bytes from its start.
  template <class T>
  T& at(std::size_t offset) {
    return *reinterpret_cast<T*>(memory_.data() + offset);
  }

 private:
  std::vector<std::byte> memory_;
};

/// A call as the operator's structs, with what their pointers need.
struct Translated {
  const OperatorPage& page;
  Params forward, backward;
  CallMemory memory;

  /// row_offsets: of NSA, must live as long as this.
  Translated(const AnyCall& call, std::int32_t device_type, std::vector<std::int64_t>& row_offsets)
      : page(page_of(call.op)),
        forward(page.forward.struct_size),
        backward(page.backward.struct_size),
        memory(device_type) {
    forward.at<AttnspecCall>(0) = head(call);
    page.set_sizes(call, sizes(call, row_offsets), forward.data());
    if (call.is_backward) backward.at<BackwardHead>(0) = {page.backward.struct_size, forward.data()};
    for (std::size_t i = 0; i < page.tensors.size(); ++i) {
      const TensorInfo& tensor = page.tensors[i];
      const bool is_of_backward = tensor.role == Role::gradient || tensor.role == Role::given_gradient;
      if (is_of_backward && !call.is_backward) continue;
      Params& params = is_of_backward ? backward : forward;
      params.at<DLTensor>(tensor.offset) =
          tensor.format == Stored::blocks ? memory.of(call.selection) : memory.of(call.tensors[i]);
    }
  }
  Translated(const Translated&) = delete;

 private:
  AttnspecCall head(const AnyCall& call) {
    const reference::AttentionProblem& problem = call.attention();
    AttnspecCall head{};
    head.struct_size = page.forward.struct_size;
    head.num_sequences = std::ssize(problem.q_offsets) - 1;
    head.q_offsets = problem.q_offsets.data();
    head.k_offsets = problem.k_offsets.data();
    head.scale = problem.scale;
    head.causal = problem.causal;
    head.stream = memory.stream();
    head.workspace = memory.of(call.workspace);
    head.workspace_bytes = std::ssize(call.workspace);
    return head;
  }

  static AttnspecNsaSizes sizes(const AnyCall& call, std::vector<std::int64_t>& row_offsets) {
    if (!has_compression(call.op)) return {};
    const reference::NsaProblem& nsa = call.nsa;
    const std::vector<std::int64_t> offsets = reference::compressed_offsets(nsa);
    row_offsets.assign(offsets.begin(), offsets.end());
    return {row_offsets.data(), nsa.compress_block, nsa.compress_stride, nsa.block,       nsa.top_n,
            nsa.initial_blocks, nsa.local_blocks,   nsa.window,          bit_of(nsa.phi), bit_of(nsa.activation)};
  }
};

// ---- Calls ----

/// What to do with a call, whose tensors are in their place: enter it, once or more often.
using Runner = std::function<void(CallMemory& memory, const std::function<void()>& enter)>;

void run_call(const AttnspecKernel& kernel, const AnyCall& call, std::vector<std::int64_t>& row_offsets,
              const Runner& runner) {
  Translated t(call, kernel.device_type, row_offsets);
  const CFunction& function = call.is_backward ? t.page.backward : t.page.forward;
  if (!function.exists(kernel)) throw CallFailed("the kernel has no function for this call");
  const void* params = call.is_backward ? t.backward.data() : t.forward.data();
  try {
    runner(t.memory, [&] {
      if (const char* message = function.enter(kernel, params)) throw CallFailed(message);
    });
    t.memory.collect();
  } catch (const CallFailed&) {
    throw;
  } catch (const std::runtime_error& error) {
    throw CallFailed(error.what());
  }
}

constexpr std::int64_t kMaxWorkspace = std::int64_t{1} << 40;

/// No exception may leave the kernel's function: one that does ends the process.
std::int64_t ask_workspace(const AttnspecKernel& kernel, const Translated& forward, bool is_backward) noexcept {
  return kernel.workspace_bytes(forward.page.bit, is_backward, forward.forward.data());
}

}  // namespace

void ForeignCalls::run(const AnyCall& call) {
  run_call(kernel_, call, row_offsets_, [](CallMemory&, const std::function<void()>& enter) { enter(); });
}

Timing ForeignCalls::time(const AnyCall& call, const TimingPlan& plan) {
  Timing timing;
  run_call(kernel_, call, row_offsets_, [&](CallMemory& memory, const std::function<void()>& enter) {
    timing = time_call(plan, memory, call.attention().kv_heads, enter);
  });
  return timing;
}

std::int64_t ForeignCalls::workspace_bytes(const AnyCall& call) {
  if (call.is_backward) throw std::logic_error("the workspace of a backward is that of its forward");
  const Translated forward(call, kernel_.device_type, row_offsets_);
  std::int64_t bytes = 0;
  for (const bool is_backward : {false, true}) {
    if (is_backward && !forward.page.backward.exists(kernel_)) continue;
    const std::int64_t asked = ask_workspace(kernel_, forward, is_backward);
    if (asked < 0 || asked > kMaxWorkspace)
      throw CallFailed(fmt::format("the kernel asks for {} bytes of workspace", asked));
    bytes = std::max(bytes, asked);
  }
  return bytes;
}

}  // namespace attnspec::verify
