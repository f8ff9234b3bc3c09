// The model kernel as a kernel that can be judged, for every operator.
#pragma once

#include "verify/model/stages.hpp"
#include "verify/run/kernel.hpp"

namespace attnspec::verify::model {

/// A kernel made of these stages, which must live as long as the program, in the plain arithmetic of its inputs' format
/// with arithmetic options.
Kernel make_kernel(std::string kernel_name, std::string summary, std::vector<Operator> operators, const Stages& stages,
                   const reference::ArithmeticOptions& options = {});

}  // namespace attnspec::verify::model
