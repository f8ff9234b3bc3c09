// Laws: what breaks them is found and named, what they have nothing to say of does not count as passed, and a kernel is
// held to what it promises.

#include "verify/laws/laws.hpp"

#include <gtest/gtest.h>

#include <algorithm>
#include <cmath>
#include <iterator>
#include <memory>
#include <set>
#include <string>

#include "verify/cases/levels.hpp"
#include "verify/judge/judge.hpp"
#include "verify/judge/report.hpp"
#include "verify/kernels.hpp"
#include "verify/model/model.hpp"
#include "verify/selftest/judge/altered_kernel.hpp"

namespace attnspec::verify {
namespace {

Kernel model_kernel(Operator op) {
  return model::make_kernel("model:x", "the model kernel", {op}, model::correct_stages());
}

/// The model kernel, whose outputs are changed after its forward.
Kernel altered(Operator op, const DoCall& change) { return with_altered_outputs(model_kernel(op), change); }

CaseResult judged(const Kernel& kernel, const char* text) { return judge(kernel, parse_case(text)); }

TEST(Laws, HoldOfTheModelKernelOnLevelOne) {
  const Kernel kernel = model::make_kernel("model:x", "the model kernel",
                                           {std::begin(kOperators), std::end(kOperators)}, model::correct_stages());
  for (const Operator op : kOperators) {
    std::set<Law> passed;
    for (const Case& c : level_cases(op, 1)) {
      if (c.law == Law::none) continue;
      const CaseResult result = judge(kernel, c);
      ASSERT_FALSE(is_finding(result.verdict)) << failure_line(result, result.findings.front());
      if (result.verdict == Verdict::pass) passed.insert(c.law);
    }
    for (const Law law : kLaws) EXPECT_EQ(passed.count(law), has_law(op, law)) << name(op) << " " << name(law);
  }
}

/// A row that depends on the last key, which only the last query sees.
Kernel reading_the_future() {
  return altered(Operator::dense, [](const AnyCall& call) {
    const double last = call["k"].load(call["k"].tokens - 1, 0, 0);
    call["lse"].store(2, 0, 0, call["lse"].load(2, 0, 0) * (1 + 0x1p-23 * (last > 0)));
  });
}

TEST(Laws, NameTheLawThePlaceAndBothBitPatterns) {
  const CaseResult result = judged(reading_the_future(), "dense(lens=9,law=future)");
  ASSERT_EQ(result.verdict, Verdict::law_broken);
  const Finding& finding = result.findings.front();
  EXPECT_EQ(finding.output, "lse");
  EXPECT_EQ(finding.token, 2);
  EXPECT_NE(finding.detail.find("law future: 0x"), std::string::npos) << finding.detail;
  EXPECT_NE(finding.detail.find(" where the source call has 0x"), std::string::npos) << finding.detail;
  EXPECT_NE(finding.detail.find(", bits "), std::string::npos);
  EXPECT_NE(failure_line(result, finding).find("FAIL law-broken model:x lse[seq=0,token=2,head=0] => law future"),
            std::string::npos);
  EXPECT_EQ(judged(reading_the_future(), "dense(lens=9,law=repeat)").verdict, Verdict::pass);
}

TEST(Laws, DecodeFindsCompressedRowsThatDependOnHowManyComeBefore) {
  const Kernel kernel = altered(Operator::nsa_compress, [](const AnyCall& call) {
    const std::int64_t last = call["rows"].tokens - 1;
    if (last == 2) call["rows"].store(last, 0, 0, 2 * call["rows"].load(last, 0, 0));
  });
  const char* const text = "nsa_compress(lens=10,dk=4,compress_block=6,compress_stride=2,law=decode)";
  EXPECT_EQ(judged(kernel, text).verdict, Verdict::law_broken);
  EXPECT_EQ(judged(model_kernel(Operator::nsa_compress), text).verdict, Verdict::pass);
}

TEST(Laws, DoNotPassWithoutARowToCompare) {
  for (const char* text : {"moba(lens=40,law=heads)",
                           "moba(lens=40,law=packing)",
                           "moba(lens=1,law=decode)",
                           "nsa_compress(lens=40,law=decode)",
                           "nsa(lens=40,shared_kv=1,law=unselected)",
                           "dense(lens=0,law=repeat)",
                           "nsa(lens=40,phi=mlp,dtype=fp16,law=power)",
                           "nsa(lens=40,phi=mlp,law=negation)",
                           "nsa(lens=40,dtype=fp16,law=reciprocal)",
                           "selected(lens=40,selection_order=ascending,law=slots)",
                           "moba(lens=40,law=groups)",
                           "moba(lens=1,law=prefix)",
                           "moba(lens=40,block=8,top_k=4,law=all_blocks)",
                           "moba(lens=40,block=8,top_k=2,law=own_block)",
                           "window(lens=40,window=39,law=whole_window)",
                           "nsa_compressed(lens=40,dk=4,block=16,compress_block=16,dv=2,law=mass)",
                           "dense(lens=40,dk=4,scale=0.1,law=dv_sum)",
                           "dense(lens=0,law=dk_sum)",
                           "nsa(lens=0,law=one_hot)",
                           "nsa_compressed(lens=0,law=mass)"}) {
    const Case c = parse_case(text);
    const CaseResult result = judge(model_kernel(c.op), c);
    EXPECT_EQ(result.verdict, Verdict::not_supported) << text;
    EXPECT_EQ(result.reason, std::string("law ") + name(c.law) + ": nothing of the case is compared by it");
  }
}

/// Far below the sum of what each key's error could be at worst.
TEST(Laws, SumsOfGradientsTellAFactorOfOneAndASixtyFourth) {
  const Kernel model = model_kernel(Operator::dense);
  const Kernel kernel = with_altered_outputs(model, {}, [](const AnyCall& call) {
    const TensorView& dv = call["dv"];
    for (std::int64_t token = 0; token < dv.tokens; ++token)
      for (std::int64_t d = 0; d < dv.dim; ++d) dv.store(token, 0, d, 65. / 64 * dv.load(token, 0, d));
  });
  EXPECT_EQ(judged(kernel, "dense(lens=400,law=dv_sum)").verdict, Verdict::law_broken);
  EXPECT_EQ(judged(model, "dense(lens=400,law=dv_sum)").verdict, Verdict::pass);
}

TEST(Laws, KeepTheShapeOfASelectionWithoutQueries) {
  int calls = 0;
  const Kernel kernel = altered(Operator::selected, [&](const AnyCall& call) {
    EXPECT_EQ(call.selection.heads, 2);
    EXPECT_EQ(call.selection.slots, 3);
    ++calls;
  });
  EXPECT_EQ(judged(kernel, "selected(lens=9+2,q_lens=0+0,heads=2,top_k=3,law=packing)").verdict, Verdict::pass);
  EXPECT_GT(calls, 2);
}

TEST(Laws, BindWhoPromises) {
  Kernel kernel = reading_the_future();
  kernel.equal_bits = EqualBits::same_call;
  const CaseResult result = judged(kernel, "dense(lens=9,law=future)");
  EXPECT_EQ(result.verdict, Verdict::not_supported);
  EXPECT_EQ(result.reason, "law future: the kernel does not promise to be row-independent");
  EXPECT_EQ(laws_not_held(kernel),
            "model:x not held to the laws future, heads, strides, packing, decode: it does not promise to be "
            "row-independent\n");
  kernel = model_kernel(Operator::window);
  EXPECT_EQ(laws_not_held(kernel), "");
  kernel.equal_bits_backward = EqualBits::none;
  EXPECT_EQ(laws_not_held(kernel),
            "the backward of model:x not held to the laws repeat, future, unselected, heads, strides, packing, decode, "
            "power, negation, reciprocal: it does not promise to be deterministic\n");
  EXPECT_EQ(judged(kernel, "window(lens=9+3,law=packing)").outputs.size(), 2u) << "o and lse";
}

/// lse of one row is off by one place every other time.
Kernel restless(EqualBits promise) {
  const auto run = std::make_shared<int>(0);
  Kernel kernel = altered(Operator::dense, [run](const AnyCall& call) {
    call["lse"].store(0, 0, 0, call["lse"].load(0, 0, 0) * (1 + 0x1p-23 * ((*run)++ % 3 == 0)));
  });
  kernel.equal_bits = promise;
  return kernel;
}

TEST(Laws, ACallThatMayDifferIsNotAccusedOfIt) {
  EXPECT_EQ(judged(restless(EqualBits::same_call), "dense(lens=9)").verdict, Verdict::nondeterministic);
  EXPECT_EQ(judged(restless(EqualBits::none), "dense(lens=9)").verdict, Verdict::pass);
  EXPECT_EQ(judged(restless(EqualBits::none), "dense(lens=9,law=repeat)").verdict, Verdict::not_supported);
}

TEST(Laws, WhatSuchACallReadsOutsideItsTensorsStillShows) {
  Kernel kernel = altered(Operator::dense, [](const AnyCall& call) {
    const auto* after = static_cast<std::uint16_t*>(call["v"].data) + call["v"].tokens * call["v"].token_stride;
    call["lse"].store(0, 0, 0, call["lse"].load(0, 0, 0) + 0x1p-30 * decode_bf16(*after));
  });
  kernel.equal_bits = EqualBits::none;
  EXPECT_EQ(judged(kernel, "dense(lens=9)").verdict, Verdict::non_finite);
}

TEST(Laws, RepeatCountsLaunches) {
  const CaseResult result = judged(model_kernel(Operator::dense), "dense(lens=9,law=repeat)");
  EXPECT_EQ(result.launches, 20);
  EXPECT_NE(details(result).find("20 launches: at 95 % fewer than 0.15 of them give other bits"), std::string::npos);
}

TEST(Laws, AMalformedSelectionIsGivenToNoBackward) {
  Kernel kernel = altered(Operator::moba, [](const AnyCall& call) { call.selection.data[0] = 77; });
  replace_backward(kernel, [](const AnyCall&, const DoCall&) { FAIL() << "was called"; });
  EXPECT_EQ(judged(kernel, "moba(lens=40,block=8,law=repeat)").verdict, Verdict::selection_mismatch);
}

TEST(Laws, PowerSeesZerosInPlaceOfLargeNumbers) {
  Kernel kernel = altered(Operator::dense, [](const AnyCall& call) {
    double largest = 0;
    for (std::int64_t token = 0; token < call["v"].tokens; ++token)
      for (std::int64_t d = 0; d < call["v"].dim; ++d)
        largest = std::max(largest, std::abs(call["v"].load(token, 0, d)));
    if (largest <= 4) return;
    for (std::int64_t d = 0; d < call["o"].dim; ++d) call["o"].store(3, 0, d, 0);
  });
  kernel.forward_only = kernel.operators;  // its backward would see it too
  const CaseResult result = judged(kernel, "dense(lens=9,law=power)");
  ASSERT_EQ(result.verdict, Verdict::law_broken);
  EXPECT_EQ(result.findings.front().output, "o");
  EXPECT_EQ(result.findings.front().token, 3);
}

TEST(Laws, HeadsSeesTheFirstHeadOfAGroup) {
  const Kernel kernel = altered(Operator::dense, [](const AnyCall& call) {
    for (std::int64_t token = 0; token < call["lse"].tokens; ++token)
      call["lse"].store(token, 0, 0, call["lse"].load(token, 0, 0) * (1 + 0x1p-23));
  });
  const char* const text = "dense(lens=9,heads=2,kv_heads=1,law=heads)";
  EXPECT_EQ(judged(kernel, text).verdict, Verdict::law_broken);
  EXPECT_EQ(judged(model_kernel(Operator::dense), text).verdict, Verdict::pass);
}

TEST(Laws, DecodeSeesWhatIsWrongOfSeveralQueriesAlone) {
  const Kernel kernel = altered(Operator::dense, [](const AnyCall& call) {
    const std::int64_t queries = call["q"].tokens;
    if (queries > 1 && queries < call["k"].tokens)
      call["lse"].store(queries - 1, 0, 0, call["lse"].load(queries - 1, 0, 0) * (1 + 0x1p-23));
  });
  EXPECT_EQ(judged(kernel, "dense(lens=9,law=decode)").verdict, Verdict::law_broken);
}

/// lse of the second row is off by this factor in calls of fewer than nine keys.
Kernel off_in_short_calls(double factor) {
  Kernel kernel = altered(Operator::dense, [factor](const AnyCall& call) {
    if (call["k"].tokens < 9) call["lse"].store(1, 0, 0, call["lse"].load(1, 0, 0) * factor);
  });
  kernel.equal_bits = kernel.equal_bits_backward = EqualBits::none;
  return kernel;
}

TEST(Laws, WithinRoundingNeedNoPromiseAndSayWhatTheyAllow) {
  const char* const text = "dense(lens=9,seed=3,law=prefix)";
  const CaseResult right = judged(off_in_short_calls(1 + 0x1p-23), text);
  EXPECT_EQ(right.verdict, Verdict::pass);
  EXPECT_NE(details(right).find("compared within the predicted rounding\n"), std::string::npos) << details(right);
  const CaseResult wrong = judged(off_in_short_calls(1 + 0x1p-10), text);
  ASSERT_EQ(wrong.verdict, Verdict::law_broken);
  EXPECT_EQ(wrong.findings.front().output, "lse");
  EXPECT_EQ(wrong.findings.front().token, 1);
  EXPECT_NE(wrong.findings.front().detail.find(", within the predicted rounding of "), std::string::npos)
      << wrong.findings.front().detail;
}

TEST(Laws, WithinRoundingSpeakOfOneAnotherAlone) {
  const Kernel kernel = altered(Operator::dense, [](const AnyCall& call) {
    for (std::int64_t token = 0; token < call["lse"].tokens; ++token)
      call["lse"].store(token, 0, 0, call["lse"].load(token, 0, 0) * 2);
  });
  EXPECT_EQ(judged(kernel, "dense(lens=9,law=prefix)").verdict, Verdict::pass);
  EXPECT_EQ(judged(kernel, "dense(lens=9)").verdict, Verdict::value_out_of_bound);
}

TEST(Laws, OfTwoOperatorsNeedBoth) {
  const CaseResult result = judged(model_kernel(Operator::nsa), "nsa(lens=40,law=as_moba)");
  EXPECT_EQ(result.verdict, Verdict::not_supported);
  EXPECT_EQ(result.reason, "law as_moba: the kernel does not implement moba");
}

TEST(Laws, WithinRoundingLeaveOutRowsThatBreakATieInAnotherWay) {
  const Kernel other = find_kernel("variant:oldest_of_a_tie");
  Kernel kernel = model_kernel(Operator::moba);
  replace_forward(kernel, [&](const AnyCall& call, const DoCall& do_call) {
    call["k"].tokens < 160 ? other.call(call) : do_call(call);
  });
  const CaseResult result = judged(kernel, "moba(lens=40+40+40+40,block=4,top_k=3,regime=tie,law=prefix)");
  EXPECT_EQ(result.verdict, Verdict::pass);
  const auto rows = [&](const char* output) {
    return std::ranges::find(result.outputs, output, &OutputSummary::output)->rows;
  };
  EXPECT_LT(rows("o"), rows("selection"));
}

TEST(Laws, ReciprocalSaysNothingWhereItsInputsLoseDigits) {
  const Case c = parse_case("dense(lens=5,heads=2,dk=31,dv=1,scale=64,dtype=fp16,law=reciprocal)");
  EXPECT_EQ(judge(find_kernel("model:moba"), c).verdict, Verdict::not_supported);
}

TEST(Laws, LeaveOutTheSignOfZero) {
  const Kernel kernel = altered(Operator::dense, [](const AnyCall& call) {
    call["o"].store(0, 0, 0, call["k"].load(call["k"].tokens - 1, 0, 0) > 0 ? 0.0 : -0.0);
  });
  EXPECT_EQ(judged(kernel, "dense(lens=9,law=future)").verdict, Verdict::pass);
}

}  // namespace
}  // namespace attnspec::verify
