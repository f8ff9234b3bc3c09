#include "verify/run/foreign_kernel.hpp"

#include <fmt/format.h>
#include <fmt/ranges.h>

#include <cstring>
#include <memory>
#include <numeric>
#include <stdexcept>

#include "cuda/device.hpp"
#include "reference/moba/moba.hpp"
#include "reference/nsa/nsa_compression.hpp"
#include "reference/nsa/nsa_selection.hpp"
#include "verify/run/foreign_limits.hpp"

namespace attnspec::verify {

namespace {

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
    views.*kPhiParts<TensorView>[i].tensor =
        tensor.tokens == 0 ? absent_tensor(c.dtype) : packed(c.dtype, tensor.tokens, tensor.heads, tensor.dim);
  }
  return views;
}

/// A forward call of the case, without data, of these problems.
AnyCall blank_call(const reference::MobaProblem& moba, const reference::NsaProblem& nsa, Format output,
                   bool exports_lse, const Case& c) {
  const std::int64_t queries = sum(row_counts(c, RowsOf::queries)), keys = sum(key_rows(c));
  const TensorView q = packed(c.dtype, queries, c.heads, c.dk), k = packed(c.dtype, keys, c.kv_heads, c.dk),
                   v = packed(c.dtype, keys, c.kv_heads, c.dv), o = packed(output, queries, c.heads, c.dv),
                   lse = exports_lse ? packed(Format::fp32, queries, c.heads, 1) : absent_tensor(Format::fp32);
  const auto selection = [&](std::int64_t heads, std::int64_t slots) {
    return packed_selection(nullptr, queries, heads, slots);
  };
  if (compresses(c.op)) {
    const std::int64_t rows = reference::compressed_offsets(nsa).back();
    const TensorView compressed = packed(c.dtype, rows, c.kv_heads, c.dk);
    if (c.op == Operator::nsa_compress) return CompressCall{nsa, k, packed_phi(c, nsa, c.dk), compressed, {}};
    const BranchCall branch{k, v, o, lse};
    return NsaCall{nsa,
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
  }
  ForwardCall call{c.op, moba, nsa, q, k, {}, {}, {}, {}, {}};
  if (c.op == Operator::selected) call.selection = selection(c.shared_selection ? c.kv_heads : c.heads, c.top_k);
  if (selects(c.op)) call.selection = selection(c.heads, reference::selection_slots(moba));
  if (c.op == Operator::nsa_compressed) call.selection = selection(c.kv_heads, reference::selection_slots(nsa));
  if (attends(c.op)) call.v = v, call.o = o, call.lse = lse;
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

/// Rejects limits that are wrong, and those that leave nothing of an operator.
Limits declared_limits(const AttnspecKernel& kernel, const std::string& name) {
  try {
    const Limits limits = limits_of(kernel.limits);
    for (const Operator op : kOperators) {
      if ((kernel.operators & bit_of(op)) == 0) continue;
      const Case any = parse_case(fmt::format("{}()", verify::name(op)));
      if (const auto why = outside(limits, inside(limits, any)))
        reject(name, fmt::format("its limits leave no case of {}: {}", verify::name(op), *why));
    }
    return limits;
  } catch (const reference::InvalidProblem& error) {
    reject(name, error.what());
  }
}

/// The functions of an operator that a kernel has.
struct HasFunctions {
  Operator op;
  bool forward, backward;
};
std::vector<HasFunctions> all_functions(const AttnspecKernel& k) {
  return {{Operator::dense, k.dense != nullptr, k.dense_backward != nullptr},
          {Operator::selected, k.selected != nullptr, k.selected_backward != nullptr},
          {Operator::moba_select, k.moba_select != nullptr, false},
          {Operator::moba, k.moba != nullptr, k.moba_backward != nullptr},
          {Operator::nsa_compress, k.nsa_compress != nullptr, k.nsa_compress_backward != nullptr},
          {Operator::nsa_compressed, k.nsa_compressed != nullptr, k.nsa_compressed_backward != nullptr},
          {Operator::window, k.window != nullptr, k.window_backward != nullptr},
          {Operator::nsa, k.nsa != nullptr, k.nsa_backward != nullptr}};
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
  for (const HasFunctions& functions : all_functions(kernel))
    if ((kernel.operators & bit_of(functions.op)) != 0 && !functions.forward)
      reject(name, fmt::format("operator {} is declared without a function", verify::name(functions.op)));
  declared_limits(kernel, name);
  equal_bits(kernel, name);
  if ((kernel.operators & ATTNSPEC_MOBA_SELECT) != 0 && (kernel.promises & ATTNSPEC_EXPORTS_SELECTION) == 0)
    reject(name, "operator moba_select needs the promise ATTNSPEC_EXPORTS_SELECTION");
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
  for (const HasFunctions& functions : all_functions(kernel)) {
    if ((kernel.operators & bit_of(functions.op)) == 0) continue;
    declared.operators.push_back(functions.op);
    if (!functions.backward) declared.forward_only.push_back(functions.op);
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
  Kernel kernel;
  kernel.name = name;
  kernel.is_reentrant = false;
  kernel.summary = declared.summary;
  kernel.arithmetic = declared.arithmetic;
  kernel.operators = declared.operators;
  kernel.forward_only = declared.forward_only;
  kernel.equal_bits = declared.equal_bits;
  kernel.equal_bits_backward = declared.equal_bits_backward;
  kernel.exports_selection = declared.exports_selection;
  kernel.exports_lse = declared.exports_lse;
  kernel.limits = declared.limits;
  kernel.unsupported = [limits = declared.limits](const Case& c) { return outside(limits, c); };
  if (declared.has_workspace)
    kernel.workspace_bytes = [workspace_bytes = functions.workspace_bytes, options = declared.arithmetic,
                              exports_lse = declared.exports_lse](const Case& c) {
      const reference::MobaProblem moba = problem_of(c);
      const reference::NsaProblem nsa = nsa_problem_of(c);
      return workspace_bytes(
          blank_call(moba, nsa, reference::make_arithmetic(c.dtype, options).output, exports_lse, c));
    };
  kernel.forward = functions.run;
  kernel.backward = functions.run;
  kernel.compress = functions.run;
  kernel.compress_backward = functions.run;
  kernel.nsa = functions.run;
  kernel.nsa_backward = functions.run;
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
