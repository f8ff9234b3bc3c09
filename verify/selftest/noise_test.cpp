// The noise prediction against what it must be by its own definition, and against the model kernel's errors.

#include <gtest/gtest.h>

#include <cmath>
#include <string>

#include "reference/gate_noise.hpp"
#include "reference/gradient_noise.hpp"
#include "reference/moba.hpp"
#include "verify/judge.hpp"
#include "verify/kernel.hpp"
#include "verify/random.hpp"
#include "verify/regimes.hpp"

namespace attnspec::verify {
namespace {

using namespace reference;

TEST(RowLimit, IsOnePlusKappaForOneDirectionAndShrinksWithMany) {
  const Vector x = Vector::Constant(8, 2);
  EXPECT_NEAR(effective_terms(x * x.transpose()), 1, 1e-12);
  EXPECT_NEAR(effective_terms(Matrix::Identity(8, 8)), 8, 8 * 0.07);  // the bound of the eigenvalue is dim^(1/32)
  EXPECT_LE(effective_terms(Matrix::Identity(8, 8)), 8);
  EXPECT_NEAR(effective_terms(1e-200 * Matrix(Matrix::Identity(8, 8))), 8, 8 * 0.07);
  EXPECT_EQ(row_limit(1), 1 + kKappa);
  EXPECT_EQ(row_limit(49), 2);
}

TEST(RoundingVariance, IsThatOfARoundingWithALogUniformMantissa) {
  const Random random(5, "mantissa");
  for (const Format format : {Format::bf16, Format::fp16}) {
    double measured = 0, predicted = 0;
    for (std::uint64_t i = 0; i < 200000; ++i) {
      const double x = std::exp2(static_cast<double>(random.bits(i) >> 11) * 0x1p-53 * 8 - 4);
      measured += std::pow((round_to(x, format) - x) / x, 2);
      predicted += rounding_variance(x, format) / (x * x);
    }
    EXPECT_NEAR(measured / predicted, 1, 0.02);
  }
}

/// One query row of a case, on the blocks the reference selects.
struct OneRow {
  Case c = parse_case("moba(lens=200,heads=1,dk=16,dv=8,block=16,top_k=5)");
  Inputs inputs = make_inputs(c);
  MobaProblem problem = problem_of(c);
  Profile profile{};
  Sequence sequence = sequences(problem.attention)[0];
  std::vector<KeyRange> visible =
      visible_keys(moba_select(problem, inputs.q, inputs.k).row(150, 0), causal_reach(150, 200, true), 200, c.block);
  RowInputs in{inputs.q.row(150, 0), inputs.k.rows(0, 200, 0), inputs.v.rows(0, 200, 0), visible, c.scale};
};

TEST(Covariance, HasTheVariancesOnItsDiagonalAndIsPositive) {
  OneRow r;
  for (const Normaliser normaliser : {Normaliser::sums_unrounded, Normaliser::sums_rounded}) {
    r.profile.normaliser = normaliser;
    const AttendedRow row = attend(r.in.q, r.in.k, r.in.v, r.visible, r.in.scale);
    const Matrix covariance = attention_covariance(r.profile, r.in, row);
    const AttentionNoise noise = attention_noise(r.profile, r.in, row);
    EXPECT_TRUE(covariance.diagonal().isApprox(noise.o.variance));
    EXPECT_TRUE(covariance.isApprox(covariance.transpose()));
    for (int trial = 0; trial < 20; ++trial) {
      const Vector x = Vector::Random(8);
      EXPECT_GE(x.dot(covariance * x), 0);
    }
    const Vector d_o = Vector::Ones(8);
    const RowGiven given{d_o, row.o, row.lse};
    const RowGradient gradient = attend_backward(r.in.q, r.in.k, r.in.v, r.visible, r.in.scale, d_o, row.o, row.lse);
    const Vector dq = query_gradient(gradient, r.in.k, r.visible, r.in.scale);
    const GradientTerms terms = gradient_terms(r.profile, r.in, given, gradient);
    EXPECT_TRUE(query_gradient_covariance(r.profile, r.in, terms, gradient, dq)
                    .diagonal()
                    .isApprox(query_gradient_noise(r.profile, r.in, terms, gradient, dq).variance));
  }
}

TEST(AttentionNoise, OfARowThatSeesNothingIsZero) {
  OneRow r;
  const AttendedRow row = attend(r.in.q, r.in.k, r.in.v, {}, r.in.scale);
  const AttentionNoise noise = attention_noise(r.profile, {r.in.q, r.in.k, r.in.v, {}, r.in.scale}, row);
  EXPECT_TRUE(noise.o.worst.isZero() && noise.o.variance.isZero() && noise.o.floor.isZero());
  EXPECT_EQ(noise.lse.worst[0], 0);
}

TEST(ScoreMargins, GrowWithTheRoundingOfMeanKeysAndStayBelowTheWorstCase) {
  OneRow r;
  const Matrix pooled = pool_keys(r.in.k, 16);
  const PoolNoise noise = pool_noise(r.in.k, pooled, 16);
  const Vector scores = gate_scores(r.in.q, Rows(pooled.data(), pooled.rows(), 16));
  const Vector fp32 = score_margins(r.profile, r.in.q, pooled, noise, scores);
  r.profile.pooled = Format::bf16;
  const Vector bf16 = score_margins(r.profile, r.in.q, pooled, noise, scores);
  for (Eigen::Index b = 0; b < scores.size(); ++b) {
    EXPECT_GT(bf16[b], 1000 * fp32[b]);
    EXPECT_LE(bf16[b],
              1.01 * unit_roundoff(Format::bf16) * (r.in.q.array() * pooled.row(b).transpose().array()).abs().sum());
    Vector mean = pooled.row(b).transpose();
    for (double& x : mean) x = round_to(x, Format::bf16);
    EXPECT_LE(std::abs(r.in.q.dot(mean) - scores[b]), bf16[b]);
  }
}

/// Correct kernels whose errors spread over many roundings show a root mean square R near 1.
TEST(ModelKernel, MakesTheNoiseThatIsPredicted) {
  for (const char* text :
       {"moba(lens=700,heads=2,block=32,top_k=8,seed=3)", "moba(lens=700,heads=2,block=32,top_k=8,dtype=fp16,seed=3)",
        "moba(lens=700,heads=2,block=32,top_k=8,regime=diffuse,seed=3)"}) {
    const CaseResult result = judge(find_kernel("model:moba"), parse_case(text));
    EXPECT_EQ(result.verdict, Verdict::pass);
    for (const OutputSummary& output : result.outputs) {
      if (output.output == "selection" || output.output == "lse") continue;
      const double rms = std::sqrt(output.sum_r_squared / static_cast<double>(output.rows));
      EXPECT_GT(rms, 0.5) << text << " " << output.output;
      EXPECT_LT(rms, 1.3) << text << " " << output.output;
    }
  }
}

}  // namespace
}  // namespace attnspec::verify
