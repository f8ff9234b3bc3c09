// Any scale that a case may have is judged rightly: no correct kernel is accused, however large the scores and their
// errors are, and what is plainly wrong is still found. docs/numerics.md, tag A8.

#include <gtest/gtest.h>

#include <cmath>
#include <string>
#include <vector>

#include "reference/noise/attention_noise.hpp"
#include "reference/noise/score_range.hpp"
#include "verify/cases/regimes.hpp"
#include "verify/judge/judge.hpp"
#include "verify/judge/report.hpp"
#include "verify/kernels.hpp"

namespace attnspec::verify {
namespace {

using namespace reference;

constexpr const char* kScales[] = {"1e-42", "1e-30", "-1e-10", "300",  "-300", "1e4",
                                   "1e6",   "-1e7",  "1e9",    "1e12", "1e20", "-1e30"};
constexpr const char* kOperatorKeys[] = {
    "dense(lens=21+2,heads=2,kv_heads=1",
    "selected(lens=20,block=4,top_k=3",
    "moba(lens=22,heads=2,block=4,top_k=3",
    "window(lens=20,heads=2,kv_heads=1,window=5",
    "nsa_compressed(lens=26,heads=2,kv_heads=1,compress_block=4,compress_stride=2,block=4,top_n=4",
    "nsa(lens=24,heads=2,kv_heads=1,compress_block=4,compress_stride=2,block=4,top_n=4,window=5"};

class Scales : public testing::TestWithParam<const char*> {};

TEST_P(Scales, AccuseNoCorrectKernel) {
  std::uint64_t seed = 0;
  for (const char* const keys : kOperatorKeys) {
    for (const char* const dtype : {"bf16", "fp16", "fp32"}) {
      for (const char* const regime : {"normal", "spiky", "tie", "large", "subnormal", "repeated_tokens"}) {
        const Case c = parse_case(std::string(keys) + ",dk=8,scale=" + GetParam() + ",dtype=" + dtype +
                                  ",regime=" + regime + ",seed=" + std::to_string(seed++ % 7) + ")");
        const std::string model = is_nsa(c.op) ? "model:nsa" : "model:moba";
        std::vector<std::string> kernels{model, model + "+rounded_sum+fp32_out"};
        for (const char* variant : {"variant:short_splits", "variant:exp2", "variant:double_precision"})
          if (!is_nsa(c.op)) kernels.push_back(variant);
        const CaseResult result = judge(find_kernel(kernels[seed % kernels.size()]), c);
        ASSERT_FALSE(is_finding(result.verdict)) << failure_line(result, result.findings.front());
      }
    }
  }
}

INSTANTIATE_TEST_SUITE_P(Any, Scales, testing::ValuesIn(kScales),
                         [](const auto& instance) { return "number" + std::to_string(instance.index); });

Verdict verdict(const char* kernel, const std::string& text) {
  return judge(find_kernel(kernel), parse_case(text)).verdict;
}

TEST(LargeScales, StillShowPlainDefects) {
  for (const char* const scale : {"300", "-300", "1e4", "1e6", "1e9", "1e20"}) {
    const std::string keys = std::string("(lens=70,dk=8,scale=") + scale;
    EXPECT_TRUE(is_finding(verdict("defect:one_key_dropped", "dense" + keys + ")"))) << scale;
    EXPECT_TRUE(is_finding(verdict("defect:future_token_visible", "moba" + keys + ",block=16)"))) << scale;
    EXPECT_TRUE(is_finding(verdict("defect:window_of_one_less", "window" + keys + ",window=5)"))) << scale;
  }
}

TEST(LargeScales, LeaveTheBackwardUndecidedWhereExpOverflows) {
  const CaseResult result = judge(find_kernel("model:moba"), parse_case("dense(lens=30,dk=8,scale=1e12)"));
  EXPECT_EQ(result.verdict, Verdict::undecided);
  EXPECT_NE(result.reason.find("scale=1e+12"), std::string::npos) << result.reason;
  EXPECT_EQ(verdict("model:moba", "dense(lens=30,dk=8,scale=1e6)"), Verdict::pass);
}

TEST(LargeScales, AreRefusedWhereFp32CannotHoldThem) {
  EXPECT_THROW(parse_case("dense(scale=1e39)"), InvalidProblem);
  EXPECT_THROW(parse_case("nsa(scale=-1e300)"), InvalidProblem);
  for (const char* text : {"dense(lens=9,scale=3e38)", "moba(lens=9,scale=-3e38)", "nsa(lens=70,scale=3e38)"}) {
    try {
      judge(find_kernel(text[0] == 'n' ? "model:nsa" : "model:moba"), parse_case(text));
      FAIL() << text;
    } catch (const InvalidProblem& refusal) {
      EXPECT_NE(std::string(refusal.what()).find("3e+38"), std::string::npos) << refusal.what();
    }
  }
}

/// Weights and lse of random scores that err by up to e stay within the range, and reach it.
TEST(WeightRange, HoldsWhatScoresWithinTheirErrorsDo) {
  const Vector scores{{3, 3.5, -2, 1, 3.25}};
  const AttendedRow row{scores, Vector((scores.array() - 3).exp() / (scores.array() - 3).exp().sum()), Vector(),
                        3 + std::log((scores.array() - 3).exp().sum())};
  const ScoreNoise noise{Vector::Constant(5, 1), Vector::Constant(5, 0.7)};
  const auto range = weight_range(noise, row, 0);
  ASSERT_TRUE(range.has_value());
  Vector largest = Vector::Zero(5);
  double lse = 0;
  for (int signs = 0; signs < 32; ++signs) {
    Vector moved = scores;
    for (int j = 0; j < 5; ++j) moved[j] += (signs >> j & 1 ? 1 : -1) * range->errors[j];
    const Vector weights = moved.array().exp() / moved.array().exp().sum();
    largest = largest.cwiseMax((weights - row.weights).cwiseAbs());
    lse = std::max(lse, std::abs(std::log(moved.array().exp().sum()) - row.lse));
  }
  EXPECT_TRUE(largest.isApprox(range->change, 1e-9)) << largest.transpose() << "\n" << range->change.transpose();
  EXPECT_NEAR(lse, range->lse, 1e-9);
  EXPECT_FALSE(weight_range({Vector::Constant(5, 1), Vector::Constant(5, 0.1)}, row, 0).has_value());
}

}  // namespace
}  // namespace attnspec::verify
