// What can be judged: a kernel has a name, the operators it implements, its declared arithmetic, its limits, and a
// forward and a backward to run: of attention, of NSA's compression, of the whole of NSA.
#pragma once

#include <chrono>
#include <cstddef>
#include <functional>
#include <memory>
#include <memory_resource>
#include <optional>
#include <span>
#include <stdexcept>
#include <string>
#include <string_view>
#include <variant>
#include <vector>

#include "reference/noise/noise.hpp"
#include "reference/problem.hpp"
#include "verify/cases/case.hpp"
#include "verify/cases/limits.hpp"
#include "verify/operators/phi.hpp"
#include "verify/run/storage.hpp"
#include "verify/run/timing.hpp"
#include "verify/run/verdict.hpp"

namespace attnspec::verify {

/// One call of an operator that attends or selects, but for `nsa`. Sequences are packed; problem.block, top_k and gate
/// have no meaning for `dense`. The operators of NSA read `nsa`, the others `problem`.
struct ForwardCall {
  Operator op;
  const reference::MobaProblem& problem;
  const reference::NsaProblem& nsa;
  TensorView q, k, v;       // [tokens, heads, dim], in the case's dtype; no v for moba_select; compressed rows k and v
                            // for nsa_compressed, those of every sequence one after the other
  SelectionView selection;  // read by `selected`, written by `moba`, `moba_select` and, per kv head, `nsa_compressed`;
                            // none for `dense`, `window` and the backward of `nsa_compressed`
  TensorView o;             // written: [query tokens, H, dv] in the arithmetic's output format
  TensorView lse;           // written: [query tokens, H, 1] fp32, natural logarithm
  std::span<std::byte> workspace;  // as many bytes as the kernel asked for, holding anything
};

/// The backward reads what the forward was given and what it gave.
struct BackwardCall {
  ForwardCall forward;  // its o, lse and selection are read
  TensorView d_o;       // [query tokens, H, dv], in the case's dtype
  TensorView dq;        // written: [query tokens, H, dk]
  TensorView dk;        // written: [key tokens, Hkv, dk], summed over the group
  TensorView dv;        // written: [key tokens, Hkv, dv], summed over the group
};

/// One call of `nsa_compress`: rows = phi(blocks of tokens), for every sequence one after the other.
struct CompressCall {
  const reference::NsaProblem& nsa;
  TensorView tokens;  // [key tokens, Hkv, dk], in the case's dtype
  PhiTensors<TensorView> phi;
  TensorView rows;  // written: [compressed rows, Hkv, dk], in the case's dtype
  std::span<std::byte> workspace;
};

struct CompressBackwardCall {
  CompressCall forward;          // its rows are not read
  TensorView d_rows;             // [compressed rows, Hkv, dk], in the case's dtype
  TensorView d_tokens;           // written: [key tokens, Hkv, dk]
  PhiTensors<TensorView> d_phi;  // written
};

/// What one branch of NSA reads, and what it gives before its gate.
struct BranchCall {
  TensorView k, v;    // [key tokens, Hkv, dim], in the case's dtype; several branches may share theirs
  TensorView o, lse;  // written: [query tokens, H, dv] in the arithmetic's output format, [query tokens, H, 1] fp32
};

/// One call of `nsa`, the whole of it. Its parts are outputs too, for the backward and for the judge.
struct NsaCall {
  const reference::NsaProblem& nsa;
  TensorView q;  // [query tokens, H, dk], in the case's dtype
  BranchCall compressed, selected, window;
  TensorView gates;  // [query tokens, H, 3], in the case's dtype
  PhiTensors<TensorView> phi_k, phi_v;
  TensorView k_compressed, v_compressed;  // written: [compressed rows, Hkv, dim], in the case's dtype
  SelectionView selection;                // written: per kv head
  TensorView o;                           // written: [query tokens, H, dv] in the arithmetic's output format
  std::span<std::byte> workspace;
};

struct BranchGradientViews {
  TensorView dk, dv;  // written: [key tokens, Hkv, dim], of the branch's own k and v
};

/// The backward reads what the forward was given and what it gave, but for o.
struct NsaBackwardCall {
  NsaCall forward;
  TensorView d_o;  // [query tokens, H, dv], in the case's dtype
  TensorView dq;   // written: [query tokens, H, dk], summed over the branches
  BranchGradientViews compressed, selected, window;
  TensorView d_gates;                       // written: [query tokens, H, 3]
  TensorView dk_compressed, dv_compressed;  // written: of the compressed rows
  PhiTensors<TensorView> d_phi_k, d_phi_v;  // written
};

/// Any call of a kernel.
using AnyCall = std::variant<ForwardCall, BackwardCall, CompressCall, CompressBackwardCall, NsaCall, NsaBackwardCall>;

/// Bytes of the line that says why a call failed, at most.
inline constexpr std::size_t kMaxFailureLine = 300;

/// What a kernel's function throws when a call that its limits allow came to nothing. what() is one line: what the
/// kernel said, or how it ended.
class CallFailed : public std::runtime_error {
 public:
  /// text: its first line is what(), which is cut at kMaxFailureLine; the lines after it are `more`.
  explicit CallFailed(const std::string& text, Verdict how = Verdict::call_failed);

  Verdict verdict;   // call_failed: it said so; crash; hang
  std::string more;  // for standard error, a traceback; may be empty
};

/// What a kernel promises: between which calls a row of an output keeps its bits. Each promise includes those before
/// it.
enum class EqualBits {
  none,        // it may sum in another order every time
  same_call,   // the same call again
  same_shape,  // calls of equal shape in which all that the row reads is equal, wherever it lies
  any_batch,   // all calls in which it is, whatever other sequences and queries are in them
};

const char* name(EqualBits promise);

struct Kernel {
  std::string name;     // kind:name, as on the command line
  std::string summary;  // one line
  std::vector<Operator> operators;
  std::vector<Operator> forward_only;       // those of them without a backward, though others may have one
  reference::ArithmeticOptions arithmetic;  // what it declares beside the plain one of its inputs' format
  bool is_reentrant = true;                 // whether it may be called from several threads at the same time
  /// Whether `moba` writes the selection it used. Without it a row is judged on every selection it may have used.
  bool exports_selection = true;
  /// Whether it writes lse. Without it the tensor is absent in its calls.
  bool exports_lse = true;
  EqualBits equal_bits = EqualBits::none;           // of its forwards
  EqualBits equal_bits_backward = EqualBits::none;  // of its backwards
  /// Where the tensors of its calls must lie.
  std::pmr::memory_resource* memory = std::pmr::get_default_resource();
  bool is_simulated = false;  // a GPU's kernel run on a CPU: slow, so it is judged only where it is named
  /// Makes the next call its first one. Empty: no call leaves anything behind.
  std::function<void()> forget;
  Limits limits;  // inside which its cases are drawn
  /// Makes another kernel like it, in a process and memory of its own, which may be called at the same time. Empty:
  /// there is no more than one.
  std::function<std::shared_ptr<Kernel>()> another;
  /// Why it cannot run a case, from its declared limits and before any input exists; nothing when it can.
  std::function<std::optional<std::string>(const Case&)> unsupported;
  std::function<std::int64_t(const Case&)> workspace_bytes;  // of a forward or backward call; empty: none
  std::function<void(const ForwardCall&)> forward;
  std::function<void(const BackwardCall&)> backward;                   // empty: forward only
  std::function<void(const CompressCall&)> compress;                   // of nsa_compress
  std::function<void(const CompressBackwardCall&)> compress_backward;  // empty: forward only
  std::function<void(const NsaCall&)> nsa;                             // of nsa
  std::function<void(const NsaBackwardCall&)> nsa_backward;            // empty: forward only
  /// Does any of these calls many times, and tells how long it took. Empty: it cannot be timed.
  std::function<Timing(const AnyCall&, const TimingPlan&)> time;
};

using Seconds = std::chrono::duration<double>;
/// How long somebody else's kernel may take to load, and for a call.
inline constexpr Seconds kTimeout{60};

bool implements(const Kernel& kernel, Operator op);

}  // namespace attnspec::verify
