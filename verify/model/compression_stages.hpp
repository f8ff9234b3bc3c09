// The stages of NSA's compression, as the paper has them. What each does stands in Stages.
#pragma once

#include "verify/model/stages.hpp"

namespace attnspec::verify::model {

std::int64_t block_start(const CompressWork& work, std::int64_t i);
Rows load_block(const Stages& stages, const CompressWork& work, const TensorView& tokens, std::int64_t i,
                std::int64_t g);
Parameters load_parameters(const NsaProblem& nsa, const PhiTensors<TensorView>& phi, std::int64_t g);
float activation(reference::Activation kind, float x);
float slope(reference::Activation kind, float x);
std::vector<float> compress(const Stages& stages, const CompressWork& work, const Parameters& phi, const Rows& x);
Rows compress_backward(const Stages& stages, const CompressWork& work, const Parameters& phi, const Rows& x,
                       const std::vector<float>& d_row, ParameterSums& sums);
void add_to_tokens(const Rows& d_x, std::int64_t begin, Rows& sums);
void add_to_parameters(const Arithmetic& arithmetic, const ParameterSums& of_head, ParameterSums& sums);
/// The bias is position times W: its gradient goes on to both, rounded as everything between two products.
void finish_parameters(const NsaProblem& nsa, const Arithmetic& arithmetic, const Parameters& phi, ParameterSums& sums);

}  // namespace attnspec::verify::model
