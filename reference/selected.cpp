#include "reference/selected.hpp"

#include <algorithm>
#include <cstddef>
#include <set>
#include <string>

namespace attnspec::reference {

namespace {

std::string entry(std::int64_t token, std::int64_t head) {
  return "selection[token=" + std::to_string(token) + ",head=" + std::to_string(head) + "]";
}

/// The gradients of the keys of one chunk, summed over the rows that selected its block.
KeyGradient chunk_gradient(const AttentionProblem& problem, const Sequence& sequence, std::int64_t g,
                           const KeyChunk& chunk, const std::vector<QueryRow>& rows, const Reach& reach,
                           const Tensor& q, const Tensor& k, const Tensor& v, const Tensor& d_o,
                           const AttentionOutputs& outputs) {
  const std::int64_t keys = chunk.keys.end - chunk.keys.begin;
  const Rows k_rows = k.rows(sequence.k_begin, sequence.k_end, g), v_rows = v.rows(sequence.k_begin, sequence.k_end, g);
  KeyGradient sum{Matrix::Zero(keys, problem.dk), Matrix::Zero(keys, problem.dv)};
  for (const auto& [token, h] : rows) {
    const KeyRange visible = visible_in(chunk, reach(sequence, token));
    if (visible.begin >= visible.end) continue;
    const RowGradient row = attend_backward(q.row(token, h), k_rows, v_rows, {&visible, 1}, problem.scale,
                                            d_o.row(token, h), outputs.o.row(token, h), outputs.lse.row(token, h)[0]);
    add_key_gradient(row, visible, chunk.keys.begin, q.row(token, h), d_o.row(token, h), problem.scale, sum);
  }
  return sum;
}

}  // namespace

void validate(const AttentionProblem& problem, std::int64_t block, const Selection& selection) {
  validate(problem);
  if (block < 1) throw InvalidProblem("block", std::to_string(block), "must be at least 1");
  if (selection.heads != problem.heads && selection.heads != problem.kv_heads)
    throw InvalidProblem("selection heads", std::to_string(selection.heads), "must be heads or kv_heads");
  if (selection.tokens != problem.q_offsets.back())
    throw InvalidProblem("selection tokens", std::to_string(selection.tokens), "must be the number of query tokens");
  for (const Sequence& sequence : sequences(problem)) {
    for (std::int64_t token = sequence.q_begin; token < sequence.q_end; ++token) {
      for (std::int64_t head = 0; head < selection.heads; ++head) {
        std::set<std::int32_t> seen;
        for (const std::int32_t b : selection.row(token, head)) {
          if (b == -1) continue;
          if (b < 0 || b >= num_blocks(sequence.num_keys(), block))
            throw InvalidProblem(entry(token, head), std::to_string(b), "is neither -1 nor a block of the sequence");
          if (!seen.insert(b).second) throw InvalidProblem(entry(token, head), std::to_string(b), "is listed twice");
        }
      }
    }
  }
}

std::span<const std::int32_t> selected_blocks(const AttentionProblem& problem, const Selection& selection,
                                              std::int64_t token, std::int64_t head) {
  return selection.row(token, selection.heads == problem.heads ? head : kv_head(problem, head));
}

Reach causal_reach(const AttentionProblem& problem) {
  return [causal = problem.causal](const Sequence& sequence, std::int64_t token) {
    return causal_reach(sequence.position(token), sequence.num_keys(), causal);
  };
}

AttentionOutputs attend_rows(const AttentionProblem& problem, std::int64_t block, const Tensor& q, const Tensor& k,
                             const Tensor& v, const Selection& selection, const Reach& reach) {
  AttentionOutputs outputs{Tensor(q.tokens, problem.heads, problem.dv), Tensor(q.tokens, problem.heads, 1)};
  for_each_query(problem, [&](const Sequence& sequence, std::int64_t token, std::int64_t h) {
    const std::int64_t g = kv_head(problem, h);
    const auto visible =
        visible_keys(selected_blocks(problem, selection, token, h), reach(sequence, token), sequence.num_keys(), block);
    const AttendedRow row = attend(q.row(token, h), k.rows(sequence.k_begin, sequence.k_end, g),
                                   v.rows(sequence.k_begin, sequence.k_end, g), visible, problem.scale);
    outputs.o.row(token, h) = row.o;
    outputs.lse.row(token, h)[0] = row.lse;
  });
  return outputs;
}

AttentionOutputs selected(const AttentionProblem& problem, std::int64_t block, const Tensor& q, const Tensor& k,
                          const Tensor& v, const Selection& selection) {
  return attend_rows(problem, block, q, k, v, selection, causal_reach(problem));
}

std::vector<std::vector<QueryRow>> queries_by_block(const AttentionProblem& problem, const Sequence& sequence,
                                                    std::int64_t g, std::int64_t block, const Selection& selection) {
  const std::int64_t blocks = num_blocks(sequence.num_keys(), block), group = problem.heads / problem.kv_heads;
  std::vector<std::vector<QueryRow>> rows(static_cast<std::size_t>(blocks));
  for (std::int64_t h = g * group; h < (g + 1) * group; ++h)
    for (std::int64_t token = sequence.q_begin; token < sequence.q_end; ++token)
      for (const std::int32_t b : selected_blocks(problem, selection, token, h))
        if (b >= 0 && b < blocks) rows[static_cast<std::size_t>(b)].push_back({token, h});
  return rows;
}

std::vector<KeyChunk> key_chunks(const Sequence& sequence, std::int64_t block) {
  constexpr std::int64_t kMaxKeys = 64;
  std::vector<KeyChunk> chunks;
  for (std::int32_t b = 0; b < num_blocks(sequence.num_keys(), block); ++b) {
    const std::int64_t begin = b * block, end = std::min(sequence.num_keys() - begin, block) + begin;
    for (std::int64_t first = begin; first < end; first += kMaxKeys)
      chunks.push_back({b, {first, std::min(end, first + kMaxKeys)}});
  }
  return chunks;
}

KeyRange visible_in(const KeyChunk& chunk, KeyRange reach) {
  return {std::max(chunk.keys.begin, reach.begin), std::min(chunk.keys.end, reach.end)};
}

AttentionGradients attend_rows_backward(const AttentionProblem& problem, std::int64_t block, const Tensor& q,
                                        const Tensor& k, const Tensor& v, const Selection& selection,
                                        const Reach& reach, const Tensor& d_o, const AttentionOutputs& outputs) {
  AttentionGradients gradients{Tensor(q.tokens, problem.heads, problem.dk),
                               Tensor(k.tokens, problem.kv_heads, problem.dk),
                               Tensor(k.tokens, problem.kv_heads, problem.dv)};
  for_each_query(problem, [&](const Sequence& sequence, std::int64_t token, std::int64_t h) {
    const Rows k_rows = k.rows(sequence.k_begin, sequence.k_end, kv_head(problem, h));
    const Rows v_rows = v.rows(sequence.k_begin, sequence.k_end, kv_head(problem, h));
    const auto visible =
        visible_keys(selected_blocks(problem, selection, token, h), reach(sequence, token), sequence.num_keys(), block);
    const RowGradient row = attend_backward(q.row(token, h), k_rows, v_rows, visible, problem.scale, d_o.row(token, h),
                                            outputs.o.row(token, h), outputs.lse.row(token, h)[0]);
    gradients.dq.row(token, h) = query_gradient(row, k_rows, visible, problem.scale);
  });
  for (const Sequence& sequence : sequences(problem)) {
    for (std::int64_t g = 0; g < problem.kv_heads; ++g) {
      const auto rows = queries_by_block(problem, sequence, g, block, selection);
      const auto chunks = key_chunks(sequence, block);
#pragma omp parallel for schedule(dynamic)
      for (const KeyChunk& chunk : chunks) {
        const KeyGradient sum = chunk_gradient(problem, sequence, g, chunk, rows[static_cast<std::size_t>(chunk.block)],
                                               reach, q, k, v, d_o, outputs);
        for (std::int64_t key = 0; key < sum.dk.rows(); ++key) {
          gradients.dk.row(sequence.k_begin + chunk.keys.begin + key, g) = sum.dk.row(key);
          gradients.dv.row(sequence.k_begin + chunk.keys.begin + key, g) = sum.dv.row(key);
        }
      }
    }
  }
  return gradients;
}

AttentionGradients selected_backward(const AttentionProblem& problem, std::int64_t block, const Tensor& q,
                                     const Tensor& k, const Tensor& v, const Selection& selection, const Tensor& d_o,
                                     const AttentionOutputs& outputs) {
  return attend_rows_backward(problem, block, q, k, v, selection, causal_reach(problem), d_o, outputs);
}

}  // namespace attnspec::reference
