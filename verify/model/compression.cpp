#include "verify/model/compression.hpp"

namespace attnspec::verify::model {

namespace {

/// The compressed rows of a sequence: one for each block of l tokens that lies wholly in it.
std::int64_t num_rows(const NsaProblem& nsa, std::int64_t tokens) {
  return tokens < nsa.compress_block ? 0 : (tokens - nsa.compress_block) / nsa.compress_stride + 1;
}

/// Sums for parameters of these shapes, zero.
ParameterSums zero_like(const Parameters& phi) {
  ParameterSums zero;
  for (const auto& [name, part] : kPhiParts<Rows>) zero.*part = Rows((phi.*part).count, (phi.*part).dim);
  zero.bias = Rows(1, phi.w.dim);
  return zero;
}

struct Compression {
  const Stages& stages;
  const Arithmetic& arithmetic;
  const CompressCall& call;
  std::vector<CompressWork> sequences;

  Compression(const Stages& s, const Arithmetic& p, const CompressCall& c) : stages(s), arithmetic(p), call(c) {
    const auto &tokens = call.nsa.attention.k_offsets, rows = compressed_row_offsets(call.nsa);
    for (std::size_t i = 0; i + 1 < tokens.size(); ++i)
      sequences.push_back({call.nsa, arithmetic, tokens[i], tokens[i + 1] - tokens[i], rows[i], rows[i + 1] - rows[i]});
  }

  /// The tokens of block i of a sequence.
  Rows block(const CompressWork& sequence, std::int64_t i, std::int64_t g) const {
    return stages.load_block(stages, sequence, call.tokens, i, g);
  }

  void forward_head(std::int64_t g) const {
    const Parameters phi = stages.load_parameters(call.nsa, call.phi, g);
    for (const CompressWork& sequence : sequences) {
      Rows rows(sequence.num_rows, call.rows.dim);
      for (std::int64_t i = 0; i < rows.count; ++i) {
        const std::vector<float> row = stages.compress(stages, sequence, phi, block(sequence, i, g));
        std::copy(row.begin(), row.end(), rows.row(i));
      }
      stages.store(rows, call.rows, sequence.first_row, g, 1);
    }
  }

  /// The gradients of one kv head: stores those of its tokens and returns those of its parameters, which are a part
  /// where heads share parameters.
  ParameterSums backward_head(const CompressBackwardCall& backward, std::int64_t g) const {
    const Parameters phi = stages.load_parameters(call.nsa, call.phi, g);
    ParameterSums sums = zero_like(phi);
    Rows d_tokens(call.tokens.tokens, call.tokens.dim);
    for (const CompressWork& sequence : sequences) {
      for (std::int64_t i = 0; i < sequence.num_rows; ++i) {
        const Rows d_row = stages.load(backward.d_rows, sequence.first_row + i, sequence.first_row + i + 1, g);
        const Rows d_x = stages.compress_backward(stages, sequence, phi, block(sequence, i, g), d_row.values, sums);
        stages.add_to_tokens(d_x, stages.block_start(sequence, i), d_tokens);
      }
    }
    stages.store(d_tokens, backward.d_tokens, 0, g, 1);
    if (call.nsa.shared_phi && arithmetic.rounded_head_gradients)
      for (const auto& [name, part] : kPhiParts<Rows>)
        for (float& x : (sums.*part).values) x = rounded(x, arithmetic.gradient_part);
    return sums;
  }
};

}  // namespace

std::vector<std::int64_t> compressed_row_offsets(const NsaProblem& nsa) {
  const std::vector<std::int64_t>& tokens = nsa.attention.k_offsets;
  std::vector<std::int64_t> rows{0};
  for (std::size_t i = 1; i < tokens.size(); ++i)
    rows.push_back(rows.back() + num_rows(nsa, tokens[i] - tokens[i - 1]));
  return rows;
}

void run(const Stages& stages, const Arithmetic& arithmetic, const CompressCall& call) {
  const Compression compression(stages, arithmetic, call);
#pragma omp parallel for schedule(dynamic)
  for (std::int64_t g = 0; g < call.nsa.attention.kv_heads; ++g) compression.forward_head(g);
}

void run(const Stages& stages, const Arithmetic& arithmetic, const CompressBackwardCall& call) {
  const Compression compression(stages, arithmetic, call.forward);
  const NsaProblem& nsa = call.forward.nsa;
  std::vector<ParameterSums> d_phi(static_cast<std::size_t>(nsa.attention.kv_heads));
#pragma omp parallel for schedule(dynamic)
  for (std::int64_t g = 0; g < nsa.attention.kv_heads; ++g)
    d_phi[static_cast<std::size_t>(g)] = compression.backward_head(call, g);
  if (nsa.shared_phi) {
    for (std::size_t g = 1; g < d_phi.size(); ++g) stages.add_to_parameters(arithmetic, d_phi[g], d_phi[0]);
    d_phi.resize(1);
  }
  for (std::size_t set = 0; set < d_phi.size(); ++set) {
    const auto index = static_cast<std::int64_t>(set);
    stages.finish_parameters(nsa, arithmetic, stages.load_parameters(nsa, call.forward.phi, index), d_phi[set]);
    for (std::size_t part = 0; part < kPhiParts<Rows>.size(); ++part)
      stages.store(d_phi[set].*kPhiParts<Rows>[part].tensor, call.d_phi.*kPhiParts<TensorView>[part].tensor, 0, index,
                   1);
  }
}

}  // namespace attnspec::verify::model
