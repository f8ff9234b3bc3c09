#include <fmt/format.h>
#include <fmt/ranges.h>

#include <algorithm>
#include <stdexcept>

#include "verify/kernel.hpp"
#include "verify/model/defects.hpp"
#include "verify/model/model.hpp"
#include "verify/model/variations.hpp"

namespace attnspec::verify {

namespace {

constexpr const char* kModel = "model:moba";
constexpr const char* kModelSummary = "the report's five steps on the CPU, in declared arithmetic";

constexpr const char* kNsaModel = "model:nsa";
constexpr const char* kNsaModelSummary = "the branches of NSA on the CPU, in declared arithmetic";

/// The operators of NSA, or the others.
std::vector<Operator> operators_of(bool nsa) {
  std::vector<Operator> operators;
  for (const Operator op : kOperators)
    if (is_nsa(op) == nsa) operators.push_back(op);
  return operators;
}
std::vector<Operator> all_operators() { return {std::begin(kOperators), std::end(kOperators)}; }

}  // namespace

bool implements(const Kernel& kernel, Operator op) {
  return std::find(kernel.operators.begin(), kernel.operators.end(), op) != kernel.operators.end();
}

const std::vector<Kernel>& kernels() {
  static const std::vector<Kernel> all{
      model::make_kernel(kModel, kModelSummary, operators_of(false), model::correct_stages()),
      model::make_kernel(kNsaModel, kNsaModelSummary, operators_of(true), model::correct_stages()),
  };
  return all;
}

Kernel find_kernel(std::string_view text) {
  const auto [name, departures] = reference::parse_departures(text);
  std::vector<std::string> names;
  for (const Kernel& kernel : kernels()) {
    if (kernel.name == name && departures.empty()) return kernel;
    names.push_back(kernel.name);
  }
  if (name == kModel)
    return model::make_kernel(std::string(text), kModelSummary, operators_of(false), model::correct_stages(),
                              departures);
  if (name == kNsaModel)
    return model::make_kernel(std::string(text), kNsaModelSummary, operators_of(true), model::correct_stages(),
                              departures);
  for (const model::Defect& defect : model::defects())
    if (name == fmt::format("defect:{}", defect.name))
      return model::make_kernel(std::string(text), defect.what, {defect.op}, defect.stages, departures);
  for (const model::Variation& variation : model::variations())
    if (name == fmt::format("benign:{}", variation.name))
      return model::make_kernel(std::string(text), variation.what, all_operators(), variation.stages, departures);
  throw std::invalid_argument(fmt::format(
      "kernel '{}': is not known; there are {}, defect:NAME (list defects) and benign:NAME (list variations)", name,
      fmt::join(names, ", ")));
}

}  // namespace attnspec::verify
