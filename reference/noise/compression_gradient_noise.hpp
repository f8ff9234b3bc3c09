// The predicted noise of what phi's backward stores: the gradients of tokens and of parameters. docs/numerics.md, tags
// P3 to P5, C1, E7. Every row below is stored in the arithmetic's output format.
#pragma once

#include "reference/noise/phi_backward_noise.hpp"

namespace attnspec::reference {

/// The gradient of a token of a kv head that has these parameters, [features]; zero if no block has it. Tags P3, P4.
PredictedRow token_gradient(const PhiBackward& of, std::int64_t token, std::int64_t kv_head);

/// Row i of the gradient of position, [features]. Tags P3, P4.
PredictedRow position_gradient(const PhiBackward& of, std::int64_t i);

/// Row i of dW, [features]. Tags P5, C1.
PredictedRow w_gradient(const PhiBackward& of, std::int64_t i);

/// Row i of dW1, [hidden]. Tags P4, P5.
PredictedRow w1_gradient(const PhiBackward& of, std::int64_t i);

/// db1, [hidden]. Tags P4, P5.
PredictedRow b1_gradient(const PhiBackward& of);

/// Row i of dW2, [features]. Tags P2, P5.
PredictedRow w2_gradient(const PhiBackward& of, std::int64_t i);

/// db2, [features]. Tag P5.
PredictedRow b2_gradient(const PhiBackward& of);

}  // namespace attnspec::reference
