#include "verify/model/model.hpp"

#include "verify/model/attention.hpp"
#include "verify/model/compression.hpp"
#include "verify/model/nsa.hpp"

namespace attnspec::verify::model {

Kernel make_kernel(std::string kernel_name, std::string summary, std::vector<Operator> operators, const Stages& stages,
                   reference::Departures departures) {
  Kernel kernel;
  kernel.name = std::move(kernel_name);
  kernel.summary = std::move(summary);
  kernel.operators = std::move(operators);
  kernel.departures = departures;
  kernel.equal_bits = kernel.equal_bits_backward = EqualBits::any_batch;
  kernel.unsupported = [](const Case&) { return std::nullopt; };
  const auto profile_of = [departures](const TensorView& input) { return make_profile(input.format, departures); };
  kernel.forward = [&stages, profile_of](const ForwardCall& call) { run(stages, profile_of(call.q), call); };
  kernel.backward = [&stages, profile_of](const BackwardCall& call) { run(stages, profile_of(call.forward.q), call); };
  kernel.compress = [&stages, profile_of](const CompressCall& call) { run(stages, profile_of(call.tokens), call); };
  kernel.compress_backward = [&stages, profile_of](const CompressBackwardCall& call) {
    run(stages, profile_of(call.forward.tokens), call);
  };
  kernel.nsa = [&stages, profile_of](const NsaCall& call) { run(stages, profile_of(call.q), call); };
  kernel.nsa_backward = [&stages, profile_of](const NsaBackwardCall& call) {
    run(stages, profile_of(call.forward.q), call);
  };
  return kernel;
}

}  // namespace attnspec::verify::model
