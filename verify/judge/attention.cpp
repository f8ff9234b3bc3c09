#include "verify/judge/attention.hpp"

#include <fmt/format.h>

#include <algorithm>
#include <cmath>
#include <iterator>
#include <limits>
#include <utility>

#include "reference/noise/score_range.hpp"
#include "verify/judge/overflow.hpp"

namespace attnspec::verify {

using namespace reference;

struct AttentionJudge::ForwardRow {
  std::vector<KeyRange> visible;
  AttendedRow expected;
  AttentionNoise noise;
  Vector observed_o, observed_lse;
  RowComparison o, lse;

  bool is_right() const { return o.fault == RowFault::none && lse.fault == RowFault::none; }
  Covariance covariance(const KeyValues& keys) const {
    return {noise.errors, keys.v, visible, expected.o, noise.o.rounding};
  }
};

AttentionOperands::AttentionOperands(const AttentionStage& stage, const std::vector<Sequence>& sequences,
                                     ScoreOperands scores, const Operand& v)
    : stage_(stage), scores_(std::move(scores)) {
  const auto kv_heads = static_cast<std::size_t>(stage.problem.kv_heads);
  keys_.resize(sequences.size() * kv_heads);
#pragma omp parallel for schedule(dynamic)
  for (std::size_t i = 0; i < keys_.size(); ++i) {
    const Sequence& sequence = sequences[i / kv_heads];
    const auto g = static_cast<std::int64_t>(i % kv_heads);
    keys_[i].emplace(scores_.k->rows(sequence.k_begin, sequence.k_end, g),
                     v->rows(sequence.k_begin, sequence.k_end, g));
  }
}

RowInputs AttentionOperands::row(const Sequence& sequence, std::int64_t token, std::int64_t head,
                                 std::span<const KeyRange> visible) const {
  const std::int64_t keys = sequence.index * stage_.problem.kv_heads + kv_head(stage_.problem, head);
  return {scores_.q->row(token, head), *keys_[static_cast<std::size_t>(keys)], visible, scores_.scale};
}

AttentionJudge::AttentionJudge(const Arithmetic& arithmetic, AttentionStage stage)
    : arithmetic_(arithmetic),
      stage_(std::move(stage)),
      sequences_(sequences(stage_.problem)),
      v_(product_operand(arithmetic, stage_.v)),
      forward_(stage_, sequences_, forward_operands(arithmetic, stage_.problem.scale, stage_.q, stage_.k), v_) {
  states_.assign(static_cast<std::size_t>(stage_.q.tokens * stage_.problem.heads), RowState::usable);
}

void AttentionJudge::exclude(std::int64_t token, std::int64_t head) { state(token, head) = RowState::excluded; }

std::vector<KeyRange> AttentionJudge::visible(const Sequence& sequence, std::int64_t token,
                                              std::span<const std::int32_t> blocks) const {
  return visible_keys(blocks, stage_.reach(sequence, token), sequence.num_keys(), stage_.block);
}

AttentionJudge::ForwardRow AttentionJudge::compare(const Sequence& sequence, std::int64_t token, std::int64_t head,
                                                   std::span<const std::int32_t> blocks) const {
  std::vector<KeyRange> ranges = visible(sequence, token, blocks);
  const RowInputs in = forward_.row(sequence, token, head, ranges);
  AttendedRow expected = attend({in.q, in.kv.k, in.kv.v}, ranges, in.scale);
  AttentionNoise noise = attention_noise(arithmetic_, in, expected);
  ForwardRow row{std::move(ranges),
                 std::move(expected),
                 std::move(noise),
                 stage_.o.row(token, head),
                 stage_.lse.row(token, head),
                 {},
                 {}};
  row.o = compare_row(row.expected.o, row.observed_o, row.noise.o, arithmetic_.output, row.covariance(in.kv));
  if (stage_.has_lse) row.lse = compare_number(row.expected.lse, row.observed_lse[0], row.noise.lse, Format::fp32);
  return row;
}

std::optional<AttentionJudge::ForwardRow> AttentionJudge::compare_candidates(const Sequence& sequence,
                                                                             std::int64_t token, std::int64_t head,
                                                                             const std::vector<Blocks>& candidates) {
  std::optional<ForwardRow> fit, wrong;
  std::set<std::int32_t> doubtful;  // blocks that one selection which fits has, and another has not
  Blocks selected;
  for (const Blocks& blocks : candidates) {
    ForwardRow row = compare(sequence, token, head, blocks);
    if (!row.is_right()) {
      wrong = std::move(row);
      continue;
    }
    if (!fit) {
      fit = std::move(row);
      selected = blocks;
      continue;
    }
    using Pair = std::pair<const Blocks*, const Blocks*>;
    for (const auto& [one, other] : {Pair(&selected, &blocks), Pair(&blocks, &selected)})
      for (const std::int32_t block : *one)
        if (std::find(other->begin(), other->end(), block) == other->end()) doubtful.insert(block);
  }
  if (!fit && !candidates.empty()) selected = candidates.back();
  const auto slots = stage_.selection.row(token, head);
  std::fill(slots.begin(), slots.end(), -1);
  std::copy(selected.begin(), selected.end(), slots.begin());
  if (!doubtful.empty()) {
    state(token, head) = RowState::ambiguous;
#pragma omp critical(attnspec_ambiguous)
    for (const std::int32_t block : doubtful)
      ambiguous_blocks_.emplace(sequence.index, kv_head(stage_.problem, head), block);
  }
  return fit ? std::move(fit) : std::move(wrong);
}

void AttentionJudge::judge_outputs(const Candidates& candidates, bool zero_mean_values, const RowObserver& observe,
                                   CaseResult& result) {
  Tally o(observe, "o", stage_.names.o), lse(observe, "lse", stage_.names.lse);
  DirectionTest directions(arithmetic_);
  const Random imagination(0, "imagined faults");
  if (candidates) std::fill(states_.begin(), states_.end(), RowState::undecided);  // until one is found
  for_each_query(stage_.problem, stage_.queries, [&](const Sequence& sequence, std::int64_t token, std::int64_t head) {
    if (state(token, head) == RowState::excluded) return;
    const std::optional<ForwardRow> row =
        candidates ? compare_candidates(sequence, token, head, candidates(sequence, token, head))
                   : compare(sequence, token, head, selected_blocks(stage_.problem, stage_.selection, token, head));
    if (!row) {
      o.add_undecided();
      if (stage_.has_lse) lse.add_undecided();
      return;
    }
    if (state(token, head) != RowState::ambiguous) state(token, head) = RowState::usable;
    const Place place{sequence.index, token - sequence.q_begin, head};
    const RowInputs in = forward_.row(sequence, token, head, row->visible);
    const Covariance covariance = row->covariance(in.kv);
    o.add(place, row->o, row->expected.o, row->observed_o, row->noise.o, &covariance);
    if (row->o.fault == RowFault::none && !row->visible.empty())
      o.add(imagine_faults(in, row->expected, row->noise.o, sequence.num_keys(), stage_.block, imagination,
                           token * stage_.problem.heads + head));
    if (stage_.has_lse)
      lse.add(place, row->lse, Vector::Constant(1, row->expected.lse), row->observed_lse, row->noise.lse, nullptr);
    if (row->observed_o.allFinite() && !row->visible.empty()) {
      const std::int64_t next = stage_.reach(sequence, token).end;
      directions.add(in, row->expected, covariance, row->noise.o.variance.sum(), row->observed_o - row->expected.o,
                     row->noise.o.floor, next < sequence.num_keys() ? next : -1);
    }
  });
  o.sample(stage_.queries, stage_.o);
  o.finish(result);
  if (stage_.has_lse) {
    lse.sample(stage_.queries, stage_.lse);
    lse.finish(result);
  } else {
    supply_lse();
  }
  add_directions(directions, zero_mean_values, result);
}

void AttentionJudge::supply_lse() {
  lse_errors_.assign(states_.size(), {});
  for_each_query(stage_.problem, [&](const Sequence& sequence, std::int64_t token, std::int64_t head) {
    const RowState of_row = state(token, head);
    if (of_row != RowState::usable && of_row != RowState::ambiguous) return;
    const std::vector<KeyRange> ranges =
        visible(sequence, token, selected_blocks(stage_.problem, stage_.selection, token, head));
    const RowInputs in = forward_.row(sequence, token, head, ranges);
    const AttendedRow row = attend({in.q, in.kv.k, in.kv.v}, ranges, in.scale);
    const RowNoise noise = attention_noise(arithmetic_, in, row).lse;
    stage_.lse.store(token, head, 0, row.lse);
    lse_errors_[static_cast<std::size_t>(token * stage_.problem.heads + head)] = {
        noise.variance[0] + noise.floor[0] * noise.floor[0], noise.worst[0] + noise.floor[0]};
  });
}

void AttentionJudge::add_directions(DirectionTest& test, bool zero_mean_values, CaseResult& result) const {
  const std::string& output = stage_.names.o;
  result.directions.push_back({output, {test.directions().begin(), test.directions().end()}});
  if (!zero_mean_values) return;
  const auto is_o = [&](const OutputSummary& summary) { return summary.output == output && summary.findings > 0; };
  const bool rows_fail = std::any_of(result.outputs.begin(), result.outputs.end(), is_o);
  for (const std::string& fault : test.faults(kKappa, rows_fail))
    result.add({.output = output,
                .detail = fmt::format("errors of all rows judged add up as if: {}, limit {}", fault, kKappa)});
}

std::string AttentionJudge::why_no_backward() const {
  if (!std::all_of(states_.begin(), states_.end(),
                   [](RowState s) { return s == RowState::usable || s == RowState::ambiguous; }))
    return "backward not judged: the selection it would be given is not known";
  bool are_finite = true;
#pragma omp parallel for reduction(&& : are_finite)
  for (std::int64_t token = 0; token < stage_.q.tokens; ++token)
    for (std::int64_t head = 0; head < stage_.problem.heads; ++head)
      are_finite = are_finite && stage_.o.row(token, head).allFinite() && stage_.lse.load(token, head, 0) < HUGE_VAL;
  return are_finite ? "" : "backward not judged: the o and lse it would be given are not finite";
}

struct AttentionJudge::BackwardRow {
  RowInputs in;
  RowGiven given;
  RowGradient gradient;
};

void AttentionJudge::begin_backward(const Tensor& d_o) {
  d_o_ = &d_o;
  d_o_operand_.emplace(product_operand(arithmetic_, d_o));
  if (arithmetic_.scaled_operand == ScaledOperand::k)
    backward_.emplace(stage_, sequences_, backward_operands(arithmetic_, stage_.problem.scale, stage_.q, stage_.k), v_);
  if (arithmetic_.softmax_delta) add_softmax_deltas();
}

void AttentionJudge::add_softmax_deltas() {
  const std::int64_t heads = stage_.problem.heads;
  std::vector<char> is_read(static_cast<std::size_t>(stage_.q.tokens * heads), stage_.queries.are_all());
  for (const Sequence& sequence : sequences_) {
    for (std::int64_t g = 0; g < stage_.problem.kv_heads && !stage_.queries.are_all(); ++g) {
      const auto rows = queries_by_block(stage_.problem, sequence, g, stage_.block, stage_.selection);
      for (const KeyChunk& chunk : judged_chunks(sequence, g))
        for (const QueryRow& row : rows[static_cast<std::size_t>(chunk.block)])
          is_read[static_cast<std::size_t>(row.token * heads + row.head)] = 1;
    }
  }
  softmax_deltas_.assign(is_read.size(), {});
  for_each_query(stage_.problem, [&](const Sequence& sequence, std::int64_t token, std::int64_t head) {
    const auto i = static_cast<std::size_t>(token * heads + head);
    if (is_read[i] == 0 && !stage_.queries.contains({sequence.index, token - sequence.q_begin, head})) return;
    const std::vector<KeyRange> ranges =
        visible(sequence, token, selected_blocks(stage_.problem, stage_.selection, token, head));
    const BackwardRow row = backward_row(sequence, token, head, ranges);
    RowDelta delta = softmax_delta(arithmetic_, row.in, row.given.d_o, row.given.lse, row.gradient);
    delta.variance += row.given.lse_variance * delta.value * delta.value;
    delta.worst += row.given.lse_worst * std::abs(delta.value);
    softmax_deltas_[i] = delta;
  });
}

RowDelta AttentionJudge::delta(std::int64_t token, std::int64_t head) const {
  if (arithmetic_.softmax_delta) return softmax_deltas_[static_cast<std::size_t>(token * stage_.problem.heads + head)];
  const Vector o = stage_.o.row(token, head);
  return delta_of_output(d_o_->row(token, head), o);
}

AttentionJudge::BackwardRow AttentionJudge::backward_row(const Sequence& sequence, std::int64_t token,
                                                         std::int64_t head, std::span<const KeyRange> visible) const {
  const RowInputs in = (backward_ ? *backward_ : forward_).row(sequence, token, head, visible);
  const auto i = static_cast<std::size_t>(token * stage_.problem.heads + head);
  const LseError error = lse_errors_.empty() ? LseError{} : lse_errors_[i];
  const RowGiven given{(*d_o_operand_)->row(token, head), stage_.lse.load(token, head, 0), delta(token, head),
                       error.variance, error.worst};
  RowGradient row =
      attend_backward({in.q, in.kv.k, in.kv.v}, visible, in.scale, given.d_o, stage_.o.row(token, head), given.lse);
  set_delta(given.delta.value, row);
  return {in, given, std::move(row)};
}

double AttentionJudge::scale_of_dq() const {
  return arithmetic_.scaled_operand == ScaledOperand::k ? factor_of_scaled(arithmetic_) : stage_.problem.scale;
}

double AttentionJudge::scale_of_dk() const {
  return arithmetic_.scaled_operand == ScaledOperand::q ? factor_of_scaled(arithmetic_) : stage_.problem.scale;
}

bool AttentionJudge::is_own_block(const Sequence& sequence, std::int64_t token, std::int64_t block) const {
  return sequence.position(token) / stage_.block == block;
}

std::vector<int> AttentionJudge::query_parts(const Sequence& sequence, std::int64_t token,
                                             std::span<const KeyRange> visible) const {
  std::vector<int> parts;
  if (arithmetic_.rounded_block_gradients)
    for (std::size_t r = 0; r < visible.size(); ++r) parts.push_back(static_cast<int>(r));
  else if (arithmetic_.own_block_apart && stage_.has_own_block)
    for (const KeyRange& range : visible) parts.push_back(is_own_block(sequence, token, range.begin / stage_.block));
  return parts;
}

std::optional<int> AttentionJudge::key_part(const Sequence& sequence, const QueryRow& row, std::int64_t block) const {
  const bool by_pass = arithmetic_.own_block_apart && stage_.has_own_block;
  if (!by_pass && !arithmetic_.rounded_head_gradients) return std::nullopt;
  const std::int64_t head = arithmetic_.rounded_head_gradients ? row.head : 0;
  return static_cast<int>(2 * head + (by_pass && is_own_block(sequence, row.token, block) ? 1 : 0));
}

std::string AttentionJudge::why_gradients_overflow(const Tensor& d_o) const {
  const double q = longest_row(stage_.q), k = longest_row(stage_.k), sigma = std::abs(stage_.problem.scale);
  const double exp_limit = std::log(largest_finite(Format::fp32));
  double min_lse = HUGE_VAL;
#pragma omp parallel for reduction(min : min_lse)
  for (std::int64_t token = 0; token < stage_.q.tokens; ++token)
    for (std::int64_t head = 0; head < stage_.problem.heads; ++head)
      if (const double lse = stage_.lse.load(token, head, 0); std::isfinite(lse)) min_lse = std::min(min_lse, lse);
  const bool may_err =
      sigma * q * k * (static_cast<double>(stage_.problem.dk) + 16) * accumulator_roundoff(arithmetic_) > kFirstOrder;
  if (!may_err && sigma * q * k - min_lse < exp_limit) return "";
  const double d_p = 2 * longest_row(d_o) * longest_row(stage_.v);
  const double terms = static_cast<double>(stage_.q.tokens * stage_.problem.heads + stage_.k.tokens);
  const double sums = std::max(1.0, d_p) * std::max({1.0, q, k, longest_row(d_o)}) * std::max(1.0, sigma) * terms;
  const double limit = std::min(exp_limit - std::log(sums),
                                std::log(largest_finite(arithmetic_.weights)) - std::log(std::max(1.0, d_p)));
  constexpr double kNone = std::numeric_limits<double>::lowest();  // where an OpenMP compiler may begin a maximum
  double largest = kNone;  // score - lse as a kernel may have it, where that is too large
  for (const Sequence& sequence : sequences_) {
#pragma omp parallel for collapse(2) schedule(dynamic) reduction(max : largest)
    for (std::int64_t token = sequence.q_begin; token < sequence.q_end; ++token) {
      for (std::int64_t head = 0; head < stage_.problem.heads; ++head) {
        const double lse = stage_.lse.load(token, head, 0);
        const auto ranges = visible(sequence, token, selected_blocks(stage_.problem, stage_.selection, token, head));
        if (ranges.empty() || !std::isfinite(lse)) continue;
        const RowInputs in = forward_.row(sequence, token, head, ranges);
        const Vector scores = in.scale * products(in.q, in.kv.k, ranges);
        double reach = scores.maxCoeff() - lse, of_row = exp_limit;
        if (may_err) {
          const Vector errors = score_errors(score_noise(arithmetic_, in, scores, lse), scores, lse);
          if (errors.maxCoeff() > kFirstOrder) reach = (scores + errors).maxCoeff() - lse, of_row = limit;
        }
        if (!(reach < of_row)) largest = std::max(largest, reach);
      }
    }
  }
  if (largest == kNone) return "";
  return fmt::format(
      "backward not judged: with scale={:g} score - lse may be {:.3g} in fp32, and exp of that, or a gradient made of "
      "it, overflows",
      stage_.problem.scale, largest);
}

QueryGradient AttentionJudge::query_gradient(const Arithmetic& arithmetic, std::int64_t sequence_index,
                                             std::int64_t token, std::int64_t head) const {
  const Sequence& sequence = sequences_[static_cast<std::size_t>(sequence_index)];
  std::vector<KeyRange> ranges =
      visible(sequence, token, selected_blocks(stage_.problem, stage_.selection, token, head));
  const auto [in, given, row] = backward_row(sequence, token, head, ranges);
  Vector expected = reference::query_gradient(row, in.kv.k, ranges, scale_of_dq());
  GradientNoise noise = query_gradient_noise(arithmetic, in, gradient_terms(arithmetic, in, given, row), row, expected,
                                             scale_of_dq(), query_parts(sequence, token, ranges));
  return {std::move(ranges), std::move(expected), std::move(noise), in.kv};
}

void AttentionJudge::judge_query_gradients(const TensorView& dq, const RowObserver& observe, CaseResult& result) const {
  Tally tally(observe, "dq", stage_.names.dq);
  for_each_query(stage_.problem, stage_.queries, [&](const Sequence& sequence, std::int64_t token, std::int64_t head) {
    if (states_[static_cast<std::size_t>(token * stage_.problem.heads + head)] == RowState::ambiguous)
      return tally.add_undecided();
    const QueryGradient gradient = query_gradient(arithmetic_, sequence.index, token, head);
    const Vector observed = dq.row(token, head);
    const Covariance covariance = gradient.covariance();
    tally.add({sequence.index, token - sequence.q_begin, head},
              compare_row(gradient.expected, observed, gradient.noise.noise, arithmetic_.output, covariance),
              gradient.expected, observed, gradient.noise.noise, &covariance);
  });
  tally.sample(stage_.queries, dq);
  tally.finish(result);
}

void AttentionJudge::judge_key_gradients(const TensorView& dk_view, const TensorView& dv_view,
                                         const RowObserver& observe, CaseResult& result) const {
  Tally dk(observe, "dk", stage_.names.dk), dv(observe, "dv", stage_.names.dv);
  for (const Sequence& sequence : sequences_) {
    for (std::int64_t g = 0; g < stage_.problem.kv_heads; ++g) {
      const auto chunks = judged_chunks(sequence, g);
      const auto rows = queries_by_block(stage_.problem, sequence, g, stage_.block, stage_.selection);
#pragma omp parallel for schedule(dynamic)
      for (const KeyChunk& chunk : chunks)
        judge_chunk(chunk, sequence, g, rows[static_cast<std::size_t>(chunk.block)], dk_view, dv_view, dk, dv);
    }
  }
  dk.sample(stage_.keys, dk_view);
  dv.sample(stage_.keys, dv_view);
  dk.finish(result);
  dv.finish(result);
  if (observe.key_sums) observe_key_sums(observe);
}

void AttentionJudge::observe_key_sums(const RowObserver& observe) const {
  const AttentionProblem& problem = stage_.problem;
  const std::int64_t group = problem.heads / problem.kv_heads;
  for (const Sequence& sequence : sequences_) {
    for (std::int64_t g = 0; g < problem.kv_heads; ++g) {
      Vector d_o = Vector::Zero(problem.dv), dv = d_o, dv_variance = d_o, dv_by_scale = d_o;
      Vector dk = Vector::Zero(problem.dk), dk_variance = dk, dk_by_scale = dk;
      for (std::int64_t head = g * group; head < (g + 1) * group; ++head) {
        for (std::int64_t token = sequence.q_begin; token < sequence.q_end; ++token) {
          const auto ranges = visible(sequence, token, selected_blocks(problem, stage_.selection, token, head));
          if (ranges.empty()) continue;
          const auto [in, given, row] = backward_row(sequence, token, head, ranges);
          const GradientTerms terms = gradient_terms(arithmetic_, in, given, row);
          const double p = row.weights.sum(), ds = row.d_scores.sum(), sigma = scale_of_dk();
          d_o += d_o_->row(token, head);
          dv += p * given.d_o;
          dk += sigma * ds * in.q;
          // Weights with one mantissa round equally, whichever key they are of: F2.
          const double rounding = square(kRounding * unit_roundoff(arithmetic_.weights));
          dv_variance += (terms.lse_variance + rounding) * p * p * given.d_o.cwiseAbs2();
          dk_variance += square(sigma) * (terms.delta_variance * p * p + terms.lse_variance * ds * ds) *
                         in.q.cwiseAbs2();  // E3, E4
          dv_by_scale += row.weights.dot(row.scores) * given.d_o;
          dk_by_scale += sigma * (row.d_scores.dot(row.scores) - terms.delta_by_scale * p) * in.q;
        }
      }
      dv_variance += square(kScaleError) * dv_by_scale.cwiseAbs2() + common_variance(arithmetic_) * dv.cwiseAbs2();
      dk_variance += square(kScaleError) * dk_by_scale.cwiseAbs2() + common_variance(arithmetic_) * dk.cwiseAbs2();
      observe.key_sums({stage_.names.dk, stage_.names.dv, sequence.index, g, d_o, dk_variance, dv_variance});
    }
  }
}

std::vector<KeyChunk> AttentionJudge::judged_chunks(const Sequence& sequence, std::int64_t g) const {
  std::vector<KeyChunk> runs;
  for (const auto& [block, keys] : key_chunks(sequence, stage_.block)) {
    for (std::int64_t j = keys.begin, end = -1; j < keys.end; ++j) {
      if (!stage_.keys.contains({sequence.index, j, g})) continue;
      if (j != end) runs.push_back({block, {j, j}});
      runs.back().keys.end = end = j + 1;
    }
  }
  return runs;
}

void AttentionJudge::judge_chunk(const KeyChunk& chunk, const Sequence& sequence, std::int64_t g,
                                 const std::vector<QueryRow>& selecting, const TensorView& dk_view,
                                 const TensorView& dv_view, Tally& dk, Tally& dv) const {
  const AttentionProblem& problem = stage_.problem;
  const std::int64_t first = chunk.keys.begin, keys = chunk.keys.end - first;
  if (ambiguous_blocks_.contains({sequence.index, g, chunk.block})) {
    for (std::int64_t key = 0; key < keys; ++key) {
      dk.add_undecided();
      dv.add_undecided();
    }
    return;
  }
  struct Seeing {
    QueryRow row;
    KeyRange keys;
  };
  std::vector<Seeing> seeing;
  for (const QueryRow& row : selecting)
    if (const KeyRange range = visible_in(chunk, stage_.reach(sequence, row.token)); range.begin < range.end)
      seeing.push_back({row, range});
  KeyGradient sum{Matrix::Zero(keys, problem.dk), Matrix::Zero(keys, problem.dv)};
  KeyTerms terms(std::ssize(seeing), keys, problem.dk, problem.dv, scale_of_dk(),
                 static_cast<double>(selecting.size()));
  for (std::size_t i = 0; i < seeing.size(); ++i) {
    const auto& [query, range] = seeing[i];
    const auto [in, given, row] = backward_row(sequence, query.token, query.head, {&range, 1});
    const KeyRange in_chunk{range.begin - first, range.end - first};
    add_key_gradient(row, {&in_chunk, 1}, in.q, given.d_o, scale_of_dk(), sum);
    terms.set(arithmetic_, static_cast<std::int64_t>(i), first, in, given, row,
              gradient_terms(arithmetic_, in, given, row));
    if (const auto part = key_part(sequence, query, chunk.block)) terms.parts.push_back(*part);
  }
  terms.complete();
  for (std::int64_t key = 0; key < keys; ++key) {
    const auto compare_key = [&](Tally& tally, const Matrix& sums, const TensorView& view, const Matrix& summed,
                                 const auto& predict) {
      const Vector expected = sums.row(key).transpose(), observed = view.row(sequence.k_begin + first + key, g);
      const auto [errors, noise] = predict(arithmetic_, terms, key, expected);
      const KeyRange all{0, summed.rows()};
      const Covariance covariance{errors, reference::view(summed), {&all, 1}, expected, noise.rounding};
      tally.add({sequence.index, first + key, g},
                compare_row(expected, observed, noise, arithmetic_.output, covariance), expected, observed, noise,
                &covariance);
    };
    compare_key(dk, sum.dk, dk_view, terms.q, key_gradient_noise);
    compare_key(dv, sum.dv, dv_view, terms.d_o, value_gradient_noise);
  }
}

}  // namespace attnspec::verify
