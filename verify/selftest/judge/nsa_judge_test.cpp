// The judge accepts the model kernel of NSA, whole and in parts, and finds what is wrong in any of its outputs.

#include <gtest/gtest.h>

#include <algorithm>
#include <map>
#include <set>
#include <string>

#include "verify/judge/judge.hpp"
#include "verify/kernels.hpp"
#include "verify/selftest/judge/altered_kernel.hpp"

namespace attnspec::verify {
namespace {

const Kernel& model_kernel() {
  static const Kernel kernel = find_kernel("model:nsa");
  return kernel;
}

Verdict verdict(const Kernel& kernel, const std::string& text) { return judge(kernel, parse_case(text)).verdict; }

/// Rows judged of every output.
std::map<std::string, std::int64_t> rows_of(const CaseResult& result) {
  std::map<std::string, std::int64_t> rows;
  for (const OutputSummary& output : result.outputs) rows[output.output] += output.rows;
  return rows;
}

constexpr const char* kCase =
    "nsa(lens=70+3,heads=4,kv_heads=2,dk=24,dv=16,block=16,compress_block=8,compress_stride=4,top_n=4,window=20,"
    "phi=mlp,hidden=12)";

TEST(NsaJudge, JudgesEveryRowOfEveryOutput) {
  const CaseResult result = judge(model_kernel(), parse_case(kCase));
  EXPECT_EQ(result.verdict, Verdict::pass);
  std::map<std::string, std::int64_t> expected{
      {"selection", 73 * 2}, {"o", 73 * 4}, {"dq", 73 * 4}, {"d_gates", 73 * 4}};
  for (const char* branch : {"compressed", "selected", "window"}) {
    for (const char* output : {"o", "lse"}) expected[std::string(branch) + "." + output] = 73 * 4;
    for (const char* output : {"dk", "dv"}) expected[std::string("d_") + branch + "." + output] = 73 * 2;
  }
  for (const char* output : {"k_compressed", "v_compressed", "dk_compressed", "dv_compressed"})
    expected[output] = 16 * 2;  // the short sequence has no compressed row
  for (const auto& [phi, features] : {std::pair("d_phi_k.", 24), std::pair("d_phi_v.", 16)}) {
    const std::string prefix = phi;
    expected[prefix + "position"] = 8 * 2;
    expected[prefix + "w1"] = 8 * features * 2;
    expected[prefix + "w2"] = 12 * 2;
    expected[prefix + "b1"] = expected[prefix + "b2"] = 2;
  }
  EXPECT_EQ(rows_of(result), expected);
}

/// Outputs of which rows were compared.
std::set<std::string> compared(const std::string& text) {
  std::set<std::string> names;
  for (const auto& [name, rows] : rows_of(judge(model_kernel(), parse_case(text))))
    if (rows > 0) names.insert(name);
  return names;
}

TEST(NsaJudge, NamesOutputsAsLawsDo) {
  for (const std::string op : {"dense", "moba", "nsa_compress", "nsa_compressed", "window", "nsa"})
    for (const char* phi : {"", ",phi=linear", ",phi=mlp"}) {
      if (phi[0] != '\0' && !op.ends_with("compress") && op != "nsa") continue;
      const std::string text = op + "(lens=70,dk=16" + phi;
      EXPECT_EQ(compared(text + ",law=repeat)"), compared(text + ")")) << text;
    }
}

TEST(NsaJudge, AcceptsEveryPhiAndCorner) {
  for (const char* phi : {"phi=mean", "phi=linear", "phi=linear,shared_phi=1", "phi=mlp,hidden=5,activation=relu",
                          "phi=mlp,hidden=5,activation=gelu,shared_phi=1"}) {
    const std::string nsa =
        std::string("nsa(heads=2,kv_heads=1,dk=16,block=16,compress_block=8,compress_stride=4,") + phi;
    for (const char* rest : {",lens=40+0+5+17)", ",lens=60,q_lens=3,dtype=fp16)", ",lens=30+0,q_lens=33+2,dtype=fp32)",
                             ",lens=50,shared_kv=1,layout=contiguous)"})
      EXPECT_EQ(verdict(model_kernel(), nsa + rest), Verdict::pass) << nsa << rest;
    const std::string compress = std::string("nsa_compress(kv_heads=3,dk=10,compress_block=6,compress_stride=3,") + phi;
    for (const char* rest : {",lens=40+0+5+17)", ",lens=30,dtype=fp32)", ",lens=5,dtype=fp16)"})
      EXPECT_EQ(verdict(model_kernel(), compress + rest), Verdict::pass) << compress << rest;
  }
}

/// One element far off, in the middle of a tensor.
void spoil(const TensorView& view) {
  const std::int64_t token = view.tokens / 2, d = view.dim / 2;
  const double x = view.load(token, 0, d);
  view.store(token, 0, d, x + 1 + std::abs(x));
}

TEST(NsaJudge, FindsAnElementThatIsOffInAnyOutputOfTheForward) {
  for (const std::string name : {"o", "k_compressed", "v_compressed", "compressed.o", "compressed.lse", "selected.o",
                                 "selected.lse", "window.o", "window.lse"}) {
    const Kernel kernel = with_altered_outputs(model_kernel(), [name](const AnyCall& call) { spoil(call[name]); });
    const CaseResult result = judge(kernel, parse_case(kCase));
    EXPECT_EQ(result.verdict, Verdict::value_out_of_bound) << name;
    ASSERT_FALSE(result.findings.empty());
    if (name.find('.') != std::string::npos) {
      EXPECT_EQ(result.findings.at(0).output, name);
    }
    EXPECT_TRUE(std::any_of(result.findings.begin(), result.findings.end(), [&](const Finding& f) {
      return f.output == name;
    })) << name;
  }
}

TEST(NsaJudge, FindsAnElementThatIsOffInAnyGradient) {
  for (const std::string name : {"dq", "d_gates", "dk_compressed", "dv_compressed", "d_selected.dk", "d_selected.dv",
                                 "d_window.dk", "d_window.dv", "d_compressed.dk", "d_compressed.dv", "d_phi_k.position",
                                 "d_phi_k.w1", "d_phi_k.b1", "d_phi_v.w2", "d_phi_v.b2"}) {
    const Kernel kernel = with_altered_outputs(model_kernel(), {}, [name](const AnyCall& call) { spoil(call[name]); });
    const CaseResult result = judge(kernel, parse_case(kCase));
    EXPECT_EQ(result.verdict, Verdict::value_out_of_bound) << name;
    ASSERT_FALSE(result.findings.empty()) << name;
    EXPECT_EQ(result.findings.at(0).output, name);
  }
}

TEST(NsaJudge, FindsACompressedRowThatIsOff) {
  Kernel kernel = model_kernel();
  replace_forward(kernel, [](const AnyCall& call, const DoCall& do_call) {
    do_call(call);
    spoil(call["rows"]);
  });
  const CaseResult result = judge(kernel, parse_case("nsa_compress(lens=70,dk=16,compress_block=8,compress_stride=4)"));
  EXPECT_EQ(result.verdict, Verdict::value_out_of_bound);
  ASSERT_EQ(result.findings.size(), 1u);
  EXPECT_EQ(result.findings.at(0).output, "rows");
  EXPECT_EQ(result.findings.at(0).token, 8);
}

TEST(NsaJudge, JudgesEveryBranchOnTheCompressedRowsTheKernelStored) {
  Kernel kernel = model_kernel();
  replace_forward(kernel,
                  [](const AnyCall& call,
                     const DoCall& do_call) {  // compresses other tokens: wrong rows, and the rest right for these rows
                    reference::Tensor other = load(call["window.k"]);
                    HostTensor tokens(call["q"].format, Layout::contiguous, other);
                    AnyCall with_other = call;
                    with_other["compressed.k"] = tokens.view();
                    do_call(with_other);
                  });
  const CaseResult result = judge(kernel, parse_case(kCase));
  EXPECT_EQ(result.verdict, Verdict::value_out_of_bound);
  for (const OutputSummary& output : result.outputs)
    EXPECT_EQ(output.findings > 0, output.output == "k_compressed") << output.output;
}

TEST(NsaJudge, ExcludesRowsOfAGroupWhoseSelectionIsMalformed) {
  Kernel kernel = model_kernel();
  replace_forward(kernel, [](const AnyCall& call, const DoCall& do_call) {
    do_call(call);
    std::int32_t* row = call.selection.row(50, 1);
    row[1] = row[0];
  });
  const CaseResult result = judge(kernel, parse_case(kCase));
  EXPECT_EQ(result.verdict, Verdict::selection_mismatch);
  ASSERT_EQ(result.findings.size(), 1u);
  EXPECT_NE(result.reason, "");
  auto rows = rows_of(result);
  EXPECT_EQ(rows["selected.o"], 73 * 4 - 2);
  EXPECT_EQ(rows["window.o"], 73 * 4);
}

TEST(NsaJudge, AcceptsFusedBranchesWhereDeclared) {
  const std::string text = "nsa(lens=200,heads=2,kv_heads=1,dk=64,block=16,compress_block=8,compress_stride=4,top_n=5)";
  Kernel kernel = find_kernel("model:nsa+fused_branches+fp32_weights+fp32_out");
  EXPECT_EQ(verdict(kernel, text), Verdict::pass);
  kernel.arithmetic = {"fp32_weights", "fp32_out"};
  EXPECT_EQ(verdict(kernel, text), Verdict::value_out_of_bound);  // g do was not rounded
  kernel = find_kernel("model:nsa+fp32_weights+fp32_out");
  EXPECT_EQ(verdict(kernel, text), Verdict::pass);
  kernel.arithmetic = {"fused_branches", "fp32_weights", "fp32_out"};
  EXPECT_EQ(verdict(kernel, text), Verdict::value_out_of_bound);
}

/// All scores are equal, so that dq is 0 but for rounding; times this scale, that may be more than fp16 holds.
TEST(NsaJudge, LeavesADqUndecidedThatABranchMayOverflow) {
  const CaseResult result =
      judge(model_kernel(), parse_case("nsa(lens=70,heads=2,dk=16,block=16,compress_block=8,"
                                       "compress_stride=4,window=20,scale=1e6,dtype=fp16,regime=tie)"));
  EXPECT_EQ(result.verdict, Verdict::undecided);
  for (const OutputSummary& output : result.outputs) {
    EXPECT_EQ(output.findings, 0) << output.output;
    EXPECT_EQ(output.undecided > 0, output.output == "dq") << output.output;
  }
}

TEST(NsaJudge, EndsWhereCompressedRowsAreNotWritten) {
  Kernel kernel = model_kernel();
  replace_forward(kernel, [](const AnyCall&, const DoCall&) {});
  for (const char* text : {"nsa(lens=40,dk=16,compress_block=8,compress_stride=4)",
                           "nsa(lens=40,dk=16,compress_block=8,compress_stride=4,phi=mlp,hidden=5,dtype=fp32)"})
    EXPECT_TRUE(is_finding(verdict(kernel, text)));
}

TEST(NsaJudge, FindsWritesOutsideTheParametersGradients) {
  Kernel kernel = model_kernel();
  replace_backward(kernel, [](const AnyCall& call, const DoCall& do_call) {
    do_call(call);
    static_cast<std::uint16_t*>(call["d_phi.w"].data)[-1] = 0;
  });
  const CaseResult result =
      judge(kernel, parse_case("nsa_compress(lens=70,dk=16,compress_block=8,compress_stride=4,phi=linear)"));
  EXPECT_EQ(result.verdict, Verdict::stray_write);
  EXPECT_EQ(result.findings.at(0).output, "d_phi.w");
}

TEST(NsaJudge, RunsAKernelWithoutABackward) {
  Kernel kernel = model_kernel();
  kernel.forward_only = kernel.operators;
  const CaseResult result = judge(kernel, parse_case(kCase));
  EXPECT_EQ(result.verdict, Verdict::pass);
  EXPECT_EQ(rows_of(result).count("dq"), 0u);
  EXPECT_EQ(verdict(kernel, "nsa_compress()"), Verdict::pass);
}

}  // namespace
}  // namespace attnspec::verify
