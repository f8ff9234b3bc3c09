#include <algorithm>
#include <array>
#include <utility>

#include "reference/dense.hpp"
#include "reference/nsa.hpp"
#include "reference/nsa_gate_noise.hpp"
#include "verify/judge/attention.hpp"
#include "verify/judge/cases.hpp"
#include "verify/judge/compression.hpp"
#include "verify/judge/phi_memory.hpp"
#include "verify/judge/runner.hpp"
#include "verify/judge/selections.hpp"
#include "verify/regimes.hpp"

namespace attnspec::verify {

namespace {

using namespace reference;

constexpr Branch kBranches[] = {Branch::compressed, Branch::selected, Branch::window};
constexpr const char* kBranchNames[] = {"compressed", "selected", "window"};

/// The one of three that belongs to a branch.
template <class Array>
auto& of(Array& all, Branch branch) {
  return all[static_cast<std::size_t>(branch)];
}

/// What one branch reads and writes. k and v of the compressed branch are tokens.
struct BranchTensors {
  HostTensor &k, &v;  // several branches may share theirs
  HostTensor o, lse, dk, dv;

  BranchCall call() { return {k.view(), v.view(), o.view(), lse.view()}; }
  BranchGradientViews gradients() { return {dk.view(), dv.view()}; }
};

/// The case's problem, inputs, buffers and the kernel's outputs.
class NsaCase {
 public:
  NsaCase(const Kernel& kernel, const Case& c, const RowObserver& observe, CaseResult& result)
      : kernel_(kernel),
        case_(c),
        observe_(observe),
        result_(result),
        problem_(nsa_problem_of(c)),
        profile_(make_profile(c.dtype, kernel.departures)),
        inputs_(make_inputs(c)),
        compressed_rows_(compressed_offsets(problem_).back()),
        runner_(kernel, c),
        q_(c.dtype, c.layout, inputs_.q),
        gates_(c.dtype, c.layout, inputs_.gates),
        d_o_(c.dtype, c.layout, inputs_.d_o),
        k_(c.dtype, c.layout, inputs_.k),
        v_(c.dtype, c.layout, inputs_.v),
        k_selected_(c.dtype, c.layout, inputs_.k_selected),
        v_selected_(c.dtype, c.layout, inputs_.v_selected),
        k_window_(c.dtype, c.layout, inputs_.k_window),
        v_window_(c.dtype, c.layout, inputs_.v_window),
        phi_k_(host_parameters(c.dtype, c.layout, inputs_.phi_k)),
        phi_v_(host_parameters(c.dtype, c.layout, inputs_.phi_v)),
        k_compressed_(c.dtype, c.layout, compressed_rows_, c.kv_heads, c.dk),
        v_compressed_(c.dtype, c.layout, compressed_rows_, c.kv_heads, c.dv),
        o_(output(inputs_.q.tokens, c.heads, c.dv)),
        branches_{branch(k_, v_), branch(c.shared_kv ? k_ : k_selected_, c.shared_kv ? v_ : v_selected_),
                  branch(c.shared_kv ? k_ : k_window_, c.shared_kv ? v_ : v_window_)},
        dq_(output(inputs_.q.tokens, c.heads, c.dk)),
        d_gates_(output(inputs_.q.tokens, c.heads, 3)),
        dk_compressed_(output(compressed_rows_, c.kv_heads, c.dk)),
        dv_compressed_(output(compressed_rows_, c.kv_heads, c.dv)),
        d_phi_k_(host_parameters(profile_.output, c.layout, inputs_.phi_k)),
        d_phi_v_(host_parameters(profile_.output, c.layout, inputs_.phi_v)) {}

  void run() {
    run_forward();
    const Tensor k_rows = load(k_compressed_.view()), v_rows = load(v_compressed_.view());
    const CompressionStage phi_k{"phi_k", problem_, inputs_.k, phi_heads(inputs_.phi_k)},
        phi_v{"phi_v", problem_, inputs_.v, phi_heads(inputs_.phi_v)};
    judge_compressed_rows(profile_, phi_k, k_compressed_.view(), observe_, result_);
    judge_compressed_rows(profile_, phi_v, v_compressed_.view(), observe_, result_);
    Selection selection = runner_.exported();
    const auto malformed =
        judge_selection(problem_.attention, problem_.block, nsa_rule(profile_, problem_, inputs_.q, k_rows), selection,
                        observe_, result_);
    std::array<AttentionJudge, 3> judges{AttentionJudge(profile_, compressed_stage(k_rows, v_rows)),
                                         AttentionJudge(profile_, selected_stage(selection)),
                                         AttentionJudge(profile_, window_stage())};
    const std::int64_t group = case_.heads / case_.kv_heads;
    for (const auto& [token, g] : malformed)
      for (std::int64_t h = g * group; h < (g + 1) * group; ++h) judges[1].exclude(token, h);
    for (const Branch branch : kBranches) {
      // Position encodings and biases give the compressed values a mean.
      const bool zero_mean =
          regime_of(case_).zero_mean_values && (branch != Branch::compressed || problem_.phi == Phi::mean);
      of(judges, branch).judge_outputs({}, zero_mean, observe_, result_);
    }
    judge_from_outputs("o", o_.view(), [&](const BranchRows& o, std::int64_t token, std::int64_t head) {
      return gated_noise(profile_, inputs_.gates.row(token, head), o);
    });
    if (!kernel_.nsa_backward) return;
    for (const AttentionJudge& judge : judges)
      if (result_.reason.empty()) result_.reason = judge.why_no_backward();
    if (!result_.reason.empty()) {
      result_.verdict = std::max(result_.verdict, Verdict::undecided);
      return;
    }
    run_backward(selection);
    judge_backward(judges, phi_k, phi_v);
  }

 private:
  void judge_backward(const std::array<AttentionJudge, 3>& judges, const CompressionStage& phi_k,
                      const CompressionStage& phi_v) {
    std::array<Tensor, 3> d_o;
    for (const Branch branch : kBranches) of(d_o, branch) = branch_d_o(branch);
    judge_query_gradients(judges, d_o);
    judges[0].judge_key_gradients(d_o[0], dk_compressed_.view(), dv_compressed_.view(), observe_, result_);
    for (const Branch branch : {Branch::selected, Branch::window}) {
      BranchTensors& tensors = of(branches_, branch);
      of(judges, branch).judge_key_gradients(of(d_o, branch), tensors.dk.view(), tensors.dv.view(), observe_, result_);
    }
    judge_from_outputs("dgates", d_gates_.view(), [&](const BranchRows& o, std::int64_t token, std::int64_t head) {
      return gate_gradient_noise(profile_, inputs_.d_o.row(token, head), o);
    });
    BranchTensors& compressed = branches_[0];
    judge_compression_gradients(profile_, phi_k, load(dk_compressed_.view()), compressed.dk.view(), views(d_phi_k_),
                                observe_, result_);
    judge_compression_gradients(profile_, phi_v, load(dv_compressed_.view()), compressed.dv.view(), views(d_phi_v_),
                                observe_, result_);
  }

  HostTensor output(std::int64_t tokens, std::int64_t heads, std::int64_t dim) const {
    return {profile_.output, case_.layout, tokens, heads, dim};
  }
  BranchTensors branch(HostTensor& k, HostTensor& v) const {
    return {k,
            v,
            output(inputs_.q.tokens, case_.heads, case_.dv),
            HostTensor(Format::fp32, case_.layout, inputs_.q.tokens, case_.heads, 1),
            output(inputs_.k.tokens, case_.kv_heads, case_.dk),
            output(inputs_.k.tokens, case_.kv_heads, case_.dv)};
  }

  std::vector<NamedTensor> inputs() {
    std::vector<NamedTensor> list{{"q", q_}, {"gates", gates_}, {"k", k_}, {"v", v_}};
    if (!case_.shared_kv) {
      list.insert(
          list.end(),
          {{"selected.k", k_selected_}, {"selected.v", v_selected_}, {"window.k", k_window_}, {"window.v", v_window_}});
    }
    append_parts(list, "phi_k.", phi_k_);
    append_parts(list, "phi_v.", phi_v_);
    return list;
  }
  /// What the forward leaves for the backward.
  std::vector<NamedTensor> kept() {
    std::vector<NamedTensor> list{{"phi_k.rows", k_compressed_}, {"phi_v.rows", v_compressed_}};
    for (const Branch branch : kBranches) {
      const std::string prefix = std::string(of(kBranchNames, branch)) + ".";
      list.push_back({prefix + "o", of(branches_, branch).o});
      list.push_back({prefix + "lse", of(branches_, branch).lse});
    }
    return list;
  }

  NsaCall call() {
    return {problem_,
            q_.view(),
            branches_[0].call(),
            branches_[1].call(),
            branches_[2].call(),
            gates_.view(),
            views(phi_k_),
            views(phi_v_),
            k_compressed_.view(),
            v_compressed_.view(),
            runner_.selection(),
            o_.view(),
            runner_.workspace()};
  }

  void run_forward() {
    std::vector<NamedTensor> outputs = kept();
    outputs.push_back({"o", o_});
    const Selection blank(inputs_.q.tokens, case_.kv_heads, selection_slots(problem_));
    runner_.run(
        inputs(), outputs, blank, SelectionUse::written, [&] { kernel_.nsa(call()); }, result_);
  }

  void run_backward(const Selection& selection) {
    std::vector<NamedTensor> read = inputs(), written{{"dq", dq_},
                                                      {"dgates", d_gates_},
                                                      {"compressed.dk", dk_compressed_},
                                                      {"compressed.dv", dv_compressed_},
                                                      {"phi_k.dtokens", branches_[0].dk},
                                                      {"phi_v.dtokens", branches_[0].dv},
                                                      {"selected.dk", branches_[1].dk},
                                                      {"selected.dv", branches_[1].dv},
                                                      {"window.dk", branches_[2].dk},
                                                      {"window.dv", branches_[2].dv}};
    read.push_back({"do", d_o_});
    for (const NamedTensor& tensor : kept()) read.push_back(tensor);
    append_parts(written, "phi_k.d", d_phi_k_);
    append_parts(written, "phi_v.d", d_phi_v_);
    runner_.run(
        read, written, selection, SelectionUse::read,
        [&] {
          NsaCall forward = call();
          forward.o = {};
          kernel_.nsa_backward({forward, d_o_.view(), dq_.view(), branches_[0].gradients(), branches_[1].gradients(),
                                branches_[2].gradients(), d_gates_.view(), dk_compressed_.view(), dv_compressed_.view(),
                                views(d_phi_k_), views(d_phi_v_)});
        },
        result_);
  }

  AttentionStage compressed_stage(const Tensor& k, const Tensor& v) {
    AttentionProblem rows = compressed_problem(problem_);
    auto [block, selection] = whole_sequence(rows);
    return {kBranchNames[0],
            rows,
            block,
            compressed_reach(problem_),
            inputs_.q,
            k,
            v,
            std::move(selection),
            branches_[0].o.view(),
            branches_[0].lse.view()};
  }
  AttentionStage selected_stage(const Selection& selection) {
    return {kBranchNames[1],
            problem_.attention,
            problem_.block,
            causal_reach(problem_.attention),
            inputs_.q,
            inputs_.k_selected,
            inputs_.v_selected,
            selection,
            branches_[1].o.view(),
            branches_[1].lse.view()};
  }
  AttentionStage window_stage() {
    auto [block, selection] = whole_sequence(problem_.attention);
    return {kBranchNames[2],
            problem_.attention,
            block,
            window_reach(problem_),
            inputs_.q,
            inputs_.k_window,
            inputs_.v_window,
            std::move(selection),
            branches_[2].o.view(),
            branches_[2].lse.view()};
  }

  /// Compares every row of an output that follows from the branch outputs which the kernel stored. predict(rows, token,
  /// head): the row it should be.
  template <class Predict>
  void judge_from_outputs(const char* output, TensorView view, const Predict& predict) {
    Tally tally(observe_, "", output);
    for_each_query(problem_.attention, [&](const Sequence& sequence, std::int64_t token, std::int64_t head) {
      std::array<Vector, 3> o;
      for (std::size_t b = 0; b < 3; ++b) o[b] = branches_[b].o.view().row(token, head);
      tally.add({sequence.index, token - sequence.q_begin, head}, predict(BranchRows{o[0], o[1], o[2]}, token, head),
                view.row(token, head), profile_.output);
    });
    tally.finish(result_);
  }

  /// g do as the backward of the branch has it: unless branches are fused, in the format of the inputs.
  Tensor branch_d_o(Branch branch) const {
    Tensor d_o = branch_gradient(inputs_.gates, inputs_.d_o, branch);
    if (!profile_.fused_branches)
      for (double& x : d_o.values) x = round_to(x, profile_.input);
    return d_o;
  }

  /// dq, the sum over the branches.
  void judge_query_gradients(const std::array<AttentionJudge, 3>& judges, const std::array<Tensor, 3>& d_o) {
    Tally tally(observe_, "", "dq");
    Profile of_branch = profile_;
    if (profile_.fused_branches) of_branch.output = Format::fp32;
    for_each_query(problem_.attention, [&](const Sequence& sequence, std::int64_t token, std::int64_t head) {
      std::vector<QueryGradient> parts;
      Matrix terms(3, case_.dk);
      RowNoise noise(case_.dk);
      for (std::size_t b = 0; b < 3; ++b) {
        parts.push_back(judges[b].query_gradient(of_branch, sequence.index, token, head, d_o[b]));
        const RowNoise& part = parts.back().noise.noise;
        terms.row(static_cast<Eigen::Index>(b)) = parts.back().expected.transpose();
        noise.variance += part.variance;
        noise.worst += part.worst;
        noise.floor += part.floor;
      }
      const Vector expected = terms.colwise().sum().transpose(), observed = dq_.view().row(token, head);
      const FeatureSum sum = feature_sum(unit_roundoff(Format::fp32), terms, {}, expected);
      noise.variance += sum.variance;
      noise.worst += sum.worst;
      add_output_rounding(expected, profile_.output, noise);
      RowErrors errors(case_.dk);
      errors.separate = sum.variance;
      Covariance compressed = parts[0].covariance(), selected = parts[1].covariance(), window = parts[2].covariance();
      compressed.and_of = &selected;
      selected.and_of = &window;
      const Covariance covariance{errors, {nullptr, 0, case_.dk}, {}, expected, noise.rounding, &compressed};
      tally.add({sequence.index, token - sequence.q_begin, head},
                compare_row(expected, observed, noise, profile_.output, covariance), expected, observed, &covariance);
    });
    tally.finish(result_);
  }

  const Kernel& kernel_;
  const Case& case_;
  const RowObserver& observe_;
  CaseResult& result_;
  NsaProblem problem_;
  Profile profile_;
  Inputs inputs_;
  std::int64_t compressed_rows_;
  Runner runner_;
  HostTensor q_, gates_, d_o_, k_, v_, k_selected_, v_selected_, k_window_, v_window_;
  PhiTensors<HostTensor> phi_k_, phi_v_;
  HostTensor k_compressed_, v_compressed_, o_;
  std::array<BranchTensors, 3> branches_;
  HostTensor dq_, d_gates_, dk_compressed_, dv_compressed_;
  PhiTensors<HostTensor> d_phi_k_, d_phi_v_;
};

}  // namespace

void judge_nsa(const Kernel& kernel, const Case& c, const RowObserver& observe, CaseResult& result) {
  NsaCase(kernel, c, observe, result).run();
}

}  // namespace attnspec::verify
