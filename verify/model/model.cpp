#include "verify/model/model.hpp"

#include "verify/model/attention.hpp"
#include "verify/model/compression.hpp"
#include "verify/model/nsa.hpp"

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
  const auto arithmetic_of = [options](const TensorView& input) { return make_arithmetic(input.format, options); };
  kernel.forward = [&stages, arithmetic_of](const ForwardCall& call) { run(stages, arithmetic_of(call.q), call); };
  kernel.backward = [&stages, arithmetic_of](const BackwardCall& call) {
    run(stages, arithmetic_of(call.forward.q), call);
  };
  kernel.compress = [&stages, arithmetic_of](const CompressCall& call) {
    run(stages, arithmetic_of(call.tokens), call);
  };
  kernel.compress_backward = [&stages, arithmetic_of](const CompressBackwardCall& call) {
    run(stages, arithmetic_of(call.forward.tokens), call);
  };
  kernel.nsa = [&stages, arithmetic_of](const NsaCall& call) { run(stages, arithmetic_of(call.q), call); };
  kernel.nsa_backward = [&stages, arithmetic_of](const NsaBackwardCall& call) {
    run(stages, arithmetic_of(call.forward.q), call);
  };
  return kernel;
}

}  // namespace attnspec::verify::model
