#include "verify/xray/indicators.hpp"

#include <algorithm>
#include <vector>

namespace attnspec::verify {

using namespace reference;

std::int64_t columns_of_a_call(const Case& c, const Attention& attention) {
  return attention.is_compressed() && c.phi == Phi::mlp ? std::min(c.dv, c.hidden) : c.dv;
}

Tensor indicator_values(const Attention& attention, std::int64_t first, std::int64_t width, const Vector& units) {
  Tensor values(attention.keys(), attention.problem.kv_heads, attention.problem.dv);
  for (std::int64_t d = 0; d < width && first + d < attention.columns(); ++d)
    values.at((first + d) % values.tokens, (first + d) / values.tokens)[d] = units[first + d];
  return values;
}

namespace {

/// Parameters of phi with which a row is the first token of its block, but for the slope of an activation.
void set_first_token_phi(const Case& c, PhiTensors<Tensor>& phi) {
  for (const auto& part : kPhiParts<Tensor>) {
    Tensor& parameters = phi.*part.tensor;
    std::fill(parameters.values.begin(), parameters.values.end(), 0);
  }
  const auto set_identity = [](Tensor& parameters, std::int64_t width) {
    for (std::int64_t set = 0; set < parameters.heads && parameters.tokens > 0; ++set)
      for (std::int64_t d = 0; d < width; ++d) parameters.at(d, set)[d] = 1;
  };
  const std::int64_t width = std::min(c.dv, c.hidden);
  set_identity(phi.w, c.dv);
  set_identity(phi.w1, width);
  set_identity(phi.w2, width);
}

/// Tokens of one sequence, by segments of d of them, whose means over r segments are 0 but for row m, where it is 1 / l
/// of the number: s_k + ... + s_(k+r-1) is 1 for k = m and 0 for all others.
std::vector<int> segments_of_row(std::int64_t m, std::int64_t r, std::int64_t segments) {
  std::vector<int> s(static_cast<std::size_t>(segments), 0);
  const auto at = [&](std::int64_t k) -> int& { return s[static_cast<std::size_t>(k)]; };
  at(m + r - 1) = 1;
  for (std::int64_t k = m; k + r < segments; ++k) at(k + r) = at(k) - (k == m ? 1 : 0);
  return s;
}

}  // namespace

void set_indicator_values(const Case& c, const Attention& attention, std::int64_t first, std::int64_t width,
                          Inputs& inputs) {
  Tensor& v = *find_input(*attention.v, inputs);
  if (!attention.is_compressed()) {
    v = indicator_values(attention, first, width, Vector::Ones(attention.columns()));
  } else {
    const NsaProblem problem = nsa_problem_of(c);
    const std::vector<CompressionBlock> blocks = compression_blocks(problem);
    const std::vector<Sequence> tokens = sequences(problem.attention), rows = sequences(attention.problem);
    if (problem.phi != Phi::mean) set_first_token_phi(c, inputs.phi_v);
    std::fill(v.values.begin(), v.values.end(), 0);
    for (std::int64_t d = 0; d < width && first + d < attention.columns(); ++d) {
      const std::int64_t row = (first + d) % attention.keys(), g = (first + d) / attention.keys();
      if (problem.phi != Phi::mean) {
        v.at(blocks[static_cast<std::size_t>(row)].begin, g)[d] = 1;
        continue;
      }
      const auto s = std::find_if(rows.begin(), rows.end(), [&](const Sequence& one) { return row < one.k_end; });
      const Sequence& sequence = tokens[static_cast<std::size_t>(s->index)];
      const std::vector<int> segments =
          segments_of_row(row - s->k_begin, problem.compress_block / problem.compress_stride,
                          sequence.num_keys() / problem.compress_stride);
      for (std::size_t k = 0; k < segments.size(); ++k)
        v.at(sequence.k_begin + static_cast<std::int64_t>(k) * problem.compress_stride, g)[d] =
            static_cast<double>(segments[k] * problem.compress_block);
    }
    for (double& x : v.values) x = round_to(x, c.dtype);
  }
  if (c.shared_kv)
    for (const Attention& other : attentions_of(c)) *find_input(*other.v, inputs) = v;
}

void set_indicator_gradients(const Case& c, std::int64_t first, Inputs& inputs) {
  std::fill(inputs.gates.values.begin(), inputs.gates.values.end(), 1);
  Tensor& d_o = inputs.d_o;
  std::fill(d_o.values.begin(), d_o.values.end(), 0);
  for (std::int64_t d = 0; d < c.dv && first + d < d_o.tokens * d_o.heads; ++d)
    d_o.at((first + d) / d_o.heads, (first + d) % d_o.heads)[d] = 1;
}

}  // namespace attnspec::verify
