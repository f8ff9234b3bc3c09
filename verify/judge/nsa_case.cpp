#include <algorithm>
#include <array>
#include <cmath>
#include <utility>

#include "reference/dense.hpp"
#include "reference/noise/nsa_gate_noise.hpp"
#include "reference/nsa/nsa.hpp"
#include "verify/judge/attention.hpp"
#include "verify/judge/cases.hpp"
#include "verify/judge/compression.hpp"
#include "verify/judge/overflow.hpp"
#include "verify/judge/selections.hpp"
#include "verify/run/calls/calls.hpp"
#include "verify/run/calls/names.hpp"

namespace attnspec::verify {

namespace {

using namespace reference;

/// The case's problem, inputs and calls.
class NsaCase {
 public:
  NsaCase(const Kernel& kernel, const Case& c, const Inputs& inputs, const RowObserver& observe, CaseResult& result)
      : kernel_(kernel),
        case_(c),
        observe_(observe),
        result_(result),
        problem_(nsa_problem_of(c)),
        arithmetic_(make_arithmetic(c.dtype, kernel.arithmetic)),
        inputs_(inputs),
        calls_(kernel, c, inputs_),
        queries_(judged_queries(c, problem_.attention, c.heads)) {}

  void run() {
    refuse_overflowing_scores();
    result_.add(calls_.forward());
    const Tensor k_rows = load(calls_.view("k_compressed")), v_rows = load(calls_.view("v_compressed"));
    const CompressionStage phi_k{names_of_keys(), problem_, inputs_.k, phi_heads(inputs_.phi_k)},
        phi_v{names_of_values(), problem_, inputs_.v, phi_heads(inputs_.phi_v)};
    judge_compressed_rows(arithmetic_, phi_k, calls_.view("k_compressed"), observe_, result_);
    judge_compressed_rows(arithmetic_, phi_v, calls_.view("v_compressed"), observe_, result_);
    Selection selection = calls_.exported();
    const auto malformed =
        judge_selection(problem_.attention, problem_.block, nsa_rule(arithmetic_, problem_, inputs_.q, k_rows),
                        judged_queries(case_, problem_.attention, case_.kv_heads), selection, observe_, result_);
    std::array<AttentionJudge, 3> judges{AttentionJudge(arithmetic_, compressed_stage(k_rows, v_rows)),
                                         AttentionJudge(arithmetic_, selected_stage(selection)),
                                         AttentionJudge(arithmetic_, window_stage())};
    const std::int64_t group = case_.heads / case_.kv_heads;
    for (const auto& [token, g] : malformed)
      for (std::int64_t h = g * group; h < (g + 1) * group; ++h) judges[1].exclude(token, h);
    for (const Branch branch : kBranches) {
      // Position encodings and biases give the compressed values a mean.
      const bool zero_mean = has_zero_mean_values(case_) && (branch != Branch::compressed || problem_.phi == Phi::mean);
      of(judges, branch).judge_outputs({}, zero_mean, observe_, result_);
    }
    judge_from_outputs("o", calls_.view("o"), [&](const BranchRows& o, std::int64_t token, std::int64_t head) {
      return gated_noise(arithmetic_, inputs_.gates.row(token, head), o);
    });
    if (!calls_.has_backward()) return;
    for (const AttentionJudge& judge : judges)
      if (result_.reason.empty()) result_.reason = judge.why_no_backward();
    for (const Branch branch : kBranches)
      if (result_.reason.empty()) result_.reason = of(judges, branch).why_gradients_overflow(branch_d_o(branch));
    if (!result_.reason.empty()) {
      result_.verdict = std::max(result_.verdict, Verdict::undecided);
      return;
    }
    result_.add(calls_.backward(selection));
    judge_backward(judges, phi_k, phi_v);
  }

 private:
  /// Of any branch; the compressed rows are the exact ones.
  void refuse_overflowing_scores() const {
    if (std::abs(case_.scale) < 0x1p32) return;  // far from it
    for (const Tensor& k :
         {compress(problem_, phi_heads(inputs_.phi_k), inputs_.k), inputs_.k_selected, inputs_.k_window})
      verify::refuse_overflowing_scores(case_.scale, inputs_.q, k);
  }

  void judge_backward(std::array<AttentionJudge, 3>& judges, const CompressionStage& phi_k,
                      const CompressionStage& phi_v) {
    std::array<Tensor, 3> d_o;
    for (const Branch branch : kBranches) {
      of(d_o, branch) = branch_d_o(branch);
      of(judges, branch).begin_backward(of(d_o, branch));
    }
    judge_query_gradients(judges);
    judges[0].judge_key_gradients(calls_.view("dk_compressed"), calls_.view("dv_compressed"), observe_, result_);
    for (const Branch branch : {Branch::selected, Branch::window}) {
      const AttentionNames names = names_of(branch);
      of(judges, branch).judge_key_gradients(calls_.view(names.dk), calls_.view(names.dv), observe_, result_);
    }
    judge_from_outputs("d_gates", calls_.view("d_gates"),
                       [&](const BranchRows& o, std::int64_t token, std::int64_t head) {
                         return gate_gradient_noise(arithmetic_, inputs_.d_o.row(token, head), o);
                       });
    judge_compression(phi_k, load(calls_.view("dk_compressed")), calls_.view(phi_k.names.d_tokens),
                      calls_.phi("d_phi_k"));
    judge_compression(phi_v, load(calls_.view("dv_compressed")), calls_.view(phi_v.names.d_tokens),
                      calls_.phi("d_phi_v"));
  }

  /// The gradients that follow from those of the compressed rows, unless these have overflowed.
  void judge_compression(const CompressionStage& phi, const Tensor& d_rows, const TensorView& d_tokens,
                         const PhiTensors<TensorView>& d_phi) {
    if (std::all_of(d_rows.values.begin(), d_rows.values.end(), [](double x) { return std::isfinite(x); }))
      return judge_compression_gradients(arithmetic_, phi, d_rows, d_tokens, d_phi, observe_, result_);
    result_.reason = phi.names.d_phi + " not judged: the gradients of its rows are not finite";
    result_.verdict = std::max(result_.verdict, Verdict::undecided);
  }

  /// Whether a number of a row may be stored as an infinity, which has no sum with another branch's. A8.
  static bool may_overflow(const Vector& expected, const RowNoise& noise, Format format) {
    const Eigen::ArrayXd bound = noise.worst.array().min(kKappa * noise.variance.array().sqrt()) + noise.floor.array();
    return !(expected.array().abs() + bound < overflow_threshold(format)).all();
  }

  AttentionStage compressed_stage(const Tensor& k, const Tensor& v) {
    AttentionProblem rows = compressed_problem(problem_);
    auto [block, selection] = whole_sequence(rows);
    return {names_of(Branch::compressed),
            rows,
            block,
            compressed_reach(problem_),
            inputs_.q,
            k,
            v,
            std::move(selection),
            calls_.view("compressed.o"),
            calls_.view("compressed.lse"),
            queries_,
            judged_keys(case_, rows),
            kernel_.exports_lse};
  }
  AttentionStage selected_stage(const Selection& selection) {
    return {names_of(Branch::selected),
            problem_.attention,
            problem_.block,
            causal_reach(problem_.attention),
            inputs_.q,
            inputs_.k_selected,
            inputs_.v_selected,
            selection,
            calls_.view("selected.o"),
            calls_.view("selected.lse"),
            queries_,
            judged_keys(case_, problem_.attention),
            kernel_.exports_lse};
  }
  AttentionStage window_stage() {
    auto [block, selection] = whole_sequence(problem_.attention);
    return {names_of(Branch::window),
            problem_.attention,
            block,
            window_reach(problem_),
            inputs_.q,
            inputs_.k_window,
            inputs_.v_window,
            std::move(selection),
            calls_.view("window.o"),
            calls_.view("window.lse"),
            queries_,
            judged_keys(case_, problem_.attention),
            kernel_.exports_lse};
  }

  /// Compares the judged rows of an output that follows from the branch outputs which the kernel stored. predict(rows,
  /// token, head): the row it should be.
  template <class Predict>
  void judge_from_outputs(const char* output, TensorView view, const Predict& predict) {
    Tally tally(observe_, output, output);
    const TensorView stored[] = {calls_.view("compressed.o"), calls_.view("selected.o"), calls_.view("window.o")};
    for_each_query(problem_.attention, queries_, [&](const Sequence& sequence, std::int64_t token, std::int64_t head) {
      std::array<Vector, 3> o;
      for (std::size_t b = 0; b < 3; ++b) o[b] = stored[b].row(token, head);
      tally.add({sequence.index, token - sequence.q_begin, head}, predict(BranchRows{o[0], o[1], o[2]}, token, head),
                view.row(token, head), arithmetic_.output);
    });
    tally.sample(queries_, view);
    tally.finish(result_);
  }

  /// g do as the backward of the branch has it: unless branches are fused, in the format of the inputs.
  Tensor branch_d_o(Branch branch) const {
    Tensor d_o = branch_gradient(inputs_.gates, inputs_.d_o, branch);
    if (!arithmetic_.fused_branches)
      for (double& x : d_o.values) x = round_to(x, arithmetic_.input);
    return d_o;
  }

  /// dq, the sum over the branches.
  void judge_query_gradients(const std::array<AttentionJudge, 3>& judges) {
    Tally tally(observe_, "dq", "dq");
    const TensorView dq = calls_.view("dq");
    Arithmetic of_branch = arithmetic_;
    if (arithmetic_.fused_branches) of_branch.output = Format::fp32;
    for_each_query(problem_.attention, queries_, [&](const Sequence& sequence, std::int64_t token, std::int64_t head) {
      std::vector<QueryGradient> parts;
      Matrix terms(3, case_.dk);
      RowNoise noise(case_.dk);
      bool overflows = false;
      for (std::size_t b = 0; b < 3; ++b) {
        parts.push_back(judges[b].query_gradient(of_branch, sequence.index, token, head));
        const RowNoise& part = parts.back().noise.noise;
        terms.row(static_cast<Eigen::Index>(b)) = parts.back().expected.transpose();
        noise.variance += part.variance;
        noise.worst += part.worst;
        noise.floor += part.floor;
        overflows = overflows || may_overflow(parts.back().expected, part, of_branch.output);
      }
      if (overflows) return tally.add_undecided();
      const Vector expected = terms.colwise().sum().transpose(), observed = dq.row(token, head);
      const bool sums_rounded = arithmetic_.rounded_gradient_sums && !arithmetic_.fused_branches;
      const Format sum_format = sums_rounded ? arithmetic_.output : Format::fp32;  // E7
      const FeatureSum sum = feature_sum(unit_roundoff(sum_format), terms, {}, expected);
      noise.variance += sum.variance;
      noise.worst += sum.worst;
      add_output_rounding(expected, arithmetic_.output, noise);
      RowErrors errors(case_.dk);
      errors.separate = sum.variance;
      const std::vector<Covariance> of_branches{parts[2].covariance(), parts[1].covariance(), parts[0].covariance()};
      const Covariance covariance{errors, {nullptr, 0, case_.dk}, {}, expected, noise.rounding, of_branches};
      tally.add({sequence.index, token - sequence.q_begin, head},
                compare_row(expected, observed, noise, arithmetic_.output, covariance), expected, observed, noise,
                &covariance);
    });
    tally.sample(queries_, dq);
    tally.finish(result_);
  }

  const Kernel& kernel_;
  const Case& case_;
  const RowObserver& observe_;
  CaseResult& result_;
  NsaProblem problem_;
  Arithmetic arithmetic_;
  const Inputs& inputs_;
  Calls calls_;
  JudgedRows queries_;
};

}  // namespace

void judge_nsa(const Kernel& kernel, const Case& c, const Inputs& inputs, const RowObserver& observe,
               CaseResult& result) {
  NsaCase(kernel, c, inputs, observe, result).run();
}

}  // namespace attnspec::verify
