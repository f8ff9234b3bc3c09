// The judge accepts the model kernel and every equivalent variant of it, and rejects kernels that misbehave.

#include "verify/judge/judge.hpp"

#include <gtest/gtest.h>

#include <algorithm>
#include <cmath>
#include <limits>
#include <map>
#include <memory>
#include <string>
#include <tuple>
#include <vector>

#include "verify/judge/report.hpp"
#include "verify/kernels.hpp"
#include "verify/model/model.hpp"
#include "verify/operators/operator.hpp"
#include "verify/selftest/judge/altered_kernel.hpp"

namespace attnspec::verify {
namespace {

Verdict verdict(const Kernel& kernel, const char* text) { return judge(kernel, parse_case(text)).verdict; }

constexpr const char* kCase = "moba(lens=100,heads=2,kv_heads=1,block=16,top_k=3)";

TEST(Judge, JudgesEveryRowOfEveryOutput) {
  const CaseResult result = judge(model_kernel(), parse_case(kCase));
  EXPECT_EQ(result.verdict, Verdict::pass);
  ASSERT_EQ(result.outputs.size(), 6u);
  for (const OutputSummary& output : result.outputs)
    EXPECT_EQ(output.rows, output.output == "dk" || output.output == "dv" ? 100 : 200) << output.output;
  EXPECT_EQ(result.rows(), 1000);
  EXPECT_EQ(judge(model_kernel(), parse_case("dense(lens=30)")).rows(), 5 * 30);
  EXPECT_EQ(judge(model_kernel(), parse_case("moba_select(lens=30)")).rows(), 30);
}

TEST(Judge, JudgesThePartsOfNsa) {
  const Kernel kernel = find_kernel("model:nsa");
  const CaseResult result = judge(
      kernel, parse_case("nsa_compressed(lens=100+3,heads=4,kv_heads=2,compress_block=8,compress_stride=4,block=16)"));
  EXPECT_EQ(result.verdict, Verdict::pass);
  ASSERT_EQ(result.outputs.size(), 6u);
  EXPECT_EQ(result.outputs[0].rows, 103 * 2);  // a selection per kv head
  EXPECT_EQ(result.outputs[1].rows, 103 * 4);
  EXPECT_EQ(result.outputs[4].rows, 24 * 2);  // gradients of compressed rows; the short sequence has none
  EXPECT_EQ(judge(kernel, parse_case("window(lens=50,window=7)")).outputs.size(), 5u);
  EXPECT_EQ(verdict(kernel, "window(lens=9,q_lens=20,window=1)"), Verdict::pass);
  EXPECT_EQ(verdict(kernel, "nsa_compressed(lens=0+5,q_lens=2+0)"), Verdict::pass);
}

TEST(Judge, AcceptsCornersWithoutRows) {
  EXPECT_EQ(verdict(model_kernel(), "moba(lens=0)"), Verdict::pass);
  EXPECT_EQ(verdict(model_kernel(), "moba(lens=0,q_lens=3)"), Verdict::pass);
  EXPECT_EQ(verdict(model_kernel(), "dense(lens=0+5,q_lens=2+0)"), Verdict::pass);
  EXPECT_EQ(verdict(model_kernel(), "selected(lens=3,q_lens=9,block=1,top_k=50,causal=0)"), Verdict::pass);
}

TEST(Judge, FindsASingleElementThatIsOff) {
  for (const char* output : {"o", "dq", "dk", "dv"}) {
    const auto spoil = [](const TensorView& view) {
      const double x = view.load(70, 0, 5);
      view.store(70, 0, 5, x + 64 * reference::spacing(x, view.format));
    };
    const Kernel kernel = altered(
        [&](const AnyCall& call) {
          if (output[0] == 'o') spoil(call["o"]);
        },
        [&](const AnyCall& call) {
          if (output[1] == 'q') spoil(call["dq"]);
          if (output[1] == 'k') spoil(call["dk"]);
          if (output[1] == 'v') spoil(call["dv"]);
        });
    const CaseResult result = judge(kernel, parse_case("moba(lens=100,block=16,top_k=3,regime=diffuse)"));
    EXPECT_EQ(result.verdict, Verdict::value_out_of_bound) << output;
    ASSERT_FALSE(result.findings.empty());
    EXPECT_EQ(result.findings.at(0).output, output);
    EXPECT_EQ(result.findings.at(0).token, 70);
    EXPECT_EQ(result.findings.at(0).d, 5);
  }
}

TEST(Judge, TellsFindingsByTheirPlaceAndTheWorstR) {
  const Kernel kernel = altered([](const AnyCall& call) {
    for (const std::int64_t token : {70, 3, 40}) call["o"].store(token, 0, 0, 10 + static_cast<double>(token));
  });
  const CaseResult result = judge(kernel, parse_case("dense(lens=100)"));
  std::vector<std::int64_t> tokens;
  double worst = 0;
  for (const Finding& finding : result.findings) {
    tokens.push_back(finding.token);
    worst = std::max(worst, finding.r);
  }
  EXPECT_EQ(tokens, (std::vector<std::int64_t>{3, 40, 70}));
  EXPECT_EQ(result.outputs.front().worst_r, worst);
}

TEST(Judge, FindsAnLseInBaseTwo) {
  const Kernel kernel = altered([](const AnyCall& call) {
    for (std::int64_t token = 0; token < call["lse"].tokens; ++token)
      call["lse"].store(token, 0, 0, call["lse"].load(token, 0, 0) / std::log(2.0));
  });
  EXPECT_EQ(verdict(kernel, "moba(lens=40,block=16)"), Verdict::value_out_of_bound);
}

TEST(Judge, FindsNanAndDoesNotRunTheBackwardOnIt) {
  bool backward_ran = false;
  const Kernel kernel = altered([](const AnyCall& call) { call["o"].store(3, 1, 2, std::nan("")); },
                                [&](const AnyCall&) { backward_ran = true; });
  const CaseResult result = judge(kernel, parse_case(kCase));
  EXPECT_EQ(result.verdict, Verdict::non_finite);
  EXPECT_NE(result.reason, "");
  EXPECT_FALSE(backward_ran);
}

TEST(Judge, FindsOutputsThatWereNeverWritten) {  // they keep what lay there before, which changes from run to run
  Kernel kernel = model_kernel();
  replace_forward(kernel, [](const AnyCall&, const DoCall&) {});
  const auto first = [&](const char* text) {
    const CaseResult result = judge(kernel, parse_case(text));
    const Finding& finding = result.findings.at(0);
    return std::string(name(result.verdict)) + " " + finding.output + ": " + finding.detail;
  };
  for (const EqualBits promise : {EqualBits::any_batch, EqualBits::none}) {
    kernel.equal_bits = kernel.equal_bits_backward = promise;
    EXPECT_EQ(first("dense(lens=9,dk=4)"),
              "non-finite o: 36 of 36 elements were never written; the first is [token=0,head=0,d=0]");
    EXPECT_EQ(first("moba_select(lens=9)"),
              "selection-mismatch selection: 9 of 9 elements were never written; the first is "
              "[token=0,head=0,slot=0]");
  }
  kernel = model_kernel();
  replace_backward(kernel, [](const AnyCall&, const DoCall&) {});
  EXPECT_EQ(first("dense(lens=9,dk=4)"),
            "non-finite dq: 36 of 36 elements were never written; the first is [token=0,head=0,d=0]");
}

TEST(Judge, FindsADuplicateBlockAndDoesNotJudgeItsValues) {
  const Kernel kernel = altered([](const AnyCall& call) {
    if (call.op == Operator::moba) call.selection.row(50, 1)[1] = call.selection.row(50, 1)[0];
  });
  const CaseResult result = judge(kernel, parse_case(kCase));
  EXPECT_EQ(result.verdict, Verdict::selection_mismatch);
  ASSERT_EQ(result.findings.size(), 1u);
  EXPECT_NE(result.findings.at(0).detail.find("twice"), std::string::npos);
  EXPECT_EQ(result.outputs[1].rows, 199);  // o of the other rows
}

TEST(Judge, JudgesValuesOnTheKernelsOwnSelection) {
  const char* tie = "moba(lens=200,heads=2,block=16,top_k=3,regime=tie)";
  EXPECT_EQ(verdict(model_kernel(), tie),
            Verdict::pass);  // takes the most recent of tied blocks, the reference the first
  const Kernel liar = altered([](const AnyCall& call) {  // exports another tied block than it attended to
    for (std::int64_t row = 0; row < call.selection.tokens * call.selection.heads; ++row) {
      std::int32_t* blocks = call.selection.row(row / call.selection.heads, row % call.selection.heads);
      std::sort(blocks, blocks + 3);
      if (blocks[2] >= 6) blocks[0] = blocks[0] >= 3 ? blocks[0] - 3 : blocks[0];
    }
  });
  EXPECT_NE(verdict(liar, tie), Verdict::pass);
}

/// The forward of the model kernel, which keeps its selection to itself.
Kernel hiding_kernel() {
  Kernel kernel = model_kernel();
  kernel.exports_selection = false;
  kernel.forward_only = kernel.operators;
  return kernel;
}

TEST(Judge, IsUndecidedWhereOneRowIs) {
  const CaseResult result = judge(hiding_kernel(), parse_case("moba(lens=400,q_lens=1,block=8,top_k=6,regime=tie)"));
  EXPECT_EQ(result.outputs.front().undecided, 1);
  EXPECT_EQ(result.verdict, Verdict::undecided);
}

TEST(Judge, IsUndecidedOfASessionWhereAnEarlierCallIs) {
  const char* session = "moba(lens=400,q_lens=1,block=8,top_k=6,regime=tie,session=shape+shape+shape+shape)";
  EXPECT_EQ(verdict(hiding_kernel(), session), Verdict::undecided);
  EXPECT_EQ(verdict(hiding_kernel(), "moba(lens=25,q_lens=0,block=8,top_k=6,regime=tie)"), Verdict::pass)
      << "its last call alone";
}

TEST(Judge, HandsTheBackwardWhatTheForwardGave) {
  bool same = false;
  const Kernel kernel = altered({}, [&](const AnyCall& call) {
    same = std::isfinite(call["o"].load(99, 1, 0)) && call.selection.row(99, 0)[0] >= 0;
  });
  EXPECT_EQ(verdict(kernel, kCase), Verdict::pass);
  EXPECT_TRUE(same);
}

/// Where a tensor's rows end, in its own memory.
std::uint16_t* after_last_row(const TensorView& view) {
  return static_cast<std::uint16_t*>(view.data) + (view.tokens - 1) * view.token_stride +
         (view.heads - 1) * view.head_stride + view.dim;
}

TEST(Judge, HandsOverSelectionsWithGapsInBothOrders) {
  SelectionView seen;
  const Kernel kernel = altered([&](const AnyCall& call) { seen = call.selection; });
  const auto judged = [&](const char* keys) {
    return verdict(kernel, (std::string("selected(lens=20,heads=2,dk=8,block=4,top_k=3") + keys + ")").c_str());
  };
  EXPECT_EQ(judged(""), Verdict::pass);
  EXPECT_GT(seen.head_stride, 3);
  EXPECT_GT(seen.token_stride, 2 * seen.head_stride);
  EXPECT_EQ(judged(",seed=1"), Verdict::pass);
  EXPECT_GT(seen.token_stride, 3);
  EXPECT_GT(seen.head_stride, 20 * seen.token_stride);
  EXPECT_EQ(judged(",layout=contiguous,seed=1"), Verdict::pass);
  EXPECT_EQ(seen.head_stride, 3);
  EXPECT_EQ(seen.token_stride, 6);
}

TEST(Judge, FindsWritesOutsideTheOutputs) {
  const Kernel behind = altered([](const AnyCall& call) { *after_last_row(call["o"]) = 0; });
  const Kernel before = altered([](const AnyCall& call) { static_cast<std::uint16_t*>(call["o"].data)[-1] = 0; });
  const Kernel between =
      altered([](const AnyCall& call) { static_cast<std::uint16_t*>(call["o"].data)[call["o"].dim] = 0; });
  const Kernel input = altered([](const AnyCall& call) { call["k"].store(3, 0, 0, 77); });
  const Kernel given = altered({}, [](const AnyCall& call) { call["o"].store(3, 0, 0, 77); });
  const Kernel selection = altered({}, [](const AnyCall& call) { call.selection.data[0] = -1; });
  const Kernel slots = altered([](const AnyCall& call) { call.selection.data[-1] = 0; });
  const Kernel gap = altered([](const AnyCall& call) { call.selection.row(0, 0)[call.selection.slots] = 0; });
  for (const Kernel* kernel : {&behind, &before, &between, &input, &given, &selection, &slots, &gap})
    EXPECT_EQ(verdict(*kernel, kCase), Verdict::stray_write);
  const CaseResult result = judge(input, parse_case(kCase));
  EXPECT_EQ(result.findings.at(0).output, "k");
  EXPECT_EQ(result.findings.at(0).detail,
            "an input was written: 1 of 6400 elements changed; the first is [token=3,head=0,d=0]");
  const auto detail = [](const Kernel& kernel) { return judge(kernel, parse_case(kCase)).findings.at(0).detail; };
  EXPECT_EQ(detail(behind), "1 element outside it was written; the first lies 1 behind its row [token=99,head=1]");
  EXPECT_EQ(detail(before), "1 element outside it was written; the first lies before its first row");
  EXPECT_EQ(detail(between), "1 element outside it was written; the first lies 1 behind its row [token=0,head=0]");
  EXPECT_EQ(detail(slots), "1 entry outside the output was written");
}

TEST(Judge, FindsReadsOutsideTheTensors) {
  const Kernel kernel = altered([](const AnyCall& call) {
    if (call["v"].token_stride == 0) return;
    const double next =
        decode_bf16(*after_last_row(call["v"]));  // harmless among NaN, part of the result among numbers
    call["lse"].store(0, 0, 0, call["lse"].load(0, 0, 0) + (std::isnan(next) ? 0 : 1e-9 + 1e-6 * next));
  });
  const CaseResult result = judge(kernel, parse_case(kCase));
  EXPECT_EQ(result.verdict, Verdict::stray_read);
  EXPECT_EQ(result.findings.at(0).output, "lse");
  EXPECT_EQ(result.findings.at(0).detail,
            "1 of 200 elements change with memory outside the tensors; the first is [token=0,head=0,d=0]");
}

TEST(Judge, FindsRowsThatAreNeverWritten) {
  Kernel kernel = model_kernel();
  replace_backward(kernel,
                   [](const AnyCall& call, const DoCall& do_call) {  // dk and dv of the last key are left as they were
                     std::vector<double> dk, dv;
                     for (std::int64_t d = 0; d < call["dk"].dim; ++d) {
                       dk.push_back(call["dk"].load(call["dk"].tokens - 1, 0, d));
                       dv.push_back(call["dv"].load(call["dv"].tokens - 1, 0, d));
                     }
                     do_call(call);
                     for (std::int64_t d = 0; d < call["dk"].dim; ++d) {
                       call["dk"].store(call["dk"].tokens - 1, 0, d, dk[static_cast<std::size_t>(d)]);
                       call["dv"].store(call["dv"].tokens - 1, 0, d, dv[static_cast<std::size_t>(d)]);
                     }
                   });
  const CaseResult result = judge(kernel, parse_case(kCase));
  EXPECT_EQ(result.verdict, Verdict::non_finite);
  EXPECT_EQ(result.findings.at(0).output, "dk");
  EXPECT_EQ(result.findings.at(0).detail, "64 of 6400 elements were never written; the first is [token=99,head=0,d=0]");
}

/// The model kernel, adding `from_workspace` of its workspace of 8 bytes to an lse.
Kernel with_workspace(std::function<double(std::span<std::byte>)> from_workspace) {
  Kernel kernel = altered([=](const AnyCall& call) {
    call["lse"].store(0, 0, 0, call["lse"].load(0, 0, 0) + from_workspace(call.workspace));
  });
  kernel.workspace_bytes = [](const Case&) { return 8; };
  return kernel;
}

TEST(Judge, HandsOutAWorkspaceThatHoldsAnything) {
  const Kernel clean = with_workspace([](std::span<std::byte> workspace) {
    EXPECT_EQ(workspace.size(), 8u);
    std::fill(workspace.begin(), workspace.end(), std::byte{0});
    return static_cast<double>(workspace[7]);
  });
  EXPECT_EQ(verdict(clean, "dense(lens=9)"), Verdict::pass);
  const Kernel not_zeroed = with_workspace([](std::span<std::byte> workspace) {
    return 1e-9 * static_cast<double>(workspace[3]) + 1e-4 * (workspace[3] == std::byte{0xff});
  });
  EXPECT_EQ(verdict(not_zeroed, "dense(lens=9)"), Verdict::stray_read);
  const Kernel too_long = with_workspace([](std::span<std::byte> workspace) {
    workspace.data()[8] = std::byte{1};
    return 0;
  });
  const CaseResult result = judge(too_long, parse_case("dense(lens=9)"));
  EXPECT_EQ(result.verdict, Verdict::stray_write);
  EXPECT_EQ(result.findings.at(0).output, "workspace");
}

TEST(Judge, FindsResultsThatChangeFromRunToRun) {
  int run = 0;
  const Kernel kernel = altered([&](const AnyCall& call) {
    call["lse"].store(5, 0, 0, call["lse"].load(5, 0, 0) * (1 + 0x1p-22 * (run++ % 7)));
  });
  EXPECT_EQ(verdict(kernel, "dense(lens=9)"), Verdict::nondeterministic);
}

/// As one with atomics in its backward alone.
TEST(Judge, HoldsTheBackwardToItsOwnPromise) {
  int calls = 0;
  Kernel kernel = altered({}, [&](const AnyCall& call) {
    const double x = call["dq"].load(70, 0, 5);
    if (calls++ % 2 == 1) call["dq"].store(70, 0, 5, x + std::abs(x) * 0x1p-8);  // one unit in the last place of bf16
  });
  kernel.equal_bits = EqualBits::same_call;
  kernel.equal_bits_backward = EqualBits::none;
  EXPECT_EQ(verdict(kernel, kCase), Verdict::pass);
  kernel.equal_bits_backward = EqualBits::same_call;
  EXPECT_NE(verdict(kernel, kCase), Verdict::pass);
}

TEST(Judge, JudgesTheBackwardOnTheOutputsItWasGivenEvenIfTheyAreWrong) {
  const Kernel kernel = altered([](const AnyCall& call) {
    for (std::int64_t d = 0; d < call["o"].dim; ++d) call["o"].store(60, 0, d, 3);
  });
  const CaseResult result = judge(kernel, parse_case(kCase));
  EXPECT_EQ(result.verdict, Verdict::value_out_of_bound);
  for (const OutputSummary& output : result.outputs)
    EXPECT_EQ(output.findings, output.output == "o" ? 1 : 0) << output.output;
}

TEST(Judge, TriesEveryAdmissibleSelectionOfAKernelThatHidesItsOwn) {
  Kernel kernel = model_kernel();
  kernel.exports_selection = false;
  EXPECT_EQ(verdict(kernel, "moba(lens=300,heads=2,block=16,top_k=4)"), Verdict::pass);
  const CaseResult few = judge(kernel, parse_case("moba(lens=112,block=16,top_k=3,regime=tie)"));
  EXPECT_EQ(few.verdict, Verdict::pass);  // up to 15 tied selections a row
  EXPECT_EQ(few.outputs.size(), 5u);
  Kernel silent = kernel;  // leaves the memory for a selection alone
  replace_forward(silent, [](const AnyCall& call, const DoCall& do_call) {
    std::vector<std::int32_t> elsewhere(
        static_cast<std::size_t>(call.selection.tokens * call.selection.heads * call.selection.slots));
    AnyCall own = call;
    own.selection =
        packed_selection(elsewhere.data(), call.selection.tokens, call.selection.heads, call.selection.slots);
    do_call(own);
  });
  EXPECT_EQ(verdict(silent, "moba(lens=100,block=16,top_k=3)"), Verdict::pass);
  const CaseResult many = judge(kernel, parse_case("moba(lens=400,block=8,top_k=6,regime=tie)"));
  EXPECT_EQ(many.verdict, Verdict::undecided);
  EXPECT_GT(many.undecided(), 0);
  EXPECT_GT(many.rows(), 0);
}

/// A model kernel that keeps lse to itself between its forward and its backward, as an autograd function does; what it
/// keeps is off by `error`.
Kernel keeping_lse(const char* name, double error = 0) {
  const Kernel model = find_kernel(name);
  Kernel kernel = model;
  kernel.exports_lse = false;
  const auto kept = std::make_shared<std::map<std::string, std::vector<float>>>();
  kernel.call = [=](const AnyCall& given) {
    AnyCall call = given;
    for (const TensorInfo& tensor : page_of(call.op).tensors) {
      if (tensor.format != Stored::fp32) continue;
      EXPECT_EQ(call[tensor.name].data, nullptr);
      const auto [tokens, heads, dim] = std::tuple{call["q"].tokens, call["q"].heads, 1};
      std::vector<float>& lse = (*kept)[tensor.name];
      lse.resize(static_cast<std::size_t>(tokens * heads));
      call[tensor.name] = {lse.data(), Format::fp32, tokens, heads, dim, heads, 1};
    }
    model.call(call);
    if (call.is_backward) return;
    for (auto& [tensor, values] : *kept)
      for (float& lse : values) lse += static_cast<float>(error);
  };
  return kernel;
}

TEST(Judge, JudgesGradientsOfAKernelThatKeepsItsLse) {
  for (const auto& [name, text] :
       {std::pair{"model:moba", "dense(lens=70+0+9,q_lens=70+0+20,heads=4,kv_heads=2,dtype=fp32)"},
        {"model:moba", "moba(lens=100,block=16,heads=2,regime=large)"},
        {"model:moba", "selected(lens=100,block=16,heads=2,dtype=fp16)"},
        {"model:moba", "dense(lens=400,heads=2,sample=60)"},
        {"model:moba", "moba(lens=40,block=16,law=repeat)"},
        {"model:nsa", "window(lens=100,dtype=fp32,scale=1)"},
        {"model:nsa", "nsa_compressed(lens=100,heads=2,dtype=fp32)"},
        {"model:nsa", "nsa(lens=70,heads=2,dtype=fp32)"}}) {
    const CaseResult result = judge(keeping_lse(name), parse_case(text));
    EXPECT_EQ(result.verdict, Verdict::pass) << text;
    for (const OutputSummary& output : result.outputs) EXPECT_FALSE(output.output.ends_with("lse")) << text;
    EXPECT_TRUE(std::any_of(result.outputs.begin(), result.outputs.end(), [](const auto& output) {
      return output.output == "dq" && output.rows > 0;
    })) << text;
  }
  EXPECT_EQ(verdict(keeping_lse("model:moba", 0.02), "dense(lens=100)"), Verdict::value_out_of_bound);
  EXPECT_EQ(lse_not_judged(keeping_lse("model:moba")),
            "model:moba: lse was not judged: the kernel keeps it to itself\n");
  EXPECT_EQ(lse_not_judged(model_kernel()), "");
}

TEST(Judge, LeavesOutABackwardThatNeedsAsManyQueriesAsKeys) {
  Kernel kernel = model_kernel();
  kernel.limits.equal_lengths = EqualLengths::of_backwards;
  EXPECT_EQ(judge(kernel, parse_case("dense(lens=9)")).outputs.size(), 5u);
  EXPECT_EQ(judge(kernel, parse_case("dense(lens=9,q_lens=4)")).outputs.size(), 2u);
}

TEST(Judge, SaysWhatIsUnsupportedBeforeMakingInputs) {
  Kernel kernel = model_kernel();
  kernel.unsupported = [](const Case& c) {
    return c.dk > 64 ? std::optional<std::string>("dk above 64") : std::nullopt;
  };
  const CaseResult result = judge(kernel, parse_case("moba(dk=65)"));
  EXPECT_EQ(result.verdict, Verdict::not_supported);
  EXPECT_EQ(result.reason, "dk above 64");
  kernel.operators = {Operator::dense};
  EXPECT_EQ(verdict(kernel, "moba()"), Verdict::not_supported);
}

/// Expects that cases pass with the arithmetic that a kernel declares, and that the first gets `otherwise` where it
/// declares another.
void expect_declared(const char* name, const std::vector<const char*>& cases, const reference::ArithmeticOptions& other,
                     Verdict otherwise) {
  Kernel kernel = find_kernel(name);
  for (const char* text : cases) EXPECT_EQ(verdict(kernel, text), Verdict::pass) << name << " " << text;
  kernel.arithmetic = other;
  EXPECT_EQ(verdict(kernel, cases.front()), otherwise) << name << " " << cases.front();
}

TEST(Judge, AcceptsMeanKeysRoundedAsDeclaredAtNearTies) {
  expect_declared(
      "model:moba+rounded_means",
      {"moba_select(lens=640,heads=2,block=32,top_k=5,regime=near_tie)", "moba_select(lens=640,block=20,top_k=5)",
       "moba(lens=320,block=32,top_k=3,regime=near_tie,dtype=fp16)"},
      {}, Verdict::selection_mismatch);
}

TEST(Judge, AcceptsANormaliserThatSumsRoundedWeightsWhereDeclared) {
  expect_declared(
      "model:moba+rounded_sum",
      {"dense(lens=200)", "dense(lens=200,regime=diffuse)", "dense(lens=200,regime=token_tagged,dtype=fp16)"}, {},
      Verdict::value_out_of_bound);  // its lse
}

TEST(Judge, AcceptsRoundedPartialOutputsWhereDeclared) {
  expect_declared("model:moba+fp32_weights+fp32_out+rounded_partials", {"moba(lens=300,block=16,top_k=5)"},
                  {"fp32_weights", "fp32_out"}, Verdict::value_out_of_bound);
}

TEST(Judge, FindsWeightsRoundedThatAreDeclaredExact) {
  for (const char* name : {"model:moba+fp32_out", "model:moba+normalise_first+fp32_out"})
    expect_declared(name, {"dense(lens=300)"}, {"fp32_weights", "fp32_out"}, Verdict::value_out_of_bound);
}

}  // namespace
}  // namespace attnspec::verify
