#include "verify/model/nsa.hpp"

#include "verify/model/attention.hpp"
#include "verify/model/compression.hpp"

namespace attnspec::verify::model {

namespace {

constexpr PerBranch<Branch> kBranches{Branch::compressed, Branch::selected, Branch::window};
constexpr PerBranch<Operator> kBranchOperators{Operator::nsa_compressed, Operator::selected, Operator::window};

std::size_t index(Branch branch) { return static_cast<std::size_t>(branch); }

/// One call with what its parts share.
struct Nsa {
  const Stages& stages;
  const Arithmetic& arithmetic;
  const NsaCall& call;
  MobaProblem problem;  // of the branches

  Nsa(const Stages& s, const Arithmetic& p, const NsaCall& c) : stages(s), arithmetic(p), call(c) {
    problem.attention = call.nsa.attention;
    problem.block = call.nsa.block;
  }

  std::int64_t heads() const { return problem.attention.heads; }

  /// What a branch passes on: in fp32 where branches are fused, else as it is stored.
  Format passed_on(Format stored) const { return arithmetic.fused_branches ? Format::fp32 : stored; }

  /// For each branch a tensor of all query rows.
  PerBranch<HostTensor> scratch(Format format, std::int64_t dim) const {
    const HostTensor tensor(format, Layout::contiguous, call.q.tokens, heads(), dim);
    return {tensor, tensor, tensor};
  }

  /// All rows of a query head.
  Rows rows(const TensorView& from, std::int64_t h) const { return stages.load(from, 0, from.tokens, h); }
  PerBranch<Rows> rows(const PerBranch<TensorView>& from, std::int64_t h) const {
    return {rows(from[0], h), rows(from[1], h), rows(from[2], h)};
  }

  ForwardCall attention(Branch b, const BranchCall& branch) const {
    const Operator op = kBranchOperators[index(b)];
    return {op, problem, call.nsa, call.q, branch.k, branch.v, call.selection, branch.o, branch.lse};
  }
};

}  // namespace

void run(const Stages& stages, const Arithmetic& arithmetic, const NsaCall& call) {
  const Nsa nsa(stages, arithmetic, call);
  run(stages, arithmetic, CompressCall{call.nsa, call.compressed.k, call.phi_k, call.k_compressed});
  run(stages, arithmetic, CompressCall{call.nsa, call.compressed.v, call.phi_v, call.v_compressed});
  PerBranch<HostTensor> unrounded = nsa.scratch(Format::fp32, nsa.problem.attention.dv);  // of fused branches
  PerBranch<TensorView> passed_on, handed_over;
  for (const Branch b : kBranches) {
    BranchCall branch = stages.branch(call, b);
    handed_over[index(b)] = branch.o;
    if (arithmetic.fused_branches) branch.o = unrounded[index(b)].view();
    passed_on[index(b)] = branch.o;
    run(stages, arithmetic, nsa.attention(b, branch));
  }
#pragma omp parallel for schedule(dynamic)
  for (std::int64_t h = 0; h < nsa.heads(); ++h) {
    const PerBranch<Rows> o = nsa.rows(passed_on, h);
    stages.store(stages.combine(nsa.rows(call.gates, h), o), call.o, 0, h, 1);
    for (std::size_t b = 0; arithmetic.fused_branches && b < o.size(); ++b) stages.store(o[b], handed_over[b], 0, h, 1);
  }
}

void run(const Stages& stages, const Arithmetic& arithmetic, const NsaBackwardCall& backward) {
  const NsaCall& call = backward.forward;
  const Nsa nsa(stages, arithmetic, call);
  PerBranch<HostTensor> d_o_memory = nsa.scratch(nsa.passed_on(arithmetic.input), nsa.problem.attention.dv),
                        dq_memory = nsa.scratch(nsa.passed_on(backward.dq.format), nsa.problem.attention.dk);
  PerBranch<BranchCall> branches;
  PerBranch<TensorView> o, d_o, dq;
  for (const Branch b : kBranches) {
    branches[index(b)] = stages.branch_backward(call, b);
    o[index(b)] = branches[index(b)].o;
    d_o[index(b)] = d_o_memory[index(b)].view();
    dq[index(b)] = dq_memory[index(b)].view();
  }
#pragma omp parallel for schedule(dynamic)
  for (std::int64_t h = 0; h < nsa.heads(); ++h) {
    const Rows gates = nsa.rows(call.gates, h), d_sum = nsa.rows(backward.d_o, h);
    for (const Branch b : kBranches) stages.store(stages.branch_gradient(gates, d_sum, b), d_o[index(b)], 0, h, 1);
    stages.store(stages.gate_gradients(gates, d_sum, nsa.rows(o, h)), backward.d_gates, 0, h, 1);
  }
  const PerBranch<BranchGradientViews> gradients{BranchGradientViews{backward.dk_compressed, backward.dv_compressed},
                                                 backward.selected, backward.window};
  for (const Branch b : kBranches) {
    const auto& [dk, dv] = gradients[index(b)];
    run(stages, arithmetic, BackwardCall{nsa.attention(b, branches[index(b)]), d_o[index(b)], dq[index(b)], dk, dv});
  }
#pragma omp parallel for schedule(dynamic)
  for (std::int64_t h = 0; h < nsa.heads(); ++h)
    stages.store(stages.add_queries(arithmetic, nsa.rows(dq, h)), backward.dq, 0, h, 1);
  run(stages, arithmetic,
      CompressBackwardCall{{call.nsa, call.compressed.k, call.phi_k, call.k_compressed},
                           backward.dk_compressed,
                           backward.compressed.dk,
                           backward.d_phi_k});
  run(stages, arithmetic,
      CompressBackwardCall{{call.nsa, call.compressed.v, call.phi_v, call.v_compressed},
                           backward.dv_compressed,
                           backward.compressed.dv,
                           backward.d_phi_v});
}

}  // namespace attnspec::verify::model
