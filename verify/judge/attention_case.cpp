#include <algorithm>
#include <utility>

#include "reference/dense.hpp"
#include "reference/nsa/nsa_compression.hpp"
#include "verify/judge/attention.hpp"
#include "verify/judge/cases.hpp"
#include "verify/judge/overflow.hpp"
#include "verify/judge/selections.hpp"
#include "verify/run/calls/calls.hpp"

namespace attnspec::verify {

namespace {

using namespace reference;

/// Selections that a kernel which does not export its own is judged on, at most.
constexpr std::size_t kMaxSelections = 16;

/// The case's problem, inputs and calls.
class AttentionCase {
 public:
  AttentionCase(const Kernel& kernel, const Case& c, const Inputs& inputs, const RowObserver& observe,
                CaseResult& result)
      : kernel_(kernel),
        case_(c),
        observe_(observe),
        result_(result),
        problem_(problem_of(c)),
        nsa_(nsa_problem_of(c)),
        arithmetic_(make_arithmetic(c.dtype, kernel.arithmetic)),
        inputs_(inputs),
        calls_(kernel, c, inputs_) {}

  void run() {
    if (attends(case_.op)) refuse_overflowing_scores(case_.scale, inputs_.q, inputs_.k);
    result_.add(calls_.forward());
    Selection exported;
    std::vector<QueryRow> malformed;
    AttentionJudge::Candidates candidates;
    if (const auto make_rule = page_of(case_.op).rule) {
      const RuleOfRow rule = make_rule(case_, arithmetic_, inputs_);
      if (kernel_.exports_selection || has_importance(case_.op)) {
        exported = calls_.exported();
        malformed =
            judge_selection(problem_.attention, case_.block, rule,
                            judged_queries(case_, problem_.attention, exported.heads), exported, observe_, result_);
      } else {
        candidates = [rule](const Sequence& sequence, std::int64_t token, std::int64_t head) {
          return admissible_selections(rule(sequence, token, head), kMaxSelections);
        };
      }
    }
    if (!attends(case_.op)) return;
    AttentionStage stage = make_stage();
    if (selects(case_.op) && kernel_.exports_selection) stage.selection = std::move(exported);
    AttentionJudge judge(arithmetic_, std::move(stage));
    if (selects(case_.op))
      for (const auto& [token, head] : malformed) judge.exclude(token, head);
    judge.judge_outputs(candidates, has_zero_mean_values(case_), observe_, result_);
    if (!calls_.has_backward()) return;
    result_.reason = judge.why_no_backward();
    if (result_.reason.empty()) result_.reason = judge.why_gradients_overflow(inputs_.d_o);
    if (!result_.reason.empty()) {
      result_.verdict = std::max(result_.verdict, Verdict::undecided);
      return;
    }
    result_.add(calls_.backward(judge.stage().selection));
    judge.begin_backward(inputs_.d_o);
    judge.judge_query_gradients(calls_.view("dq"), observe_, result_);
    judge.judge_key_gradients(calls_.view("dk"), calls_.view("dv"), observe_, result_);
  }

 private:
  /// The attention as it is judged, before it is said what the kernel selected.
  AttentionStage make_stage() {
    const bool is_compressed = key_rows(case_.op) == RowsOf::compressed_rows;
    AttentionStage stage{{},
                         is_compressed ? compressed_problem(nsa_) : problem_.attention,
                         case_.block,
                         {},
                         inputs_.q,
                         inputs_.k,
                         inputs_.v,
                         inputs_.selection,
                         calls_.view("o"),
                         calls_.view("lse"),
                         judged_queries(case_, problem_.attention, case_.heads),
                         {}};
    stage.keys = judged_keys(case_, stage.problem);
    stage.has_lse = kernel_.exports_lse;
    stage.has_own_block = selects(case_.op) && case_.causal;
    stage.reach = page_of(case_.op).reach(problem_, nsa_);
    if (selects(case_.op)) {
      stage.selection = Selection(inputs_.q.tokens, case_.heads, page_of(case_.op).slots(case_));
    } else if (!reads_selection(case_.op)) {
      auto [block, selection] = whole_sequence(stage.problem);
      stage.block = block;
      stage.selection = std::move(selection);
    }
    return stage;
  }

  const Kernel& kernel_;
  const Case& case_;
  const RowObserver& observe_;
  CaseResult& result_;
  MobaProblem problem_;
  NsaProblem nsa_;
  Arithmetic arithmetic_;
  const Inputs& inputs_;
  Calls calls_;
};

}  // namespace

void judge_attention(const Kernel& kernel, const Case& c, const Inputs& inputs, const RowObserver& observe,
                     CaseResult& result) {
  AttentionCase(kernel, c, inputs, observe, result).run();
}

}  // namespace attnspec::verify
