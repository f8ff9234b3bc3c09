#include "verify/kernels.hpp"

#include <fmt/format.h>
#include <fmt/ranges.h>

#include <algorithm>
#include <stdexcept>
#include <string_view>

#include "cuda/device.hpp"
#include "cuda/kernels.hpp"
#include "verify/model/defects/defects.hpp"
#include "verify/model/model.hpp"
#include "verify/model/variants/variants.hpp"
#include "verify/run/foreign_kernel.hpp"

namespace attnspec::verify {

namespace {

/// The model kernel, once for NSA and once for the other operators.
struct ModelKernel {
  const char* name;
  const char* summary;
  bool is_nsa;
};
constexpr ModelKernel kModels[] = {
    {"model:moba", "MoBA's five steps, and the selectors of MSA, DSA and QSA, on the CPU in declared arithmetic",
     false},
    {"model:nsa", "NSA on the CPU, its compression, branches and gates, in declared arithmetic", true},
};

/// The operators of NSA, or the others.
std::vector<Operator> operators_of(bool nsa) {
  std::vector<Operator> operators;
  for (const Operator op : kOperators)
    if (is_nsa(op) == nsa) operators.push_back(op);
  return operators;
}
std::vector<Operator> all_operators() { return {std::begin(kOperators), std::end(kOperators)}; }

Kernel make_model(const ModelKernel& kernel, std::string name, const reference::ArithmeticOptions& options) {
  return model::make_kernel(std::move(name), kernel.summary, operators_of(kernel.is_nsa), model::correct_stages(),
                            options);
}

}  // namespace

const std::vector<Kernel>& kernels() {
  static const std::vector<Kernel> all = [] {
    std::vector<Kernel> kernels;
    for (const ModelKernel& kernel : kModels) kernels.push_back(make_model(kernel, kernel.name, {}));
    for (const AttnspecKernel* declared : cuda::simulated_kernels()) {
      kernels.push_back(make_foreign_kernel(*declared, fmt::format("sim:{}", declared->name)));
      kernels.back().is_reentrant = true;
      kernels.back().is_simulated = true;
    }
    if (!cuda::find_devices().names.empty())
      for (const AttnspecKernel* declared : cuda::gpu_kernels())
        kernels.push_back(make_foreign_kernel(*declared, fmt::format("cuda:{}", declared->name)));
    return kernels;
  }();
  return all;
}

Kernel find_kernel(std::string_view text, Seconds timeout) {
  if (is_foreign(text)) return load_kernel(std::string(text), timeout);
  if (text.find(".so+") != std::string_view::npos)
    throw std::invalid_argument(
        fmt::format("kernel '{}': a library declares its own arithmetic, no option can be added to it", text));
  const auto [name, options] = reference::parse_arithmetic(text);
  std::vector<std::string> names;
  for (const Kernel& kernel : kernels()) {
    if (kernel.name == name && options.empty()) return kernel;
    names.push_back(kernel.name);
  }
  for (const ModelKernel& kernel : kModels)
    if (name == kernel.name) return make_model(kernel, std::string(text), options);
  for (const model::Defect& defect : model::defects())
    if (name == fmt::format("defect:{}", defect.name)) {
      std::vector<Operator> operators{defect.op};
      operators.insert(operators.end(), defect.beside.begin(), defect.beside.end());
      return model::make_kernel(std::string(text), defect.what, std::move(operators), defect.stages, options);
    }
  for (const model::Variant& variant : model::variants())
    if (name == fmt::format("variant:{}", variant.name))
      return model::make_kernel(std::string(text), variant.what, all_operators(), variant.stages, options);
  if (const std::string why = cuda::find_devices().why_none; name.starts_with("cuda:") && !why.empty())
    throw std::invalid_argument(fmt::format("kernel '{}': needs a CUDA device: {}", name, why));
  if (name.starts_with("sim:") && cuda::simulated_kernels().empty())
    throw std::invalid_argument(fmt::format(
        "kernel '{}': this build has no simulated kernels; ./attnspec builds them for a command that names one", name));
  throw std::invalid_argument(fmt::format(
      "kernel '{}': is not known; there are {}, defect:NAME (list defects), variant:NAME (list variants), PATH.so "
      "and FILE.py:FUNCTION",
      name, fmt::join(names, ", ")));
}

}  // namespace attnspec::verify
