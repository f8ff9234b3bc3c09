#include "verify/model/model.hpp"

#include "verify/model/attention.hpp"
#include "verify/model/calls.hpp"
#include "verify/model/compression.hpp"
#include "verify/model/nsa.hpp"
#include "verify/model/selectors.hpp"

namespace attnspec::verify::model {

Kernel make_kernel(std::string kernel_name, std::string summary, std::vector<Operator> operators, const Stages& stages,
                   const reference::ArithmeticOptions& options) {
  Kernel kernel;
  kernel.name = std::move(kernel_name);
  kernel.summary = std::move(summary);
  kernel.operators = std::move(operators);
  kernel.arithmetic = options;
  kernel.equal_bits = kernel.equal_bits_backward = EqualBits::any_batch;
  kernel.unsupported = [](const Case&) { return std::nullopt; };
  kernel.call = [&stages, options](const AnyCall& call) {
    const Arithmetic arithmetic = make_arithmetic(call.tensors.front().format, options);
    if (has_branches(call.op))
      return call.is_backward ? run(stages, arithmetic, nsa_backward_call(call))
                              : run(stages, arithmetic, nsa_call(call));
    if (!has_queries(call.op))
      return call.is_backward ? run(stages, arithmetic, compress_backward_call(call))
                              : run(stages, arithmetic, compress_call(call));
    if (has_indexer(call.op)) return run(stages, arithmetic, index_call(call));
    return call.is_backward ? run(stages, arithmetic, attention_backward_call(call))
                            : run(stages, arithmetic, attention_call(call));
  };
  return kernel;
}

}  // namespace attnspec::verify::model
