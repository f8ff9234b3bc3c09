// What can be judged: a kernel declares the operators it implements, its arithmetic, its promises and its limits, and
// does calls.
#pragma once

#include <chrono>
#include <cstddef>
#include <functional>
#include <memory>
#include <memory_resource>
#include <optional>
#include <stdexcept>
#include <string>
#include <vector>

#include "reference/noise/noise.hpp"
#include "verify/cases/case.hpp"
#include "verify/cases/limits.hpp"
#include "verify/operators/any_call.hpp"
#include "verify/run/timing.hpp"
#include "verify/run/verdict.hpp"

namespace attnspec::verify {

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

/// What a kernel declares.
struct Declaration {
  std::string summary{};  // one line
  std::vector<Operator> operators{};
  std::vector<Operator> forward_only{};             // those of them without a backward, though others may have one
  reference::ArithmeticOptions arithmetic{};        // beside the plain one of its inputs' format
  EqualBits equal_bits = EqualBits::none;           // of its forwards
  EqualBits equal_bits_backward = EqualBits::none;  // of its backwards
  /// Whether `moba` writes the selection it used. Without it a row is judged on every selection it may have used.
  bool exports_selection = true;
  /// Whether it writes lse. Without it the tensor is absent in its calls.
  bool exports_lse = true;
  bool has_workspace = false;
  bool is_on_device = false;  // its tensors are in the memory of a GPU
  Limits limits{};            // inside which its cases are drawn
};

struct Kernel : Declaration {
  std::string name{};         // kind:name, as on the command line
  bool is_reentrant = true;   // whether it may be called from several threads at the same time
  bool is_simulated = false;  // a GPU's kernel run on a CPU: slow, so it is judged only where it is named
  /// Where the tensors of its calls must lie.
  std::pmr::memory_resource* memory = std::pmr::get_default_resource();
  /// Makes the next call its first one. Empty: no call leaves anything behind.
  std::function<void()> forget{};
  /// Makes another kernel like it, in a process and memory of its own, which may be called at the same time. Empty:
  /// there is no more than one.
  std::function<std::shared_ptr<Kernel>()> another{};
  /// Why it cannot run a case, from its declared limits and before any input exists; nothing when it can.
  std::function<std::optional<std::string>(const Case&)> unsupported{};
  std::function<std::int64_t(const Case&)> workspace_bytes{};  // of a forward or backward call; empty: none
  /// Does one call. Throws CallFailed.
  std::function<void(const AnyCall&)> call{};
  /// Does one call many times, and tells how long it took. Empty: it cannot be timed.
  std::function<Timing(const AnyCall&, const TimingPlan&)> time{};
};

using Seconds = std::chrono::duration<double>;
/// How long somebody else's kernel may take to load, and for a call.
inline constexpr Seconds kTimeout{60};

bool implements(const Declaration& declared, Operator op);
/// Whether it has a backward of the operator.
bool has_backward(const Declaration& declared, Operator op);

}  // namespace attnspec::verify
