// What an operator's page says: its keys, and its tensors with all that inputs, memory, calls, the worker's messages,
// the C interface, laws and findings need to know of them.
#pragma once

#include <cstddef>
#include <cstdint>
#include <functional>
#include <optional>
#include <string>
#include <string_view>
#include <vector>

#include "reference/nsa/nsa.hpp"
#include "verify/abi/kernel_abi.h"
#include "verify/cases/case.hpp"
#include "verify/cases/regimes.hpp"
#include "verify/operators/any_call.hpp"
#include "verify/operators/operators.hpp"
#include "verify/operators/phi.hpp"
#include "verify/operators/reach.hpp"
#include "verify/operators/selection_rule.hpp"

namespace attnspec::verify {

/// Which call has a tensor, and who fills it: a forward is given inputs and writes outputs; its backward is given the
/// gradient of an output too, and writes gradients.
enum class Role { input, output, given_gradient, gradient };

/// Heads of a tensor: query heads; key/value heads; those of a selection that is given.
enum class Heads { query, kv, given };

/// Elements of a row.
enum class Dim { dk, dv, one, branches, heads, slots };

enum class Stored {
  as_input,   // in the dtype of the case
  as_output,  // in the output format of the kernel's arithmetic
  fp32,       // also where the case has less: weights, and statistics of rows, which a kernel may keep to itself
  blocks,     // a selection, int32
};

/// What the backward does with an output of the forward.
enum class InBackward { read, unread, absent };

/// Powers by which an output depends on q, on k, on the values and on the given gradient, where the scores stay as they
/// are. The tokens of `nsa_compress` count as values.
struct Degrees {
  int q = 0, k = 0, v = 0, gradient = 0;
};

struct TensorInfo {
  std::string name{};  // of the field of kernel_abi.h, with the path through its structs
  Role role = Role::input;
  RowsOf rows = RowsOf::queries;
  Heads heads = Heads::query;
  Dim dim = Dim::dk;  // of parameters: the features of a token
  Stored format = Stored::as_input;
  /// Where it lies in the operator's forward struct of kernel_abi.h, or of a gradient in its backward struct.
  std::size_t offset = 0;
  /// What an input or given gradient holds, and what a gradient is one of. Of parameters: `phi` and `part`.
  reference::Tensor Inputs::*input = nullptr;
  PhiTensors<reference::Tensor> Inputs::*phi = nullptr;
  reference::Tensor PhiTensors<reference::Tensor>::*part = nullptr;
  Degrees degrees{};                          // of outputs and gradients
  std::optional<reference::Branch> branch{};  // of an operator with branches, whose alone it is
  InBackward in_backward = InBackward::read;  // of an output or a selection
  bool follows_from_stored = false;           // made of rows that the kernel stored before
};

/// A function of AttnspecKernel, whatever the struct that it takes.
struct CFunction {
  std::size_t struct_size = 0;  // of what it takes
  bool (*exists)(const AttnspecKernel&) = [](const AttnspecKernel&) { return false; };
  /// No exception may leave it: one that does ends the process.
  const char* (*enter)(const AttnspecKernel&, const void* params) noexcept = nullptr;
};

struct OperatorPage {
  std::string name{};
  std::string summary{};            // one line: inputs, outputs, meaning
  std::vector<std::string> keys{};  // of its cases
  bool is_nsa = false;              // its sizes are those of NsaProblem, not of MobaProblem
  std::vector<TensorInfo> tensors{};
  /// Slots of its selection for each query.
  std::int64_t (*slots)(const Case&) = nullptr;
  /// The keys that its queries may see in any block; null for operators without one attention.
  Reach (*reach)(const reference::MobaProblem&, const reference::NsaProblem&) = nullptr;
  /// What a selection that it writes may hold; null where it writes none, or one that follows from other outputs. The
  /// inputs must outlive it.
  RuleOfRow (*rule)(const Case&, const reference::Arithmetic&, const Inputs&) = nullptr;

  // ---- In kernel_abi.h ----
  std::uint32_t bit = 0;
  CFunction forward{}, backward{};
  /// Sets the fields of the forward struct that are neither its head nor tensors. sizes: of the operators of NSA.
  void (*set_sizes)(const AnyCall& call, const AttnspecNsaSizes& sizes,
                    void* forward) = [](const AnyCall&, const AttnspecNsaSizes&, void*) {};
};

/// What a tensor of a case has: [tokens, heads, dim]; a selection has slots for dim. An absent one has no tokens.
struct Shape {
  std::int64_t tokens = 0, heads = 0, dim = 0;
};
Shape shape_of(const Case& c, const TensorInfo& tensor);

/// The format of its elements, where the case has the first and the kernel's outputs the second; of no selection.
inline Format format_of(const TensorInfo& tensor, Format input, Format output) {
  return tensor.format == Stored::fp32 ? Format::fp32 : tensor.format == Stored::as_output ? output : input;
}

/// The tensor of that name, null where there is none.
const TensorInfo* find_tensor(Operator op, std::string_view name);
/// The same. Throws std::out_of_range where there is none.
const TensorInfo& tensor_of(Operator op, std::string_view name);

inline bool is_gradient(const TensorInfo& tensor) { return tensor.role == Role::gradient; }

/// What an input, or the gradient of one, has in the inputs; null for a tensor that follows from others.
template <class AnyInputs>
auto* find_input(const TensorInfo& tensor, AnyInputs& inputs) {
  if (tensor.part != nullptr) return &(inputs.*tensor.phi.*tensor.part);
  return tensor.input == nullptr ? nullptr : &(inputs.*tensor.input);
}

}  // namespace attnspec::verify
