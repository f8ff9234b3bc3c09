#include "verify/model/selectors.hpp"

#include <vector>

namespace attnspec::verify::model {

namespace {

/// One sequence: its place among the rows of q and k, and what they hold.
struct IndexedSequence {
  Work work;
  std::int64_t q_begin;
  std::vector<Rows> q;  // [index heads]
  Rows k;
};

IndexProducts multiply(const Stages& stages, const IndexedSequence& sequence, std::int64_t i, std::int64_t num_keys) {
  IndexProducts products;
  for (const Rows& q : sequence.q) {
    std::vector<float>& of_head = products.emplace_back(static_cast<std::size_t>(num_keys));
    for (std::int64_t j = 0; j < num_keys; ++j)
      of_head[static_cast<std::size_t>(j)] = stages.score(sequence.work, q.row(i), sequence.k.row(j));
  }
  return products;
}

std::vector<float> head_weights(const IndexCall& call, std::int64_t token) {
  std::vector<float> w(static_cast<std::size_t>(call.q.heads), 1);
  for (std::size_t h = 0; call.w.data != nullptr && h < w.size(); ++h)
    w[h] = static_cast<float>(call.w.load(token, 0, static_cast<std::int64_t>(h)));
  return w;
}

void select_row(const Stages& stages, const IndexCall& call, const IndexedSequence& sequence, std::int64_t i) {
  const Work& work = sequence.work;
  const std::int64_t t = work.position(i), token = sequence.q_begin + i;
  const IndexProducts products = multiply(stages, sequence, i, stages.num_index_keys(work, t));
  if (shares_selection(call.op)) {
    const std::vector<float> scores = stages.add_index_heads(work, products, head_weights(call, token));
    const bool are_tokens = key_rows(call.op) == RowsOf::keys;
    write_row(call.selection, token, 0,
              are_tokens ? stages.select_tokens(work, scores) : stages.select_complete(work, scores, t));
    return;
  }
  const IndexProducts worth = stages.block_worth(work, products);
  for (std::int64_t h = 0; h < call.q.heads; ++h)
    write_row(call.selection, token, h, stages.select(work, worth[static_cast<std::size_t>(h)], t));
}

}  // namespace

void run(const Stages& stages, const Arithmetic& arithmetic, const IndexCall& call) {
  const reference::AttentionProblem& attention = call.problem.attention;
  std::int64_t k_begin = 0;
  for (std::size_t s = 0; s + 1 < attention.q_offsets.size(); ++s) {
    const std::int64_t begin = attention.q_offsets[s], end = attention.q_offsets[s + 1];
    const std::int64_t tokens = attention.k_offsets[s + 1] - attention.k_offsets[s];
    const bool are_tokens = key_rows(call.op) == RowsOf::keys;
    const std::int64_t num_keys = are_tokens ? tokens : tokens / call.problem.block;
    IndexedSequence sequence{{call.op, call.problem, call.nsa, arithmetic, end - begin, tokens, num_keys, false},
                             begin,
                             {},
                             stages.load(call.k, k_begin, k_begin + num_keys, 0)};
    for (std::int64_t h = 0; h < call.q.heads; ++h) sequence.q.push_back(stages.load(call.q, begin, end, h));
    k_begin += num_keys;
#pragma omp parallel for schedule(dynamic)
    for (std::int64_t i = 0; i < end - begin; ++i) select_row(stages, call, sequence, i);
  }
}

}  // namespace attnspec::verify::model
