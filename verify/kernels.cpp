#include <fmt/format.h>
#include <fmt/ranges.h>

#include <stdexcept>

#include "verify/kernel.hpp"
#include "verify/model/defects.hpp"
#include "verify/model/model.hpp"

namespace attnspec::verify {

const std::vector<Kernel>& kernels() {
  static const std::vector<Kernel> all{
      model::make_kernel("model:moba", "the report's five steps on the CPU, in declared arithmetic",
                         {std::begin(kOperators), std::end(kOperators)}, model::correct_stages()),
  };
  return all;
}

const Kernel& find_kernel(std::string_view name) {
  static const std::vector<Kernel> defective = [] {
    std::vector<Kernel> result;
    for (const model::Defect& defect : model::defects())
      result.push_back(
          model::make_kernel(fmt::format("defect:{}", defect.name), defect.what, {defect.op}, defect.stages));
    return result;
  }();
  std::vector<std::string> names;
  for (const auto* list : {&kernels(), &defective}) {
    for (const Kernel& kernel : *list) {
      if (kernel.name == name) return kernel;
      if (list == &kernels()) names.push_back(kernel.name);
    }
  }
  throw std::invalid_argument(fmt::format("kernel '{}': is not known; there are {} and defect:NAME (see list defects)",
                                          name, fmt::join(names, ", ")));
}

}  // namespace attnspec::verify
