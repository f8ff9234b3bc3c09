// The model kernel as a kernel that can be judged, for every operator: MoBA assigns blocks itself, `selected` is given
// them, and `dense` is one block that holds the sequence.
#pragma once

#include "verify/kernel.hpp"
#include "verify/model/stages.hpp"

namespace attnspec::verify::model {

/// Inputs, weights and outputs in the case's dtype; mean keys in fp32; the normaliser sums unrounded weights.
Profile default_profile(Format dtype);

/// A kernel made of these stages, which must live as long as the program, in the arithmetic of a profile.
Kernel make_kernel(std::string kernel_name, std::string summary, std::vector<Operator> operators, const Stages& stages,
                   Profile (*profile)(Format dtype) = default_profile);

}  // namespace attnspec::verify::model
