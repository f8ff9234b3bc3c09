#include "verify/run/foreign_kernel.hpp"

#include <fmt/format.h>
#include <fmt/ranges.h>

#include <cstring>
#include <memory>
#include <stdexcept>

#include "cuda/device.hpp"
#include "verify/operators/operator.hpp"
#include "verify/run/foreign_limits.hpp"

namespace attnspec::verify {

namespace {

// ---- Sizes of a case, before it has tensors ----

/// A forward call of the case, without data, of these problems.
AnyCall blank_call(const reference::MobaProblem& moba, const reference::NsaProblem& nsa, Format output,
                   bool exports_lse, const Case& c) {
  AnyCall call = blank_call(c.op, false, moba, nsa);
  const std::vector<TensorInfo>& tensors = page_of(c.op).tensors;
  for (std::size_t i = 0; i < tensors.size(); ++i) {
    const TensorInfo& tensor = tensors[i];
    if (tensor.role != Role::input && tensor.role != Role::output) continue;
    const auto [tokens, heads, dim] = shape_of(c, tensor);
    if (tensor.format == Stored::blocks) {
      call.selection = packed_selection(nullptr, tokens, heads, dim);
      continue;
    }
    const Format format = format_of(tensor, c.dtype, output);
    const bool is_absent = tensor.format == Stored::fp32 ? !exports_lse : tensor.part != nullptr && tokens == 0;
    call.tensors[i] =
        is_absent ? absent_tensor(format) : TensorView{nullptr, format, tokens, heads, dim, heads * dim, dim};
  }
  return call;
}

// ---- The declaration ----

[[noreturn]] void reject(const std::string& name, const std::string& why) {
  throw std::invalid_argument(fmt::format("kernel '{}': {}", name, why));
}

/// Rejects what is no line of text.
std::string line(const std::string& name, const char* field, const char* text) {
  if (text == nullptr) reject(name, fmt::format("{} is NULL", field));
  if (std::strchr(text, '\n') != nullptr) reject(name, fmt::format("{} is more than one line", field));
  return text;
}

reference::ArithmeticOptions arithmetic_of(const AttnspecKernel& kernel, const std::string& name) {
  const std::string text = line(name, "arithmetic", kernel.arithmetic);
  try {
    return reference::parse_arithmetic(text.empty() ? "" : "+" + text).options;
  } catch (const std::invalid_argument& error) {
    reject(name, error.what());
  }
}

/// What the promises say of bits. Each needs those before it.
EqualBits equal_bits(const AttnspecKernel& kernel, const std::string& name) {
  constexpr std::pair<std::uint32_t, const char*> kPromises[] = {
      {ATTNSPEC_DETERMINISTIC, "ATTNSPEC_DETERMINISTIC"},
      {ATTNSPEC_ROW_INDEPENDENT, "ATTNSPEC_ROW_INDEPENDENT"},
      {ATTNSPEC_BATCH_INVARIANT, "ATTNSPEC_BATCH_INVARIANT"}};
  int promised = 0;
  for (int i = 0; i < std::ssize(kPromises); ++i) {
    if ((kernel.promises & kPromises[i].first) == 0) continue;
    if (promised < i) reject(name, fmt::format("promise {} needs {}", kPromises[i].second, kPromises[promised].second));
    promised = i + 1;
  }
  return static_cast<EqualBits>(promised);
}

bool declares(const AttnspecKernel& kernel, Operator op) { return (kernel.operators & page_of(op).bit) != 0; }

/// Rejects limits that are wrong, and those that leave nothing of an operator.
Limits declared_limits(const AttnspecKernel& kernel, const std::string& name) {
  try {
    const Limits limits = limits_of(kernel.limits);
    for (const Operator op : kOperators) {
      if (!declares(kernel, op)) continue;
      const Case any = parse_case(fmt::format("{}()", verify::name(op)));
      if (const auto why = outside(limits, inside(limits, any)))
        reject(name, fmt::format("its limits leave no case of {}: {}", verify::name(op), *why));
    }
    return limits;
  } catch (const reference::InvalidProblem& error) {
    reject(name, error.what());
  }
}

/// Rejects a declaration that is wrong.
void check(const AttnspecKernel& kernel, const std::string& name) {
  if (kernel.abi_version != ATTNSPEC_ABI_VERSION)
    reject(name, fmt::format("abi_version={}: this attnspec has version {}", kernel.abi_version, ATTNSPEC_ABI_VERSION));
  if (kernel.struct_size < sizeof(AttnspecKernel))
    reject(name, fmt::format("struct_size={}: in version {} it is at least {}", kernel.struct_size,
                             ATTNSPEC_ABI_VERSION, sizeof(AttnspecKernel)));
  if (kernel.device_type != kDLCPU && kernel.device_type != kDLCUDA)
    reject(name, fmt::format("device_type={}: is neither kDLCPU nor kDLCUDA", kernel.device_type));
  line(name, "name", kernel.name);
  line(name, "summary", kernel.summary);
  arithmetic_of(kernel, name);
  if (kernel.operators == 0) reject(name, "declares no operator");
  if (kernel.operators >> std::size(kOperators) != 0)
    reject(name, fmt::format("operators={:#x}: has bits of no operator", kernel.operators));
  for (const Operator op : kOperators)
    if (declares(kernel, op) && !page_of(op).forward.exists(kernel))
      reject(name, fmt::format("operator {} is declared without a function", verify::name(op)));
  declared_limits(kernel, name);
  equal_bits(kernel, name);
  for (const Operator op : kOperators)
    if (declares(kernel, op) && selects(op) && !attends(op) && (kernel.promises & ATTNSPEC_EXPORTS_SELECTION) == 0)
      reject(name, fmt::format("operator {} needs the promise ATTNSPEC_EXPORTS_SELECTION", verify::name(op)));
  if (kernel.device_type == kDLCUDA)
    if (const std::string why = cuda::find_devices().why_none; !why.empty())
      reject(name, "needs a CUDA device: " + why);
}

}  // namespace

SeveralKernels::SeveralKernels(const std::string& file, std::vector<std::string> all)
    : std::invalid_argument(
          fmt::format("kernel '{}': the file has several kernels, name one: {}", file, fmt::join(all, ", "))),
      names(std::move(all)) {}

Declaration declaration_of(const AttnspecKernel& kernel, const std::string& name) {
  check(kernel, name);
  Declaration declared;
  declared.summary = fmt::format("{}: {}", kernel.name, kernel.summary);
  declared.arithmetic = arithmetic_of(kernel, name);
  for (const Operator op : kOperators) {
    if (!declares(kernel, op)) continue;
    declared.operators.push_back(op);
    if (!page_of(op).backward.exists(kernel)) declared.forward_only.push_back(op);
  }
  declared.equal_bits = equal_bits(kernel, name);
  if ((kernel.promises & ATTNSPEC_UNORDERED_BACKWARD) == 0) declared.equal_bits_backward = declared.equal_bits;
  declared.exports_selection = (kernel.promises & ATTNSPEC_EXPORTS_SELECTION) != 0;
  declared.exports_lse = (kernel.promises & ATTNSPEC_KEEPS_LSE) == 0;
  declared.has_workspace = kernel.workspace_bytes != nullptr;
  declared.is_on_device = kernel.device_type == kDLCUDA;
  declared.limits = declared_limits(kernel, name);
  return declared;
}

Kernel make_kernel(const Declaration& declared, const std::string& name, const CallFunctions& functions) {
  Kernel kernel{declared};
  kernel.name = name;
  kernel.is_reentrant = false;
  kernel.unsupported = [limits = declared.limits](const Case& c) { return outside(limits, c); };
  if (declared.has_workspace)
    kernel.workspace_bytes = [workspace_bytes = functions.workspace_bytes, options = declared.arithmetic,
                              exports_lse = declared.exports_lse](const Case& c) {
      const reference::MobaProblem moba = problem_of(c);
      const reference::NsaProblem nsa = nsa_problem_of(c);
      return workspace_bytes(
          blank_call(moba, nsa, reference::make_arithmetic(c.dtype, options).output, exports_lse, c));
    };
  kernel.call = functions.run;
  kernel.time = functions.time;
  return kernel;
}

Kernel make_foreign_kernel(const AttnspecKernel& declared, const std::string& name) {
  const Declaration declaration = declaration_of(declared, name);
  const ForeignCalls calls(declared);  // copied for each call, so that several may run at the same time
  return make_kernel(
      declaration, name,
      {[calls](const AnyCall& call) { ForeignCalls(calls).run(call); },
       [calls](const AnyCall& call, const TimingPlan& plan) { return ForeignCalls(calls).time(call, plan); },
       [calls](const AnyCall& call) { return ForeignCalls(calls).workspace_bytes(call); }});
}

}  // namespace attnspec::verify
