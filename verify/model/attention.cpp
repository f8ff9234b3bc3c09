#include "verify/model/attention.hpp"

#include <algorithm>

#include "verify/model/compression.hpp"

namespace attnspec::verify::model {

namespace {

/// A gradient's rows, added up from parts. Where parts are stored on the way, each is rounded once it is finished, and
/// so may be the sum after every addition.
class PartSum {
 public:
  /// like: rows of the same shape. factor: what finishes sums in fp32.
  PartSum(const Arithmetic& arithmetic, bool are_stored, float factor, const Rows& like)
      : part_(are_stored ? arithmetic.gradient_part : Format::fp32),
        sum_(arithmetic.rounded_gradient_sums ? part_ : Format::fp32),
        factor_(factor),
        rows_(like.count, like.dim),
        is_empty_(static_cast<std::size_t>(like.count), true) {
    for (float& x : rows_.values) x *= factor;
  }

  /// Adds rows begin .. end - 1 of sums as one part, and clears them.
  void add(Rows& sums, std::int64_t begin, std::int64_t end) {
    for (std::int64_t i = begin; i < end; ++i) {
      for (std::int64_t d = 0; d < rows_.dim; ++d) {
        const float part = rounded(factor_ * sums.row(i)[d], part_);
        float& sum = rows_.row(i)[d];
        sum = is_empty_[static_cast<std::size_t>(i)] ? part : rounded(sum + part, sum_);
        sums.row(i)[d] = 0;
      }
      is_empty_[static_cast<std::size_t>(i)] = false;
    }
  }

  const Rows& rows() const { return rows_; }
  /// Of the same shape, zero.
  Rows empty_rows() const { return {rows_.count, rows_.dim}; }

 private:
  Format part_, sum_;
  float factor_;
  Rows rows_;
  std::vector<bool> is_empty_;
};

/// dk and dv of one kv head: parts, each the sums of one pass of the backward over one query head or over all of the
/// group.
struct KeyGradients {
  PartSum dk, dv;
  std::vector<Gradients> sums;               // of each pass, since the last part
  std::vector<std::vector<bool>> has_block;  // whether they hold something of its keys

  KeyGradients(std::size_t passes, std::int64_t num_blocks, PartSum no_dk, PartSum no_dv)
      : dk(std::move(no_dk)),
        dv(std::move(no_dv)),
        sums(passes, {Rows(), dk.empty_rows(), dv.empty_rows()}),
        has_block(passes, std::vector<bool>(static_cast<std::size_t>(num_blocks))) {}

  /// Adds a part of every pass.
  void add(const Work& work) {
    for (std::size_t pass = 0; pass < sums.size(); ++pass)
      for (std::int64_t b = 0; b < work.num_blocks(); ++b) {
        if (!has_block[pass][static_cast<std::size_t>(b)]) continue;
        dk.add(sums[pass].dk, work.block_begin(b), work.block_end(b));
        dv.add(sums[pass].dv, work.block_begin(b), work.block_end(b));
        has_block[pass][static_cast<std::size_t>(b)] = false;
      }
  }
};

/// A kernel's own copy of the call, with `dense` and the parts of NSA written as one block per sequence.
struct Model {
  const Stages& stages;
  const ForwardCall& call;
  MobaProblem problem;
  Arithmetic arithmetic;

  std::vector<std::int64_t> k_offsets;  // of the rows of k

  Model(const Stages& s, const Arithmetic& p, const ForwardCall& c)
      : stages(s), call(c), problem(c.problem), arithmetic(p), k_offsets(c.problem.attention.k_offsets) {
    if (key_rows(call.op) == RowsOf::compressed_rows) k_offsets = compressed_row_offsets(call.nsa);
    if (has_one_block()) problem.block = std::max<std::int64_t>(1, k_offsets.back());
  }

  /// Whether a sequence is one block.
  bool has_one_block() const { return !has_slots(call.op); }
  std::int64_t num_sequences() const { return static_cast<std::int64_t>(problem.attention.q_offsets.size()) - 1; }
  std::int64_t q_begin(std::int64_t s) const { return problem.attention.q_offsets[static_cast<std::size_t>(s)]; }
  std::int64_t k_begin(std::int64_t s) const { return k_offsets[static_cast<std::size_t>(s)]; }
  std::int64_t group() const { return problem.attention.heads / problem.attention.kv_heads; }
  /// Whether the backward is two passes.
  bool own_block_apart() const { return arithmetic.own_block_apart && selects(call.op) && problem.attention.causal; }
  std::size_t num_passes() const { return own_block_apart() ? 2 : 1; }
  Work work(std::int64_t s, bool is_backward = false) const {
    const auto& tokens = problem.attention.k_offsets;
    return {call.op,
            problem,
            call.nsa,
            arithmetic,
            q_begin(s + 1) - q_begin(s),
            tokens[static_cast<std::size_t>(s) + 1] - tokens[static_cast<std::size_t>(s)],
            k_begin(s + 1) - k_begin(s),
            is_backward};
  }

  /// The head of the selection that query head h reads or writes.
  std::int64_t selection_head(std::int64_t h) const {
    return call.selection.heads == problem.attention.heads ? h : h / group();
  }

  /// Step 1 for one head: MoBA's gate, which also exports the selection.
  std::vector<Blocks> assign(std::int64_t s, std::int64_t h, const Rows& q, const Rows& k) const {
    const Work head = work(s);
    const Rows means = stages.pool(head, k);
    std::vector<Blocks> selected;
    std::vector<float> scores(static_cast<std::size_t>(means.count));
    for (std::int64_t i = 0; i < head.num_queries; ++i) {
      for (std::int64_t b = 0; b < means.count; ++b)
        scores[static_cast<std::size_t>(b)] = stages.score(head, q.row(i), means.row(b));
      selected.push_back(stages.select(head, scores, head.position(i)));
      write_row(call.selection, q_begin(s) + i, selection_head(h), selected.back());
    }
    return selected;
  }

  /// The blocks of each query where they are given: to `selected`, to `dense`, and to every backward.
  std::vector<Blocks> given(std::int64_t s, std::int64_t h) const {
    const Work head = work(s);
    std::vector<Blocks> selected;
    for (std::int64_t i = 0; i < head.num_queries; ++i)
      selected.push_back(has_one_block() ? Blocks(head.num_keys > 0 ? 1 : 0)
                                         : stages.load_blocks(call.selection, q_begin(s) + i, selection_head(h)));
    return selected;
  }

  void forward_head(std::int64_t s, std::int64_t h) const {
    const Work head = work(s);
    const Rows q = stages.load(call.q, q_begin(s), q_begin(s + 1), h);
    const Rows k = stages.load(call.k, k_begin(s), k_begin(s + 1), stages.kv_head(problem, h));
    const auto selected = selects(call.op) ? assign(s, h, q, k) : given(s, h);
    if (!attends(call.op)) return;
    const Rows v = stages.load(call.v, k_begin(s), k_begin(s + 1), stages.kv_head(problem, h)),
               q_operand = operand_rows(stages, head, ScaledOperand::q, q);
    std::vector<Partial> partials;
    for (const BlockQueries& list : stages.order(head, selected)) {
      auto of_block = stages.attend(stages, head, list, q_operand, k, v);
      std::move(of_block.begin(), of_block.end(), std::back_inserter(partials));
    }
    const auto by_query = stages.restore(head, std::move(partials));
    for (std::int64_t i = 0; i < head.num_queries; ++i) {
      const Partial merged = stages.merge(head, by_query[static_cast<std::size_t>(i)]);
      stages.store_output(head, merged, call.o, call.lse, q_begin(s) + i, h);
    }
  }

  /// The selection of one sequence and kv head by importance, from the lse that the heads of the group have stored.
  void select_group(std::int64_t s, std::int64_t g) const {
    const Work head = work(s);
    const Rows k = stages.load(call.k, k_begin(s), k_begin(s + 1), g);
    for (std::int64_t i = 0; i < head.num_queries; ++i) {
      const std::int64_t t = head.position(i), token = q_begin(s) + i;
      if (t < 0) {
        write_row(call.selection, token, g, {});
        continue;
      }
      std::vector<float> importance(static_cast<std::size_t>(t / call.nsa.block + 1));
      for (std::int64_t h = g * group(); h < (g + 1) * group(); ++h) {
        const Rows q = operand_rows(stages, head, ScaledOperand::q, stages.load(call.q, token, token + 1, h));
        std::vector<float> scores;
        for (std::int64_t j = 0; j < k.count && stages.is_visible(head, t, j); ++j)
          scores.push_back(score_factor(stages, head) * stages.score(head, q.row(0), k.row(j)));
        stages.add_importance(head, scores, static_cast<float>(call.lse.load(token, h, 0)), importance);
      }
      write_row(call.selection, token, g, stages.select_important(head, importance));
    }
  }

  /// The passes of the backward over a head's lists: one, or MoBA's own blocks and after them all others.
  std::vector<std::vector<BlockQueries>> passes(const Work& head, const std::vector<BlockQueries>& lists) const {
    if (!own_block_apart()) return {lists};
    std::vector<std::vector<BlockQueries>> own_and_others(2);
    for (const BlockQueries& list : lists) {
      BlockQueries own{list.block, {}}, others{list.block, {}};
      for (const std::int64_t i : list.queries)
        (head.position(i) / problem.block == list.block ? own : others).queries.push_back(i);
      own_and_others[0].push_back(own);
      own_and_others[1].push_back(others);
    }
    return own_and_others;
  }

  /// dq of one query head, which is stored, and its share of the kv head's dk and dv.
  void backward_head(const BackwardCall& backward, std::int64_t s, std::int64_t h, const Rows& k, const Rows& v,
                     KeyGradients& of_keys) const {
    const Work head = work(s, true);
    const std::int64_t begin = q_begin(s), end = q_begin(s + 1);
    const Rows q = operand_rows(stages, head, ScaledOperand::q, stages.load(call.q, begin, end, h)),
               o = arithmetic.softmax_delta ? Rows() : stages.load(call.o, begin, end, h),
               d_o = stages.load(backward.d_o, begin, end, h), lse = stages.load(call.lse, begin, end, h);
    const std::vector<BlockQueries> lists = stages.order(head, given(s, h));
    std::vector<float> delta;
    const BackwardRows rows{q, k, v, d_o, lse.values, delta, h % group()};
    delta = stages.delta(stages, head, lists, rows, o);
    const bool are_stored = arithmetic.rounded_block_gradients || own_block_apart();
    PartSum dq(arithmetic, are_stored, gradient_factor(head, ScaledOperand::k), q);
    const auto of_passes = passes(head, lists);
    for (std::size_t pass = 0; pass < of_passes.size(); ++pass) {
      Gradients& sums = of_keys.sums[pass];
      sums.dq = Rows(q.count, q.dim);
      std::vector<bool> waits(static_cast<std::size_t>(q.count));  // whether the pass has something of this query
      for (const BlockQueries& list : of_passes[pass]) {
        if (list.queries.empty()) continue;
        stages.attend_backward(stages, head, list, rows, sums);
        of_keys.has_block[pass][static_cast<std::size_t>(list.block)] = true;
        for (const std::int64_t i : list.queries) {
          if (arithmetic.rounded_block_gradients)
            dq.add(sums.dq, i, i + 1);
          else
            waits[static_cast<std::size_t>(i)] = true;
        }
      }
      for (std::int64_t i = 0; i < q.count; ++i)
        if (waits[static_cast<std::size_t>(i)]) dq.add(sums.dq, i, i + 1);
    }
    stages.store(dq.rows(), backward.dq, begin, h, 1);
  }

  void backward_group(const BackwardCall& backward, std::int64_t s, std::int64_t g) const {
    const Work head = work(s, true);
    const std::int64_t begin = k_begin(s), end = k_begin(s + 1);
    const Rows k = operand_rows(stages, head, ScaledOperand::k, stages.load(call.k, begin, end, g)),
               v = stages.load(call.v, begin, end, g);
    const bool are_stored = arithmetic.rounded_head_gradients || own_block_apart();
    KeyGradients of_keys(num_passes(), head.num_blocks(),
                         PartSum(arithmetic, are_stored, gradient_factor(head, ScaledOperand::q), k),
                         PartSum(arithmetic, are_stored, 1, v));
    for (std::int64_t h = g * group(); h < (g + 1) * group(); ++h) {
      backward_head(backward, s, h, k, v, of_keys);
      if (arithmetic.rounded_head_gradients) of_keys.add(head);
    }
    of_keys.add(head);
    stages.store_keys(stages, head, of_keys.dk.rows(), backward.dk, begin, g);
    stages.store_keys(stages, head, of_keys.dv.rows(), backward.dv, begin, g);
  }
};

}  // namespace

void run(const Stages& stages, const Arithmetic& arithmetic, const ForwardCall& call) {
  const Model model(stages, arithmetic, call);
#pragma omp parallel for collapse(2) schedule(dynamic)
  for (std::int64_t s = 0; s < model.num_sequences(); ++s)
    for (std::int64_t h = 0; h < call.problem.attention.heads; ++h) model.forward_head(s, h);
  if (!has_importance(call.op)) return;
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
