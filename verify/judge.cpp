#include "verify/judge.hpp"

#include <fmt/format.h>

#include <algorithm>
#include <cmath>
#include <mutex>
#include <optional>
#include <tuple>
#include <utility>

#include "reference/attention_noise.hpp"
#include "reference/dense.hpp"
#include "reference/gradient_noise.hpp"
#include "reference/moba.hpp"
#include "reference/nsa_window.hpp"
#include "verify/compare.hpp"
#include "verify/guarded_run.hpp"
#include "verify/regimes.hpp"
#include "verify/selection.hpp"

namespace attnspec::verify {

namespace {

using namespace reference;

Rows view(const Matrix& matrix) { return {matrix.data(), matrix.rows(), matrix.cols()}; }

/// Selections that a kernel which does not export its own is judged on, at most.
constexpr std::size_t kMostSelections = 16;

/// Collects the comparisons of one output from many threads.
class Tally {
 public:
  explicit Tally(std::string output) { summary_.output = std::move(output); }

  const std::string& output() const { return summary_.output; }

  void undecided() {
    const std::lock_guard lock(mutex_);
    ++summary_.undecided;
  }

  /// A row that is right, with its R.
  void pass(double r) {
    const std::lock_guard lock(mutex_);
    ++summary_.rows;
    summary_.worst_r = std::max(summary_.worst_r, r);
    summary_.sum_r_squared += r * r;
  }

  void fail(Finding finding) {
    const std::lock_guard lock(mutex_);
    ++summary_.rows;
    ++summary_.findings;
    summary_.worst_r = std::max(summary_.worst_r, finding.r);
    finding.output = summary_.output;
    findings_.push_back(std::move(finding));
    if (findings_.size() > 4 * kMostFindings) keep_first();
  }

  void add_to(CaseResult& result) {
    keep_first();
    result.outputs.push_back(summary_);
    for (Finding& finding : findings_) {
      result.verdict = std::max(result.verdict, finding.verdict);
      if (result.findings.size() < kMostFindings) result.findings.push_back(std::move(finding));
    }
    if (summary_.undecided > 0) result.verdict = std::max(result.verdict, Verdict::undecided);
  }

 private:
  void keep_first() {
    const auto position = [](const Finding& f) { return std::tuple(f.sequence, f.token, f.head); };
    std::sort(findings_.begin(), findings_.end(),
              [&](const Finding& a, const Finding& b) { return position(a) < position(b); });
    if (findings_.size() > kMostFindings) findings_.resize(kMostFindings);
  }

  std::mutex mutex_;
  OutputSummary summary_;
  std::vector<Finding> findings_;
};

/// Where a row is.
struct Place {
  std::int64_t sequence, token, head;
};

/// One judgement: the case's problem, inputs, buffers and the kernel's outputs.
class Judgement {
 public:
  Judgement(const Kernel& kernel, const Case& c, const RowObserver& observe)
      : kernel_(kernel),
        observe_(observe),
        case_(c),
        problem_(problem_of(c)),
        nsa_(nsa_problem_of(c)),
        attention_(c.op == Operator::nsa_compressed ? compressed_problem(nsa_) : problem_.attention),
        block_(c.block),
        reach_(c.op == Operator::nsa_compressed ? compressed_reach(nsa_)
               : c.op == Operator::window       ? window_reach(nsa_)
                                                : causal_reach(attention_)),
        profile_(make_profile(c.dtype, kernel.departures)),
        inputs_(make_inputs(c)),
        q_(c.dtype, c.layout, inputs_.q),
        k_(c.dtype, c.layout, inputs_.k),
        v_(c.dtype, c.layout, inputs_.v),
        d_o_(c.dtype, c.layout, inputs_.d_o),
        o_(profile_.output, c.layout, inputs_.q.tokens, c.heads, c.dv),
        lse_(Format::fp32, c.layout, inputs_.q.tokens, c.heads, 1),
        dq_(profile_.output, c.layout, inputs_.q.tokens, c.heads, c.dk),
        dk_(profile_.output, c.layout, inputs_.k.tokens, c.kv_heads, c.dk),
        dv_(profile_.output, c.layout, inputs_.k.tokens, c.kv_heads, c.dv),
        workspace_bytes_(kernel.workspace_bytes ? kernel.workspace_bytes(c) : 0),
        workspace_(Format::fp32, Layout::contiguous, 1, 1, (workspace_bytes_ + 3) / 4) {
    if (c.op == Operator::selected) {
      selection_ = inputs_.selection;
    } else if (selects(c.op)) {
      selection_ = Selection(inputs_.q.tokens, c.heads, selection_slots(problem_));
    } else {
      auto [block, selection] = whole_sequence(attention_);
      block_ = block;
      selection_ = std::move(selection);
    }
    states_.assign(static_cast<std::size_t>(inputs_.q.tokens * c.heads), RowState::usable);
    for (const Sequence& sequence : sequences(attention_))
      for (std::int64_t g = 0; g < c.kv_heads; ++g)
        keys_.emplace_back(k_rows(sequence, g), inputs_.v.rows(sequence.k_begin, sequence.k_end, g));
  }

  CaseResult result() {
    CaseResult result;
    result.c = case_;
    result.kernel = kernel_.name;
    result.profile = describe(profile_);
    std::vector<NamedTensor> inputs{{"q", q_}, {"k", k_}}, outputs;
    if (attends(case_.op)) {
      inputs.push_back({"v", v_});
      outputs.push_back({"o", o_});
      outputs.push_back({"lse", lse_});
    }
    const bool is_compressed = case_.op == Operator::nsa_compressed;
    const SelectionUse use = is_compressed               ? SelectionUse::written
                             : !selects(case_.op)        ? SelectionUse::read
                             : kernel_.exports_selection ? SelectionUse::written
                                                         : SelectionUse::ignored;
    const Selection blank(inputs_.q.tokens, case_.kv_heads, selection_slots(nsa_));
    const auto forward = [&] { kernel_.forward(forward_call(true)); };
    run({inputs, outputs, is_compressed ? blank : selection_, use, given_, workspace_, forward}, result);
    if (is_compressed) judge_importances(given_.values(), result);
    if (selects(case_.op)) {
      if (kernel_.exports_selection) selection_ = given_.values();
      judge_selection(result);
    }
    if (!attends(case_.op)) return result;
    judge_forward(result);
    if (!kernel_.backward) return result;
    result.reason = why_no_backward();
    if (!result.reason.empty()) {
      result.verdict = std::max(result.verdict, Verdict::undecided);
      return result;
    }
    inputs.push_back({"do", d_o_});
    inputs.push_back({"o", o_});
    inputs.push_back({"lse", lse_});
    const auto backward = [&] {
      kernel_.backward({forward_call(false), d_o_.view(), dq_.view(), dk_.view(), dv_.view()});
    };
    run({inputs, {{"dq", dq_}, {"dk", dk_}, {"dv", dv_}}, selection_, SelectionUse::read, given_, workspace_, backward},
        result);
    judge_query_gradients(result);
    judge_key_gradients(result);
    return result;
  }

 private:
  /// Whether a row's selection is known, so that its values can be judged.
  enum class RowState : char { usable, malformed, undecided };

  RowState& state(std::int64_t token, std::int64_t h) {
    return states_[static_cast<std::size_t>(token * case_.heads + h)];
  }

  ForwardCall forward_call(bool is_forward) {
    ForwardCall call{case_.op, problem_, nsa_, q_.view(), k_.view(), {}, {}, {}, {}, {}};
    call.workspace = {static_cast<std::byte*>(workspace_.view().data), static_cast<std::size_t>(workspace_bytes_)};
    if (case_.op == Operator::selected || selects(case_.op) || (case_.op == Operator::nsa_compressed && is_forward))
      call.selection = given_.view();
    if (attends(case_.op)) {
      call.v = v_.view();
      call.o = o_.view();
      call.lse = lse_.view();
    }
    return call;
  }

  static void run(const GuardedCall& call, CaseResult& result) {
    for (const auto& [verdict, tensor, what] : run_guarded(call)) {
      result.verdict = std::max(result.verdict, verdict);
      result.findings.push_back({verdict, tensor, -1, -1, -1, -1, 0, 0, 0, 0, 0, what});
    }
  }

  /// Why the backward cannot be judged on what the forward gave; empty when it can.
  std::string why_no_backward() {
    if (!std::all_of(states_.begin(), states_.end(), [](RowState s) { return s == RowState::usable; }))
      return "backward not judged: the selection it would be given is not known";
    for (std::int64_t token = 0; token < inputs_.q.tokens; ++token)
      for (std::int64_t h = 0; h < case_.heads; ++h)
        if (!o_.view().row(token, h).allFinite() || !(lse_.view().load(token, h, 0) < HUGE_VAL))
          return "backward not judged: the o and lse it would be given are not finite";
    return "";
  }

  Rows k_rows(const Sequence& sequence, std::int64_t g) const {
    return inputs_.k.rows(sequence.k_begin, sequence.k_end, g);
  }

  KeyRange reach(const Sequence& sequence, std::int64_t token) const { return reach_(sequence, token); }

  std::vector<KeyRange> visible(const Sequence& sequence, std::int64_t token,
                                std::span<const std::int32_t> blocks) const {
    return visible_keys(blocks, reach(sequence, token), sequence.num_keys(), block_);
  }

  RowInputs row_inputs(const Sequence& sequence, std::int64_t token, std::int64_t h,
                       std::span<const KeyRange> ranges) const {
    const auto at = static_cast<std::size_t>(sequence.index * case_.kv_heads + kv_head(attention_, h));
    return {inputs_.q.row(token, h), keys_[at], ranges, case_.scale};
  }

  /// Tallies a compared row and shows it to the observer. covariance: nullptr for lse.
  void record(Tally& tally, const Place& place, const RowComparison& row, const Vector& expected,
              const Vector& observed, const Covariance* covariance) {
    if (observe_) observe_(tally.output(), row, covariance);
    if (row.fault == RowFault::none) return tally.pass(row.r);
    Finding finding{row.fault == RowFault::wrong_class ? Verdict::non_finite : Verdict::value_out_of_bound,
                    "",
                    place.sequence,
                    place.token,
                    place.head,
                    row.d,
                    observed[row.d],
                    expected[row.d],
                    row.bound,
                    row.r,
                    0,
                    ""};
    if (row.fault == RowFault::row) finding.limit = row.limit;
    tally.fail(std::move(finding));
  }

  /// The rules of every row's selection, and the verdict on the exported ones.
  void judge_selection(CaseResult& result) {
    Tally tally("selection");
    const bool exact = regime_of(case_).exact_scores;
    std::vector<Matrix> pooled;
    std::vector<PoolNoise> noise;
    for (const Sequence& sequence : sequences(attention_)) {
      for (std::int64_t g = 0; g < case_.kv_heads; ++g) {
        pooled.push_back(pool_keys(k_rows(sequence, g), case_.block));
        noise.push_back(pool_noise(k_rows(sequence, g), pooled.back(), case_.block));
      }
    }
    rules_.resize(states_.size());
    for_each_query(attention_, [&](const Sequence& sequence, std::int64_t token, std::int64_t h) {
      const auto at = static_cast<std::size_t>(sequence.index * case_.kv_heads + kv_head(attention_, h));
      const Vector scores = gate_scores(inputs_.q.row(token, h), Rows(pooled[at].data(), pooled[at].rows(), case_.dk));
      const Vector margins = exact ? Vector(Vector::Zero(scores.size()))
                                   : score_margins(profile_, inputs_.q.row(token, h), pooled[at], noise[at], scores);
      const SelectionRule rule =
          selection_rule(problem_, sequence.position(token), sequence.num_keys(), scores, margins);
      if (!kernel_.exports_selection) {
        rules_[static_cast<std::size_t>(token * case_.heads + h)] = rule;
        return;
      }
      const auto row = selection_.row(token, h);
      std::string wrong = malformed(row, num_blocks(sequence.num_keys(), case_.block));
      if (!wrong.empty()) {
        state(token, h) = RowState::malformed;
        std::fill(row.begin(), row.end(), -1);
      } else {
        wrong = inadmissible(rule, row);
      }
      if (wrong.empty()) return tally.pass(0);
      tally.fail(
          {Verdict::selection_mismatch, "", sequence.index, token - sequence.q_begin, h, -1, 0, 0, 0, 0, 0, wrong});
    });
    if (kernel_.exports_selection) tally.add_to(result);
  }

  /// The selection that nsa_compressed writes beside its attention: per kv head, by the importance of the blocks.
  void judge_importances(const Selection& exported, CaseResult& result) {
    Tally tally("selection");
    const auto tokens = sequences(problem_.attention);
    std::vector<Matrix> weights;
    for (const Sequence& rows : sequences(attention_))
      weights.push_back(overlap_weights(
          nsa_, rows.num_keys(), num_blocks(tokens[static_cast<std::size_t>(rows.index)].num_keys(), case_.block)));
    std::vector<KeyValues> keys;
    for (const Sequence& rows : sequences(attention_))
      for (std::int64_t g = 0; g < case_.kv_heads; ++g)
        keys.emplace_back(k_rows(rows, g), view(weights[static_cast<std::size_t>(rows.index)]));
    AttentionProblem groups = problem_.attention;
    groups.heads = groups.kv_heads;
    for_each_query(groups, [&](const Sequence& sequence, std::int64_t token, std::int64_t g) {
      const KeyValues& of_head = keys[static_cast<std::size_t>(sequence.index * case_.kv_heads + g)];
      const std::int64_t t = sequence.position(token);
      const Matrix queries = group_queries(nsa_, inputs_.q, token, g);
      const SelectionRule rule = importance_rule(nsa_, t, importance(nsa_, queries, of_head.k, t).importance,
                                                 importance_margins(profile_, nsa_, queries, of_head, t));
      std::string wrong = malformed(exported.row(token, g), num_blocks(sequence.num_keys(), case_.block));
      if (wrong.empty()) wrong = inadmissible(rule, exported.row(token, g));
      if (wrong.empty()) return tally.pass(0);
      tally.fail(
          {Verdict::selection_mismatch, "", sequence.index, token - sequence.q_begin, g, -1, 0, 0, 0, 0, 0, wrong});
    });
    tally.add_to(result);
  }

  struct ForwardRow {
    std::vector<KeyRange> ranges;
    AttendedRow expected;
    AttentionNoise noise;
    Vector observed_o, observed_lse;
    RowComparison o, lse;

    bool is_right() const { return o.fault == RowFault::none && lse.fault == RowFault::none; }
    Covariance covariance(const KeyValues& keys) const {
      return {noise.errors, keys.v, ranges, expected.o, noise.o.rounding};
    }
  };

  ForwardRow compare_forward(const Sequence& sequence, std::int64_t token, std::int64_t h,
                             std::span<const std::int32_t> blocks) {
    ForwardRow row{visible(sequence, token, blocks), {}, {RowErrors(0), RowNoise(0), RowNoise(0)}, {}, {}, {}, {}};
    const RowInputs in = row_inputs(sequence, token, h, row.ranges);
    row.expected = attend(in.q, in.kv.k, in.kv.v, row.ranges, in.scale);
    row.noise = attention_noise(profile_, in, row.expected);
    row.observed_o = o_.view().row(token, h);
    row.observed_lse = lse_.view().row(token, h);
    row.o = compare_row(row.expected.o, row.observed_o, row.noise.o, profile_.output, row.covariance(in.kv));
    row.lse = compare_number(row.expected.lse, row.observed_lse[0], row.noise.lse, Format::fp32);
    return row;
  }

  /// o and lse, each row on the selection the kernel used. Where it does not export one: on every admissible one, of
  /// which the first that fits is taken as the one it used.
  void judge_forward(CaseResult& result) {
    Tally o("o"), lse("lse");
    DirectionTest directions(profile_);
    const bool hidden = selects(case_.op) && !kernel_.exports_selection;
    for_each_query(attention_, [&](const Sequence& sequence, std::int64_t token, std::int64_t h) {
      if (state(token, h) == RowState::malformed) return;
      std::optional<ForwardRow> row;
      if (hidden) {
        const auto candidates =
            admissible_selections(rules_[static_cast<std::size_t>(token * case_.heads + h)], kMostSelections);
        if (candidates.empty()) {
          state(token, h) = RowState::undecided;
          o.undecided();
          return lse.undecided();
        }
        const auto slots = selection_.row(token, h);
        for (const Blocks& blocks : candidates) {
          row = compare_forward(sequence, token, h, blocks);
          std::fill(slots.begin(), slots.end(), -1);
          std::copy(blocks.begin(), blocks.end(), slots.begin());
          if (row->is_right()) break;
        }
      } else {
        row = compare_forward(sequence, token, h, selected_blocks(attention_, selection_, token, h));
      }
      const Place place{sequence.index, token - sequence.q_begin, h};
      const RowInputs in = row_inputs(sequence, token, h, row->ranges);
      const Covariance covariance = row->covariance(in.kv);
      record(o, place, row->o, row->expected.o, row->observed_o, &covariance);
      record(lse, place, row->lse, Vector::Constant(1, row->expected.lse), row->observed_lse, nullptr);
      if (row->observed_o.allFinite() && !row->ranges.empty()) {
        const std::int64_t next = reach(sequence, token).end;
        directions.add(in, row->expected, covariance, row->noise.o.variance.sum(), row->observed_o - row->expected.o,
                       next < sequence.num_keys() ? next : -1);
      }
    });
    o.add_to(result);
    lse.add_to(result);
    judge_directions(directions, result);
  }

  /// Errors that add up over all rows of o. Where values have a mean, or scores repeat, correct kernels are biased as
  /// well: there it is information.
  void judge_directions(const DirectionTest& test, CaseResult& result) {
    result.directions.assign(test.directions().begin(), test.directions().end());
    if (!regime_of(case_).zero_mean_values) return;
    for (const Direction& direction : test.directions()) {
      if (std::abs(direction.z()) <= kKappa) continue;
      result.verdict = std::max(result.verdict, Verdict::value_out_of_bound);
      result.findings.push_back({Verdict::value_out_of_bound, "o", -1, -1, -1, -1, 0, 0, 0, 0, 0,
                                 fmt::format("errors of all rows add up as if: {}; {:.3g} deviations, limit {}",
                                             direction.fault, direction.z(), kKappa)});
    }
  }

  /// dq, each row from the o, lse and selection that the backward was given.
  void judge_query_gradients(CaseResult& result) {
    Tally tally("dq");
    for_each_query(attention_, [&](const Sequence& sequence, std::int64_t token, std::int64_t h) {
      const auto ranges = visible(sequence, token, selected_blocks(attention_, selection_, token, h));
      const RowInputs in = row_inputs(sequence, token, h, ranges);
      const Vector o = o_.view().row(token, h);
      const RowGiven given{inputs_.d_o.row(token, h), o, lse_.view().load(token, h, 0)};
      const RowGradient row = attend_backward(in.q, in.kv.k, in.kv.v, ranges, in.scale, given.d_o, o, given.lse);
      const Vector expected = query_gradient(row, in.kv.k, ranges, in.scale), observed = dq_.view().row(token, h);
      const auto [errors, noise] =
          query_gradient_noise(profile_, in, gradient_terms(profile_, in, given, row), row, expected);
      const Covariance covariance{errors, in.kv.k, ranges, expected, noise.rounding};
      const RowComparison comparison = compare_row(expected, observed, noise, profile_.output, covariance);
      record(tally, {sequence.index, token - sequence.q_begin, h}, comparison, expected, observed, &covariance);
    });
    tally.add_to(result);
  }

  /// dk and dv, chunk by chunk, each key summed over the query rows that see it.
  void judge_key_gradients(CaseResult& result) {
    Tally dk("dk"), dv("dv");
    for (const Sequence& sequence : sequences(attention_)) {
      const auto chunks = key_chunks(sequence, block_);
      for (std::int64_t g = 0; g < case_.kv_heads; ++g) {
        const auto rows = queries_by_block(attention_, sequence, g, block_, selection_);
#pragma omp parallel for schedule(dynamic)
        for (std::size_t c = 0; c < chunks.size(); ++c)
          judge_chunk(chunks[c], sequence, g, rows[static_cast<std::size_t>(chunks[c].block)], dk, dv);
      }
    }
    dk.add_to(result);
    dv.add_to(result);
  }

  void judge_chunk(const KeyChunk& chunk, const Sequence& sequence, std::int64_t g, const std::vector<QueryRow>& rows,
                   Tally& dk, Tally& dv) {
    const std::int64_t first = chunk.keys.begin, keys = chunk.keys.end - first;
    std::vector<QueryRow> seeing;
    std::copy_if(rows.begin(), rows.end(), std::back_inserter(seeing), [&](const QueryRow& row) {
      const KeyRange range = visible_in(chunk, reach(sequence, row.token));
      return range.begin < range.end;
    });
    KeyGradient sum{Matrix::Zero(keys, case_.dk), Matrix::Zero(keys, case_.dv)};
    KeyTerms terms(std::ssize(seeing), keys, case_.dk, case_.dv, case_.scale, static_cast<double>(rows.size()));
    for (std::size_t i = 0; i < seeing.size(); ++i) {
      const auto& [token, h] = seeing[i];
      const KeyRange range = visible_in(chunk, reach(sequence, token));
      const RowInputs in = row_inputs(sequence, token, h, {&range, 1});
      const Vector o = o_.view().row(token, h);
      const RowGiven given{inputs_.d_o.row(token, h), o, lse_.view().load(token, h, 0)};
      const RowGradient row = attend_backward(in.q, in.kv.k, in.kv.v, in.visible, in.scale, given.d_o, o, given.lse);
      add_key_gradient(row, range, first, in.q, given.d_o, in.scale, sum);
      terms.set(profile_, static_cast<std::int64_t>(i), first, in, given, row,
                gradient_terms(profile_, in, given, row));
    }
    terms.complete();
    for (std::int64_t key = 0; key < keys; ++key) {
      const Place place{sequence.index, first + key, g};
      const auto compare = [&](Tally& tally, const Matrix& sums, const TensorView& view, const Matrix& summed,
                               const auto& predict) {
        const Vector expected = sums.row(key).transpose(), observed = view.row(sequence.k_begin + first + key, g);
        const auto [errors, noise] = predict(profile_, terms, key, expected);
        const KeyRange all{0, summed.rows()};
        const Covariance covariance{
            errors, {summed.data(), summed.rows(), summed.cols()}, {&all, 1}, expected, noise.rounding};
        const RowComparison comparison = compare_row(expected, observed, noise, profile_.output, covariance);
        record(tally, place, comparison, expected, observed, &covariance);
      };
      compare(dk, sum.dk, dk_.view(), terms.q, key_gradient_noise);
      compare(dv, sum.dv, dv_.view(), terms.d_o, value_gradient_noise);
    }
  }

  const Kernel& kernel_;
  const RowObserver& observe_;
  const Case& case_;
  MobaProblem problem_;
  NsaProblem nsa_;
  AttentionProblem attention_;  // over the rows of k and v that the case has
  std::int64_t block_;          // in such rows
  Reach reach_;
  Profile profile_;
  Inputs inputs_;
  HostTensor q_, k_, v_, d_o_, o_, lse_, dq_, dk_, dv_;
  std::int64_t workspace_bytes_;
  HostTensor workspace_;
  std::vector<KeyValues> keys_;       // [sequences * Hkv]
  Selection selection_;               // what each row is judged on
  HostSelection given_;               // the kernel's copy of it
  std::vector<SelectionRule> rules_;  // [query tokens * H], for kernels that do not export theirs
  std::vector<RowState> states_;      // [query tokens * H]
};

}  // namespace

const char* name(Verdict verdict) {
  switch (verdict) {
    case Verdict::pass: return "pass";
    case Verdict::not_supported: return "not-supported";
    case Verdict::undecided: return "undecided";
    case Verdict::value_out_of_bound: return "value-out-of-bound";
    case Verdict::non_finite: return "non-finite";
    case Verdict::selection_mismatch: return "selection-mismatch";
    case Verdict::nondeterministic: return "nondeterministic";
    case Verdict::stray_read: return "stray-read";
    case Verdict::stray_write: return "stray-write";
  }
  return "";
}

std::int64_t CaseResult::rows() const {
  std::int64_t rows = 0;
  for (const OutputSummary& output : outputs) rows += output.rows;
  return rows;
}

std::int64_t CaseResult::undecided() const {
  std::int64_t rows = 0;
  for (const OutputSummary& output : outputs) rows += output.undecided;
  return rows;
}

CaseResult judge(const Kernel& kernel, const Case& c, const RowObserver& observe) {
  const bool implemented = std::find(kernel.operators.begin(), kernel.operators.end(), c.op) != kernel.operators.end();
  const auto unsupported = implemented ? kernel.unsupported(c) : "does not implement the operator";
  if (unsupported) {
    CaseResult result;
    result.c = c;
    result.kernel = kernel.name;
    result.verdict = Verdict::not_supported;
    result.reason = *unsupported;
    return result;
  }
  return Judgement(kernel, c, observe).result();
}

}  // namespace attnspec::verify
