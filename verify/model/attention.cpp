#include "verify/model/attention.hpp"

#include <algorithm>

#include "verify/model/compression.hpp"

namespace attnspec::verify::model {

namespace {

/// A kernel's own copy of the call, with `dense` and the parts of NSA written as one block per sequence.
struct Model {
  const Stages& stages;
  const ForwardCall& call;
  MobaProblem problem;
  Arithmetic arithmetic;

  std::vector<std::int64_t> k_offsets;  // of the rows of k

  Model(const Stages& s, const Arithmetic& p, const ForwardCall& c)
      : stages(s), call(c), problem(c.problem), arithmetic(p), k_offsets(c.problem.attention.k_offsets) {
    if (call.op == Operator::nsa_compressed) k_offsets = compressed_row_offsets(call.nsa);
    if (has_one_block()) problem.block = std::max<std::int64_t>(1, k_offsets.back());
  }

  /// Whether a sequence is one block.
  bool has_one_block() const { return call.op == Operator::dense || is_nsa(call.op); }
  std::int64_t num_sequences() const { return static_cast<std::int64_t>(problem.attention.q_offsets.size()) - 1; }
  std::int64_t q_begin(std::int64_t s) const { return problem.attention.q_offsets[static_cast<std::size_t>(s)]; }
  std::int64_t k_begin(std::int64_t s) const { return k_offsets[static_cast<std::size_t>(s)]; }
  std::int64_t group() const { return problem.attention.heads / problem.attention.kv_heads; }
  Work work(std::int64_t s) const {
    const auto& tokens = problem.attention.k_offsets;
    return {call.op,
            problem,
            call.nsa,
            arithmetic,
            q_begin(s + 1) - q_begin(s),
            tokens[static_cast<std::size_t>(s) + 1] - tokens[static_cast<std::size_t>(s)],
            k_begin(s + 1) - k_begin(s)};
  }

  std::int32_t* selection_row(std::int64_t token, std::int64_t h) const {
    const std::int64_t head = call.selection.heads == problem.attention.heads ? h : h / group();
    return call.selection.data + (token * call.selection.heads + head) * call.selection.slots;
  }

  /// Step 1 for one head: MoBA's gate, which also exports the selection.
  std::vector<Blocks> assign(std::int64_t s, std::int64_t h, const Rows& q, const Rows& k) const {
    const Work head = work(s);
    const Rows means = stages.pool(head, k);
    std::vector<Blocks> chosen;
    std::vector<float> scores(static_cast<std::size_t>(means.count));
    for (std::int64_t i = 0; i < head.num_queries; ++i) {
      for (std::int64_t b = 0; b < means.count; ++b)
        scores[static_cast<std::size_t>(b)] = stages.score(head, q.row(i), means.row(b));
      chosen.push_back(stages.choose(head, scores, head.position(i)));
      std::int32_t* row = selection_row(q_begin(s) + i, h);
      std::fill(row, row + call.selection.slots, -1);
      std::copy_n(chosen.back().begin(), std::min<std::int64_t>(call.selection.slots, std::ssize(chosen.back())), row);
    }
    return chosen;
  }

  /// The blocks of each query where they are given: to `selected`, to `dense`, and to every backward.
  std::vector<Blocks> given(std::int64_t s, std::int64_t h) const {
    const Work head = work(s);
    std::vector<Blocks> chosen;
    for (std::int64_t i = 0; i < head.num_queries; ++i) {
      const std::int32_t* row = has_one_block() ? nullptr : selection_row(q_begin(s) + i, h);
      chosen.push_back(row == nullptr ? Blocks(head.num_keys > 0 ? 1 : 0) : Blocks(row, row + call.selection.slots));
    }
    return chosen;
  }

  void forward_head(std::int64_t s, std::int64_t h) const {
    const Work head = work(s);
    const Rows q = stages.load(call.q, q_begin(s), q_begin(s + 1), h);
    const Rows k = stages.load(call.k, k_begin(s), k_begin(s + 1), stages.kv_head(problem, h));
    const auto chosen = selects(call.op) ? assign(s, h, q, k) : given(s, h);
    if (!attends(call.op)) return;
    const Rows v = stages.load(call.v, k_begin(s), k_begin(s + 1), stages.kv_head(problem, h));
    std::vector<Partial> partials;
    for (const BlockQueries& list : stages.order(head, chosen)) {
      auto of_block = stages.attend(stages, head, list, q, k, v);
      std::move(of_block.begin(), of_block.end(), std::back_inserter(partials));
    }
    const auto by_query = stages.restore(head, std::move(partials));
    for (std::int64_t i = 0; i < head.num_queries; ++i) {
      const Partial merged = stages.merge(head, by_query[static_cast<std::size_t>(i)]);
      for (std::int64_t d = 0; d < v.dim; ++d)
        call.o.store(q_begin(s) + i, h, d, merged.o[static_cast<std::size_t>(d)]);
      call.lse.store(q_begin(s) + i, h, 0, merged.lse);
    }
  }

  /// The selection of one sequence and kv head by importance, from the lse that the heads of the group have stored.
  void select_group(std::int64_t s, std::int64_t g) const {
    const Work head = work(s);
    const Rows k = stages.load(call.k, k_begin(s), k_begin(s + 1), g);
    for (std::int64_t i = 0; i < head.num_queries; ++i) {
      const std::int64_t t = head.position(i), token = q_begin(s) + i;
      std::int32_t* row = call.selection.data + (token * call.selection.heads + g) * call.selection.slots;
      std::fill(row, row + call.selection.slots, -1);
      if (t < 0) continue;
      std::vector<float> importance(static_cast<std::size_t>(t / call.nsa.block + 1));
      for (std::int64_t h = g * group(); h < (g + 1) * group(); ++h) {
        const Rows q = stages.load(call.q, token, token + 1, h);
        std::vector<float> scores;
        for (std::int64_t j = 0; j < k.count && stages.is_visible(head, t, j); ++j)
          scores.push_back(stages.scale(head) * stages.score(head, q.row(0), k.row(j)));
        stages.add_importance(head, scores, static_cast<float>(call.lse.load(token, h, 0)), importance);
      }
      const Blocks blocks = stages.choose_important(head, importance);
      std::copy_n(blocks.begin(), std::min<std::int64_t>(call.selection.slots, std::ssize(blocks)), row);
    }
  }

  void backward_group(const BackwardCall& backward, std::int64_t s, std::int64_t g) const {
    const Work head = work(s);
    const auto scale = static_cast<float>(problem.attention.scale);
    const Rows k = stages.load(call.k, k_begin(s), k_begin(s + 1), g),
               v = stages.load(call.v, k_begin(s), k_begin(s + 1), g);
    Gradients sums{Rows(), Rows(k.count, k.dim), Rows(v.count, v.dim)};
    for (std::int64_t h = g * group(); h < (g + 1) * group(); ++h) {
      const Rows q = stages.load(call.q, q_begin(s), q_begin(s + 1), h),
                 o = stages.load(call.o, q_begin(s), q_begin(s + 1), h);
      const Rows d_o = stages.load(backward.d_o, q_begin(s), q_begin(s + 1), h);
      const Rows lse = stages.load(call.lse, q_begin(s), q_begin(s + 1), h);
      std::vector<float> delta;
      for (std::int64_t i = 0; i < head.num_queries; ++i) delta.push_back(stages.delta(head, d_o.row(i), o.row(i)));
      sums.dq = Rows(q.count, q.dim);
      for (const BlockQueries& list : stages.order(head, given(s, h)))
        stages.attend_backward(stages, head, list, {q, k, v, d_o, lse.values, delta, h - g * group()}, sums);
      stages.store(sums.dq, backward.dq, q_begin(s), h, scale);
    }
    stages.store(sums.dk, backward.dk, k_begin(s), g, scale);
    stages.store(sums.dv, backward.dv, k_begin(s), g, 1);
  }
};

}  // namespace

void run(const Stages& stages, const Arithmetic& arithmetic, const ForwardCall& call) {
  const Model model(stages, arithmetic, call);
#pragma omp parallel for collapse(2) schedule(dynamic)
  for (std::int64_t s = 0; s < model.num_sequences(); ++s)
    for (std::int64_t h = 0; h < call.problem.attention.heads; ++h) model.forward_head(s, h);
  if (call.op != Operator::nsa_compressed) return;
#pragma omp parallel for collapse(2) schedule(dynamic)
  for (std::int64_t s = 0; s < model.num_sequences(); ++s)
    for (std::int64_t g = 0; g < call.problem.attention.kv_heads; ++g) model.select_group(s, g);
}

void run(const Stages& stages, const Arithmetic& arithmetic, const BackwardCall& call) {
  const Model model(stages, arithmetic, call.forward);
#pragma omp parallel for collapse(2) schedule(dynamic)
  for (std::int64_t s = 0; s < model.num_sequences(); ++s)
    for (std::int64_t g = 0; g < call.forward.problem.attention.kv_heads; ++g) model.backward_group(call, s, g);
}

}  // namespace attnspec::verify::model
