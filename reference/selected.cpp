#include "reference/selected.hpp"

#include <cstddef>
#include <set>
#include <string>

namespace attnspec::reference {

namespace {

std::string entry(std::int64_t token, std::int64_t head) {
  return "selection[token=" + std::to_string(token) + ",head=" + std::to_string(head) + "]";
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

namespace {

/// M6 of one query row.
std::vector<KeyRange> keys_in_selected_blocks(const AttentionProblem& problem, std::int64_t block,
                                              const Selection& selection, const Sequence& sequence, std::int64_t token,
                                              std::int64_t head) {
  const KeyRange reach = causal_reach(sequence.position(token), sequence.num_keys(), problem.causal);
  return visible_keys(selected_blocks(problem, selection, token, head), reach, sequence.num_keys(), block);
}

}  // namespace

QkvRows rows_of(const AttentionProblem& problem, const Qkv& in, const Sequence& sequence, std::int64_t token,
                std::int64_t head) {
  const std::int64_t g = kv_head(problem, head);
  return {in.q.row(token, head), in.k.rows(sequence.k_begin, sequence.k_end, g),
          in.v.rows(sequence.k_begin, sequence.k_end, g)};
}

AttentionOutputs attend_rows(
    const AttentionProblem& problem,
    const std::function<AttendedRow(const Sequence&, std::int64_t token, std::int64_t head)>& attend_row) {
  const std::int64_t tokens = problem.q_offsets.back();
  AttentionOutputs outputs{Tensor(tokens, problem.heads, problem.dv), Tensor(tokens, problem.heads, 1)};
  for_each_query(problem, [&](const Sequence& sequence, std::int64_t token, std::int64_t h) {
    const AttendedRow row = attend_row(sequence, token, h);
    outputs.o.row(token, h) = row.o;
    outputs.lse.row(token, h)[0] = row.lse;
  });
  return outputs;
}

AttentionOutputs selected(const AttentionProblem& problem, std::int64_t block, const Qkv& in,
                          const Selection& selection) {
  return attend_rows(problem, [&](const Sequence& sequence, std::int64_t token, std::int64_t h) {
    return attend(rows_of(problem, in, sequence, token, h),
                  keys_in_selected_blocks(problem, block, selection, sequence, token, h), problem.scale);
  });
}

AttentionGradients attend_rows_backward(const AttentionProblem& problem, const Qkv& in, const KeysOfRow& keys_of_row,
                                        const Tensor& d_o, const AttentionOutputs& outputs) {
  AttentionGradients gradients{Tensor(in.q.tokens, problem.heads, problem.dk),
                               Tensor(in.k.tokens, problem.kv_heads, problem.dk),
                               Tensor(in.k.tokens, problem.kv_heads, problem.dv)};
  const std::vector<Sequence> all = sequences(problem);
  const std::int64_t group = problem.heads / problem.kv_heads;
#pragma omp parallel for collapse(2) schedule(dynamic)
  for (std::size_t s = 0; s < all.size(); ++s) {
    for (std::int64_t g = 0; g < problem.kv_heads; ++g) {
      const Sequence& sequence = all[s];
      KeyGradient sum{Matrix::Zero(sequence.num_keys(), problem.dk), Matrix::Zero(sequence.num_keys(), problem.dv)};
      for (std::int64_t h = g * group; h < (g + 1) * group; ++h) {
        for (std::int64_t token = sequence.q_begin; token < sequence.q_end; ++token) {
          const QkvRows rows = rows_of(problem, in, sequence, token, h);
          const std::vector<KeyRange> visible = keys_of_row(sequence, token, h);
          const RowGradient row = attend_backward(rows, visible, problem.scale, d_o.row(token, h),
                                                  outputs.o.row(token, h), outputs.lse.row(token, h)[0]);
          gradients.dq.row(token, h) = query_gradient(row, rows.k, visible, problem.scale);
          add_key_gradient(row, visible, rows.q, d_o.row(token, h), problem.scale, sum);
        }
      }
      for (std::int64_t key = 0; key < sequence.num_keys(); ++key) {
        gradients.dk.row(sequence.k_begin + key, g) = sum.dk.row(key);
        gradients.dv.row(sequence.k_begin + key, g) = sum.dv.row(key);
      }
    }
  }
  return gradients;
}

AttentionGradients selected_backward(const AttentionProblem& problem, std::int64_t block, const Qkv& in,
                                     const Selection& selection, const Tensor& d_o, const AttentionOutputs& outputs) {
  const auto keys_of_row = [&](const Sequence& sequence, std::int64_t token, std::int64_t h) {
    return keys_in_selected_blocks(problem, block, selection, sequence, token, h);
  };
  return attend_rows_backward(problem, in, keys_of_row, d_o, outputs);
}

}  // namespace attnspec::reference
