// Inputs whose values, or whose given gradients, are indicator columns: a call on them writes weights.
#pragma once

#include <cstdint>

#include "verify/xray/attentions.hpp"

namespace attnspec::verify {

/// Columns of weights that one call can show: the features of a value; no more than hidden units where phi=mlp makes
/// the values of the compressed branch.
std::int64_t columns_of_a_call(const Case& c, const Attention& attention);

/// The values as the attention reads them: that of column first + d, d < width, is units[first + d] in feature d. All
/// else is 0. [keys, Hkv, dv]; units [columns].
reference::Tensor indicator_values(const Attention& attention, std::int64_t first, std::int64_t width,
                                   const reference::Vector& units);

/// Inputs from which the attention reads such values: those of the compressed branch are tokens from which phi, whose
/// parameters are set too, makes one row that is not 0. How large it is the kernel says.
void set_indicator_values(const Case& c, const Attention& attention, std::int64_t first, std::int64_t width,
                          Inputs& inputs);

/// The given gradients in which query row first + d, a packed token * H + head, has 1 in feature d. All others are 0.
/// Gates, where there are any, are 1, so that every branch has these gradients.
void set_indicator_gradients(const Case& c, std::int64_t first, Inputs& inputs);

}  // namespace attnspec::verify
