// The direction test names a fault that moves all rows of o a little, and no other.

#include "verify/judge/direction.hpp"

#include <gtest/gtest.h>

#include <cmath>
#include <string>
#include <vector>

#include "verify/judge/judge.hpp"
#include "verify/kernels.hpp"
#include "verify/model/model.hpp"
#include "verify/selftest/judge/altered_kernel.hpp"

namespace attnspec::verify {
namespace {

/// The model kernel with the softmax scale of o off by a factor, and everything else right.
Kernel with_scale_of_o_off(double factor) {
  return altered([factor](const AnyCall& call) {
    reference::MobaProblem problem = call.problem;
    problem.attention.scale *= factor;
    std::vector<float> lse(static_cast<std::size_t>(call["lse"].tokens * call["lse"].heads));
    TensorView elsewhere = call["lse"];
    elsewhere.data = lse.data();
    elsewhere.token_stride = call["lse"].heads;
    elsewhere.head_stride = 1;
    AnyCall other{call.op, false, problem, call.nsa, call.tensors, call.selection};
    other["lse"] = elsewhere;
    model_kernel().call(other);
  });
}

/// The largest direction of a case and what it is.
Direction largest_direction(const CaseResult& result) {
  const std::vector<Direction>& directions = result.directions.at(0).directions;
  Direction largest = directions.at(0);
  for (const Direction& direction : directions)
    if (std::abs(direction.z()) > std::abs(largest.z())) largest = direction;
  return largest;
}

/// What the lines of the direction test name, one after the other.
std::vector<std::string> named_faults(const CaseResult& result) {
  std::vector<std::string> faults;
  const std::string prefix = "errors of all rows judged add up as if: ";
  for (const Finding& finding : result.findings)
    if (finding.detail.starts_with(prefix))
      faults.push_back(finding.detail.substr(prefix.size(), finding.detail.find(';') - prefix.size()));
  return faults;
}

using Faults = std::vector<std::string>;

TEST(DirectionTest, SeesAScaleThatIsOffByFarLessThanARowsNoise) {
  const Case c = parse_case("dense(lens=500,heads=4)");
  const CaseResult right = judge(model_kernel(), c);
  EXPECT_EQ(right.verdict, Verdict::pass);
  EXPECT_LT(std::abs(largest_direction(right).z()), 5);
  const CaseResult wrong = judge(with_scale_of_o_off(1 - 0x1p-10), c);
  EXPECT_EQ(wrong.outputs.at(0).findings, 0);  // no row of o shows it
  EXPECT_EQ(wrong.verdict, Verdict::value_out_of_bound);
  ASSERT_EQ(wrong.findings.size(), 1u);
  EXPECT_EQ(largest_direction(wrong).fault, std::string("softmax scale off"));
  EXPECT_NE(wrong.findings.at(0).detail.find("softmax scale off"), std::string::npos);
  const CaseResult biased =
      judge(with_scale_of_o_off(1 - 0x1p-10), parse_case("dense(lens=500,heads=4,regime=token_tagged)"));
  EXPECT_EQ(biased.verdict, Verdict::pass);  // values with a mean: information only
}

TEST(DirectionTest, SeesWhatIsAFewDeviationsBeyondItsLimit) {
  const CaseResult result = judge(with_scale_of_o_off(1 - 0x1p-11), parse_case("dense(lens=200,heads=6)"));
  const double z = std::abs(largest_direction(result).z());
  EXPECT_GT(z, reference::kKappa);
  EXPECT_LT(z, 2 * reference::kKappa);
  EXPECT_EQ(named_faults(result), Faults{"softmax scale off"});
}

/// Of six keys in fp32: all that rows may share is 14 errors of sums and quotients, and one of the scale.
TEST(DirectionTest, AllowsTheScaleOneRoundingAndNotTen) {
  const auto z = [](double error) {
    const CaseResult result =
        judge(with_scale_of_o_off(1 - error), parse_case("dense(lens=6,heads=64,scale=0.5,dtype=fp32)"));
    return std::abs(result.directions.at(0).directions.at(0).z());
  };
  EXPECT_EQ(z(16 * 0x1p-24), 0);
  EXPECT_GT(z(40 * 0x1p-24), reference::kKappa);
}

TEST(DirectionTest, NamesNothingThatOneRowAloneShows) {
  const Kernel kernel = altered([](const AnyCall& call) {  // without the last of two keys
    for (std::int64_t d = 0; d < call["o"].dim; ++d) call["o"].store(1, 0, d, call["v"].load(0, 0, d));
  });
  const CaseResult result = judge(kernel, parse_case("dense(lens=2)"));
  EXPECT_EQ(result.outputs.at(0).findings, 1);
  EXPECT_EQ(named_faults(result), Faults{});
}

TEST(DirectionTest, SeesAKeyThatIsGivenALittleTooMuchWeight) {
  const Kernel kernel = altered([](const AnyCall& call) {  // the last key counts 1 % more: o moves towards its value
    for (std::int64_t t = 0; t < call["o"].tokens; ++t)
      for (std::int64_t d = 0; d < call["o"].dim; ++d) {
        const double o = call["o"].load(t, 0, d), weight = 0.01 / static_cast<double>(t + 1);
        call["o"].store(t, 0, d, o + weight * (call["v"].load(t, 0, d) - o));
      }
  });
  const CaseResult result = judge(kernel, parse_case("dense(lens=600,regime=diffuse,dtype=fp16)"));
  EXPECT_EQ(result.verdict, Verdict::value_out_of_bound);
  EXPECT_EQ(largest_direction(result).fault, std::string("last key dropped or counted twice"));
  EXPECT_LT(largest_direction(result).z(), 0);  // counted more, not less
}

TEST(DirectionTest, NamesAFactorOfO) {
  const Kernel kernel = altered([](const AnyCall& call) {
    for (std::int64_t t = 0; t < call["o"].tokens; ++t)
      for (std::int64_t h = 0; h < call["o"].heads; ++h)
        for (std::int64_t d = 0; d < call["o"].dim; ++d) call["o"].store(t, h, d, 0.97 * call["o"].load(t, h, d));
  });
  const Faults faults = named_faults(judge(kernel, parse_case("dense(lens=300,heads=2)")));
  ASSERT_EQ(faults.size(), 1u);
  EXPECT_EQ(faults[0].substr(0, 15), "o scaled by 0.9") << faults[0];
  EXPECT_NEAR(std::stod(faults[0].substr(12)), 0.97, 0.002);
}

TEST(DirectionTest, NamesWeightsThatAreTruncated) {
  const Kernel kernel = altered([](const AnyCall& call) {
    for (std::int64_t t = 0; t < call["o"].tokens; ++t) {
      std::vector<double> scores;
      for (std::int64_t j = 0; j <= t; ++j)
        scores.push_back(call.problem.attention.scale * call["q"].row(t, 0).dot(call["k"].row(j, 0)));
      const double largest = *std::max_element(scores.begin(), scores.end());
      double sum = 0;
      Vector o = Vector::Zero(call["o"].dim);
      for (std::int64_t j = 0; j <= t; ++j) {
        const double weight = std::exp(scores[static_cast<std::size_t>(j)] - largest);
        const double spacing = std::exp2(std::floor(std::log2(weight)) - 7);  // of bf16
        sum += weight;
        o += std::floor(weight / spacing) * spacing * call["v"].row(j, 0);
      }
      for (std::int64_t d = 0; d < call["o"].dim; ++d) call["o"].store(t, 0, d, o[d] / sum);
    }
  });
  EXPECT_EQ(named_faults(judge(kernel, parse_case("dense(lens=600)"))), Faults{"weights truncated"});
}

TEST(DirectionTest, CallsAClippedScaleNothingElse) {
  for (const char* text : {"dense(lens=200,scale=0.5)", "dense(lens=300,heads=2,scale=0.2)", "dense(lens=200,scale=2)",
                           "dense(lens=200,scale=8)", "dense(lens=300,heads=4,scale=64)"}) {
    const Case c = parse_case(text);
    const CaseResult result = judge(with_scale_of_o_off(0.125 / c.scale), c);
    EXPECT_GT(result.outputs.at(0).findings, 0);
    for (const std::string& fault : named_faults(result)) EXPECT_EQ(fault, "softmax scale off") << text;
  }
}

TEST(DirectionTest, DoesNotCountRowsThatRoundAlike) {  // every row has the same o, which is rounded once for all
  const Case c = parse_case("selected(lens=15,dk=68,dv=35,block=15,causal=0,scale=5.960464477539063e-08,seed=731257)");
  EXPECT_EQ(judge(find_kernel("model:moba+fp32_weights"), c).verdict, Verdict::pass);
}

TEST(DirectionTest, IsSilentWhereRowsAreGrosslyWrong) {
  const Kernel kernel = altered([](const AnyCall& call) {  // each row has the o of the next token
    for (std::int64_t t = 0; t + 1 < call["o"].tokens; ++t)
      for (std::int64_t d = 0; d < call["o"].dim; ++d) call["o"].store(t, 0, d, call["o"].load(t + 1, 0, d));
  });
  EXPECT_EQ(named_faults(judge(kernel, parse_case("dense(lens=300)"))), Faults{});
}

}  // namespace
}  // namespace attnspec::verify
