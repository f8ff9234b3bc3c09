#include <algorithm>
#include <utility>

#include "reference/dense.hpp"
#include "reference/nsa_window.hpp"
#include "verify/judge/attention.hpp"
#include "verify/judge/cases.hpp"
#include "verify/judge/runner.hpp"
#include "verify/judge/selections.hpp"
#include "verify/regimes.hpp"

namespace attnspec::verify {

namespace {

using namespace reference;

/// Selections that a kernel which does not export its own is judged on, at most.
constexpr std::size_t kMostSelections = 16;

/// The case's problem, inputs, buffers and the kernel's outputs.
class AttentionCase {
 public:
  AttentionCase(const Kernel& kernel, const Case& c, const RowObserver& observe, CaseResult& result)
      : kernel_(kernel),
        case_(c),
        observe_(observe),
        result_(result),
        problem_(problem_of(c)),
        nsa_(nsa_problem_of(c)),
        profile_(make_profile(c.dtype, kernel.departures)),
        inputs_(make_inputs(c)),
        runner_(kernel, c),
        q_(c.dtype, c.layout, inputs_.q),
        k_(c.dtype, c.layout, inputs_.k),
        v_(c.dtype, c.layout, inputs_.v),
        d_o_(c.dtype, c.layout, inputs_.d_o),
        o_(profile_.output, c.layout, inputs_.q.tokens, c.heads, c.dv),
        lse_(Format::fp32, c.layout, inputs_.q.tokens, c.heads, 1),
        dq_(profile_.output, c.layout, inputs_.q.tokens, c.heads, c.dk),
        dk_(profile_.output, c.layout, inputs_.k.tokens, c.kv_heads, c.dk),
        dv_(profile_.output, c.layout, inputs_.k.tokens, c.kv_heads, c.dv) {}

  void run() {
    AttentionStage stage = make_stage();
    run_forward(stage.selection);
    if (case_.op == Operator::nsa_compressed) judge_importances();
    std::vector<QueryRow> malformed;
    AttentionJudge::Candidates candidates;
    if (selects(case_.op)) {
      const RuleOfRow rule = moba_rule(profile_, problem_, inputs_.q, inputs_.k, regime_of(case_).exact_scores);
      if (kernel_.exports_selection) {
        stage.selection = runner_.exported();
        malformed = judge_selection(problem_.attention, case_.block, rule, stage.selection, observe_, result_);
      } else {
        candidates = [rule](const Sequence& sequence, std::int64_t token, std::int64_t head) {
          return admissible_selections(rule(sequence, token, head), kMostSelections);
        };
      }
    }
    if (!attends(case_.op)) return;
    AttentionJudge judge(profile_, std::move(stage));
    for (const auto& [token, head] : malformed) judge.exclude(token, head);
    judge.judge_outputs(candidates, regime_of(case_).zero_mean_values, observe_, result_);
    if (!kernel_.backward) return;
    result_.reason = judge.why_no_backward();
    if (!result_.reason.empty()) {
      result_.verdict = std::max(result_.verdict, Verdict::undecided);
      return;
    }
    run_backward(judge.stage().selection);
    judge.judge_query_gradients(inputs_.d_o, dq_.view(), observe_, result_);
    judge.judge_key_gradients(inputs_.d_o, dk_.view(), dv_.view(), observe_, result_);
  }

 private:
  /// The attention as it is judged, before the kernel has said what it selected.
  AttentionStage make_stage() {
    const bool is_compressed = case_.op == Operator::nsa_compressed;
    AttentionStage stage{"",          is_compressed ? compressed_problem(nsa_) : problem_.attention,
                         case_.block, {},
                         inputs_.q,   inputs_.k,
                         inputs_.v,   inputs_.selection,
                         o_.view(),   lse_.view()};
    stage.reach = is_compressed                  ? compressed_reach(nsa_)
                  : case_.op == Operator::window ? window_reach(nsa_)
                                                 : causal_reach(stage.problem);
    if (selects(case_.op)) {
      stage.selection = Selection(inputs_.q.tokens, case_.heads, selection_slots(problem_));
    } else if (case_.op != Operator::selected) {
      auto [block, selection] = whole_sequence(stage.problem);
      stage.block = block;
      stage.selection = std::move(selection);
    }
    return stage;
  }

  void run_forward(const Selection& selection) {
    std::vector<NamedTensor> inputs{{"q", q_}, {"k", k_}}, outputs;
    if (attends(case_.op)) {
      inputs.push_back({"v", v_});
      outputs = {{"o", o_}, {"lse", lse_}};
    }
    const bool is_compressed = case_.op == Operator::nsa_compressed;
    const SelectionUse use = is_compressed               ? SelectionUse::written
                             : !selects(case_.op)        ? SelectionUse::read
                             : kernel_.exports_selection ? SelectionUse::written
                                                         : SelectionUse::ignored;
    const Selection of_groups(inputs_.q.tokens, case_.kv_heads, selection_slots(nsa_));
    runner_.run(
        inputs, outputs, is_compressed ? of_groups : selection, use, [&] { kernel_.forward(forward_call(true)); },
        result_);
  }

  void run_backward(const Selection& selection) {
    runner_.run(
        {{"q", q_}, {"k", k_}, {"v", v_}, {"do", d_o_}, {"o", o_}, {"lse", lse_}},
        {{"dq", dq_}, {"dk", dk_}, {"dv", dv_}}, selection, SelectionUse::read,
        [&] {
          kernel_.backward({forward_call(false), d_o_.view(), dq_.view(), dk_.view(), dv_.view()});
        },
        result_);
  }

  ForwardCall forward_call(bool is_forward) {
    ForwardCall call{case_.op, problem_, nsa_, q_.view(), k_.view(), {}, {}, {}, {}, runner_.workspace()};
    if (case_.op == Operator::selected || selects(case_.op) || (case_.op == Operator::nsa_compressed && is_forward))
      call.selection = runner_.selection();
    if (attends(case_.op)) {
      call.v = v_.view();
      call.o = o_.view();
      call.lse = lse_.view();
    }
    return call;
  }

  /// The selection that nsa_compressed writes beside its attention.
  void judge_importances() {
    Selection exported = runner_.exported();
    judge_selection(problem_.attention, case_.block, nsa_rule(profile_, nsa_, inputs_.q, inputs_.k), exported, observe_,
                    result_);
  }

  const Kernel& kernel_;
  const Case& case_;
  const RowObserver& observe_;
  CaseResult& result_;
  MobaProblem problem_;
  NsaProblem nsa_;
  Profile profile_;
  Inputs inputs_;
  Runner runner_;
  HostTensor q_, k_, v_, d_o_, o_, lse_, dq_, dk_, dv_;
};

}  // namespace

void judge_attention(const Kernel& kernel, const Case& c, const RowObserver& observe, CaseResult& result) {
  AttentionCase(kernel, c, observe, result).run();
}

}  // namespace attnspec::verify
