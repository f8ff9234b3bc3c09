#include "reference/nsa/nsa_compression.hpp"

#include <cstddef>

namespace attnspec::reference {

std::int64_t num_compressed(const NsaProblem& problem, std::int64_t num_keys) {
  if (num_keys < problem.compress_block) return 0;
  return (num_keys - problem.compress_block) / problem.compress_stride + 1;
}

std::int64_t num_visible_compressed(const NsaProblem& problem, std::int64_t t) {
  return num_compressed(problem, t + 1);
}

std::vector<CompressionBlock> compression_blocks(const NsaProblem& problem) {
  std::vector<CompressionBlock> result;
  for (const Sequence& sequence : sequences(problem.attention)) {
    for (std::int64_t i = 0; i < num_compressed(problem, sequence.num_keys()); ++i) {
      const std::int64_t begin = sequence.k_begin + i * problem.compress_stride;
      result.push_back({begin, begin + problem.compress_block, static_cast<std::int64_t>(result.size())});
    }
  }
  return result;
}

std::vector<std::int64_t> compressed_offsets(const NsaProblem& problem) {
  std::vector<std::int64_t> offsets{0};
  for (const Sequence& sequence : sequences(problem.attention))
    offsets.push_back(offsets.back() + num_compressed(problem, sequence.num_keys()));
  return offsets;
}

Tensor compress(const NsaProblem& problem, const PhiHeads& phi, const Tensor& tokens) {
  Tensor rows(compressed_offsets(problem).back(), problem.attention.kv_heads, tokens.dim);
  for (std::int64_t g = 0; g < problem.attention.kv_heads; ++g)
    for (const auto& [begin, end, row] : compression_blocks(problem))
      rows.row(row, g) = compress_block(problem, phi[phi_index(problem, g)], tokens.rows(begin, end, g)).row;
  return rows;
}

AttentionProblem compressed_problem(const NsaProblem& problem) {
  AttentionProblem rows = problem.attention;
  rows.k_offsets = compressed_offsets(problem);
  return rows;
}

AttendedRow attend_compressed(const NsaProblem& problem, const QkvRows& in, std::int64_t t) {
  const KeyRange visible{0, num_visible_compressed(problem, t)};
  return attend(in, {&visible, 1}, problem.attention.scale);
}

AttentionOutputs compressed(const NsaProblem& problem, const Qkv& in) {
  const AttentionProblem rows = compressed_problem(problem);
  const std::vector<Sequence> in_tokens = sequences(problem.attention);
  return attend_rows(rows, [&](const Sequence& in_rows, std::int64_t token, std::int64_t h) {
    const std::int64_t t = in_tokens[static_cast<std::size_t>(in_rows.index)].position(token);
    return attend_compressed(problem, rows_of(rows, in, in_rows, token, h), t);
  });
}

AttentionGradients compressed_backward(const NsaProblem& problem, const Qkv& in, const Tensor& d_o,
                                       const AttentionOutputs& outputs) {
  const std::vector<Sequence> in_tokens = sequences(problem.attention);
  const auto keys_of_row = [&](const Sequence& in_rows, std::int64_t token, std::int64_t) {
    const std::int64_t t = in_tokens[static_cast<std::size_t>(in_rows.index)].position(token);
    return std::vector{KeyRange{0, num_visible_compressed(problem, t)}};
  };
  return attend_rows_backward(compressed_problem(problem), in, keys_of_row, d_o, outputs);
}

CompressionGradients compress_backward(const NsaProblem& problem, const PhiHeads& phi, const Tensor& tokens,
                                       const Tensor& d_rows) {
  CompressionGradients sum{Tensor(tokens.tokens, tokens.heads, tokens.dim), zero_phi(problem, tokens.dim)};
  for (std::int64_t g = 0; g < problem.attention.kv_heads; ++g) {
    const std::size_t parameters = phi_index(problem, g);
    for (const auto& [begin, end, row] : compression_blocks(problem)) {
      const Matrix d_x = compress_block_backward(problem, phi[parameters], tokens.rows(begin, end, g),
                                                 d_rows.row(row, g), sum.phi[parameters]);
      for (std::int64_t s = 0; s < d_x.rows(); ++s) sum.tokens.row(begin + s, g) += d_x.row(s);
    }
  }
  return sum;
}

}  // namespace attnspec::reference
