// The noise prediction against what it must be by its own definition, and against the model kernel's errors.

#include <gtest/gtest.h>

#include <cmath>
#include <string>

#include "reference/moba/moba.hpp"
#include "reference/noise/attention_noise.hpp"
#include "reference/noise/gate_noise.hpp"
#include "reference/noise/gradient_noise.hpp"
#include "reference/noise/importance_noise.hpp"
#include "reference/noise/nsa_gate_noise.hpp"
#include "verify/cases/random.hpp"
#include "verify/cases/regimes.hpp"

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
  Arithmetic arithmetic{};
  KeyValues keys{inputs.k.rows(0, 200, 0), inputs.v.rows(0, 200, 0)};
  std::vector<KeyRange> visible =
      visible_keys(moba_select(problem, inputs.q, inputs.k).row(150, 0), causal_reach(150, 200, true), 200, c.block);
  RowInputs in{inputs.q.row(150, 0), keys, visible, c.scale};
  AttendedRow row = attend({in.q, keys.k, keys.v}, visible, c.scale);
};

/// A covariance has the predicted variances on its diagonal, is positive, and is what `along` says it is.
void expect_consistent(const Covariance& covariance, const Vector& variance) {
  const Matrix matrix = covariance.matrix();
  EXPECT_TRUE(matrix.diagonal().isApprox(variance));
  EXPECT_TRUE(matrix.isApprox(matrix.transpose()));
  for (int trial = 0; trial < 20; ++trial) {
    const Vector w = Vector::Random(matrix.rows());
    EXPECT_GE(w.dot(matrix * w), 0);
    EXPECT_NEAR(covariance.along(w), w.dot(matrix * w), 1e-12 * matrix.trace() * w.squaredNorm());
  }
}

TEST(Covariance, AgreesWithTheVariancesOfEveryOutputInEveryArithmetic) {
  OneRow r;
  const Vector d_o = Vector::Ones(8);
  std::vector<ArithmeticOptions> sets{{}};
  for (const ArithmeticOption& option : arithmetic_options())
    if (contradiction({option.name}).empty()) sets.push_back({option.name});
  sets.push_back({"rounded_partials", "rounded_head_gradients", "rounded_gradient_sums", "bf16_partials"});
  for (const ArithmeticOptions& set : sets) {
    const Arithmetic arithmetic = make_arithmetic(Format::fp16, set);
    const AttentionNoise noise = attention_noise(arithmetic, r.in, r.row);
    expect_consistent({noise.errors, r.keys.v, r.visible, r.row.o, noise.o.rounding}, noise.o.variance);
    const RowGiven given{d_o, r.row.lse, delta_of_output(d_o, r.row.o)};
    const RowGradient gradient =
        attend_backward({r.in.q, r.keys.k, r.keys.v}, r.visible, r.in.scale, d_o, r.row.o, r.row.lse);
    const Vector dq = query_gradient(gradient, r.keys.k, r.visible, r.in.scale);
    const GradientTerms terms = gradient_terms(arithmetic, r.in, given, gradient);
    const GradientNoise dq_noise =
        query_gradient_noise(arithmetic, r.in, terms, gradient, dq, r.in.scale, std::vector<int>(r.visible.size(), 0));
    expect_consistent({dq_noise.errors, r.keys.k, r.visible, dq, dq_noise.noise.rounding}, dq_noise.noise.variance);

    const KeyRange range = r.visible.front(), in_sum{0, range.end - range.begin}, one{0, 1};
    const RowInputs part{r.in.q, r.keys, {&range, 1}, r.in.scale};
    const RowGradient of_range =
        attend_backward({r.in.q, r.keys.k, r.keys.v}, part.visible, r.in.scale, d_o, r.row.o, r.row.lse);
    KeyGradient sum{Matrix::Zero(16, 16), Matrix::Zero(16, 8)};
    add_key_gradient(of_range, {&in_sum, 1}, r.in.q, d_o, r.in.scale, sum);
    KeyTerms key_terms(1, 16, 16, 8, r.in.scale, 1);
    key_terms.set(arithmetic, 0, range.begin, part, given, of_range, gradient_terms(arithmetic, part, given, of_range));
    const Vector dk = sum.dk.row(3).transpose(), dv = sum.dv.row(3).transpose();
    const GradientNoise dk_noise = key_gradient_noise(arithmetic, key_terms, 3, dk);
    const GradientNoise dv_noise = value_gradient_noise(arithmetic, key_terms, 3, dv);
    expect_consistent({dk_noise.errors, view(key_terms.q), {&one, 1}, dk, dk_noise.noise.rounding},
                      dk_noise.noise.variance);
    expect_consistent({dv_noise.errors, view(key_terms.d_o), {&one, 1}, dv, dv_noise.noise.rounding},
                      dv_noise.noise.variance);
  }
}

TEST(AttentionNoise, OfARowThatSeesNothingIsZero) {
  OneRow r;
  const AttendedRow row = attend({r.in.q, r.keys.k, r.keys.v}, {}, r.in.scale);
  const AttentionNoise noise = attention_noise(r.arithmetic, {r.in.q, r.keys, {}, r.in.scale}, row);
  EXPECT_TRUE(noise.o.worst.isZero() && noise.o.variance.isZero() && noise.o.floor.isZero());
  EXPECT_EQ(noise.lse.worst[0], 0);
}

TEST(AttentionNoise, OfPartialOutputsIsTheirRounding) {
  OneRow r;
  const Arithmetic plain = make_arithmetic(Format::bf16, {"fp32_weights", "fp32_out"});
  const Arithmetic rounded = make_arithmetic(Format::bf16, {"fp32_weights", "fp32_out", "rounded_partials"});
  const Vector added =
      attention_noise(rounded, r.in, r.row).o.variance - attention_noise(plain, r.in, r.row).o.variance;
  Vector expected = Vector::Zero(8);
  Eigen::Index i = 0;
  for (const auto& [begin, end] : r.visible) {  // one rounding of each block's part of o
    const Vector part = r.keys.v.middleRows(begin, end - begin).transpose() * r.row.weights.segment(i, end - begin);
    expected += square(kRounding * unit_roundoff(Format::bf16)) * part.cwiseAbs2();
    i += end - begin;
  }
  EXPECT_TRUE(added.isApprox(expected, 1e-3));
}

TEST(AttentionNoise, OfPartialOutputsThatAgreeIsOneRounding) {
  OneRow r;
  r.inputs.v.values.assign(r.inputs.v.values.size(), 0.3);
  const KeyValues keys{r.keys.k, r.inputs.v.rows(0, 200, 0)};
  const RowInputs in{r.in.q, keys, r.visible, r.in.scale};
  const AttendedRow row = attend({in.q, keys.k, keys.v}, r.visible, in.scale);
  const auto variance = [&](const ArithmeticOptions& options) {
    return attention_noise(make_arithmetic(Format::bf16, options), in, row).o.variance;
  };
  const Vector added =
      variance({"fp32_weights", "fp32_out", "rounded_partials"}) - variance({"fp32_weights", "fp32_out"});
  EXPECT_TRUE(added.isApprox(Vector::Constant(8, rounding_variance(0.3, Format::bf16)), 1e-3));
}

TEST(KeyGradientNoise, HasTheErrorOfTheScaleThatAllScoresShare) {  // A4
  KeyTerms terms(1, 1, 4, 4, 0.5, 1);
  terms.q << 1, -2, 3, 0.25;
  terms.q_squares = terms.q.cwiseAbs2();
  terms.q_magnitudes = terms.q.cwiseAbs();
  for (Matrix* matrix : {&terms.d_o, &terms.d_o_squares, &terms.d_o_magnitudes}) matrix->setZero();
  terms.complete();
  const auto variance = [&]() -> Vector {
    return key_gradient_noise(Arithmetic{}, terms, 0, Vector::Ones(4)).noise.variance;
  };
  const Vector without = variance();
  terms.ds_by_scale(0, 0) = 1e4;
  const Vector expected = square(kScaleError * 0.5 * 1e4) * terms.q_squares.row(0).transpose();
  EXPECT_TRUE((variance() - without).isApprox(expected, 1e-6));
}

TEST(EqualGroups, HoldIndicesOfEqualValuesOnly) {
  const Vector values{{3, 1, 2, 1, 0, 0, 2 + 0x1p-30, 5}};
  EXPECT_EQ(equal_groups(values), (Groups{{1, 3}, {2, 6}}));
  EXPECT_EQ(equal_groups(Vector{{3, 1, 2}}), Groups{});
}

TEST(RepetitionVariance, IsThatOfDriftsAndNoMoreThanTheTermsThemselves) {
  const double u = unit_roundoff(Format::fp32);
  EXPECT_EQ(repetition_variance(u, Vector{{0.1, 0.2, 0.7}}), 0);
  EXPECT_NEAR(repetition_variance(u, Vector::Constant(100, 3)) / square(100 * kRounding * u / 2), 1, 1e-9);
  const Vector tiny{{1e-12, 1e-12, 1}};
  EXPECT_NEAR(repetition_variance(u, tiny) / square(2e-12), 1, 1e-6);
}

TEST(Drift, IsWhatRepeatedAdditionInSinglePrecisionDoes) {  // 0.1f added 4096 times
  float sum = 0;
  for (int i = 0; i < 4096; ++i) sum += 0.1f;
  const double exact = 4096 * static_cast<double>(0.1f), error = std::abs(sum - exact) / exact;
  const double independent = std::sqrt(accumulation_variance(unit_roundoff(Format::fp32), 4096, 0, 1));
  const double drifting = std::sqrt(repetition_variance(unit_roundoff(Format::fp32), Vector::Constant(4096, 0.1)));
  EXPECT_GT(error, kKappa * independent);
  EXPECT_LT(error, kKappa * drifting);
}

TEST(ScoreMargins, GrowWithTheRoundingOfMeanKeysAndStayBelowTheWorstCase) {
  OneRow r;
  const Matrix pooled = pool_keys(r.keys.k, 16);
  const PoolNoise noise = pool_noise(r.keys.k, pooled, 16);
  const Vector scores = gate_scores(r.in.q, view(pooled));
  const Vector fp32 = score_margins(r.arithmetic, r.in.q, pooled, noise, scores);
  r.arithmetic.pooled = Format::bf16;
  const Vector bf16 = score_margins(r.arithmetic, r.in.q, pooled, noise, scores);
  for (Eigen::Index b = 0; b < scores.size(); ++b) {
    EXPECT_GT(bf16[b], 1000 * fp32[b]);
    EXPECT_LE(bf16[b],
              1.01 * unit_roundoff(Format::bf16) * (r.in.q.array() * pooled.row(b).transpose().array()).abs().sum());
    Vector mean = pooled.row(b).transpose();
    for (double& x : mean) x = round_to(x, Format::bf16);
    EXPECT_LE(std::abs(r.in.q.dot(mean) - scores[b]), bf16[b]);
  }
}

TEST(ScoreMargins, HoldWhatFlushingTakesFromScores) {
  const Vector q = Vector::Constant(4, 0x1p-120), mean = Vector::Constant(4, 0x1p-124);
  const Matrix pooled = mean.transpose();
  const Matrix keys = pooled;
  const PoolNoise noise = pool_noise(view(keys), pooled, 1);
  const Vector scores = gate_scores(q, view(pooled));  // all products are 0 in fp32
  EXPECT_GT(score_margins(Arithmetic{}, q, pooled, noise, scores)[0], scores[0]);
  const Vector large = Vector::Constant(4, 0x1p100);  // flushed means
  EXPECT_GE(score_margins(Arithmetic{}, large, pooled, noise, gate_scores(large, view(pooled)))[0], 4 * 0x1p-24);
}

TEST(AlikeRows, AreThoseThatTheirSumCannotTellApart) {
  Matrix rows(5, 2);
  rows << 1, 2, 1 + 0x1p-23, 2, 3, 4, 1, 2 + 0x1p-20, 0, 0;
  const Groups groups = alike_rows(view(rows));  // sums of magnitudes 6 and 10, times 2^-24
  ASSERT_EQ(groups.size(), 1u);
  EXPECT_EQ(groups[0], (std::vector<Eigen::Index>{0, 1}));
}

TEST(GatedNoise, HoldsWhatFlushingTakesFromAnOutputBehindALargeGate) {
  const Vector tiny = Vector::Constant(2, 0x1p-127), zero = Vector::Zero(2);
  const PredictedRow row = gated_noise(Arithmetic{}, Vector{{100, 0, 0}}, BranchRows{tiny, zero, zero});
  EXPECT_GE(row.sum.noise.floor[0], 100 * 0x1p-127);  // a kernel that flushes o gives 0
}

/// Root mean square of errors over their margins. Other roundings would change it by 1 / sqrt(2 n).
class ErrorsInMargins {
 public:
  void add(double error, double margin) {
    squares_ += square(error / margin);
    ++n_;
  }
  double rms() const { return std::sqrt(squares_ / static_cast<double>(n_)); }

 private:
  double squares_ = 0;
  std::int64_t n_ = 0;
};

TEST(ScoreMargins, AreAsLargeAsWhatSinglePrecisionDoesHasThem) {
  OneRow r;
  const Matrix pooled = pool_keys(r.keys.k, 16);
  const PoolNoise noise = pool_noise(r.keys.k, pooled, 16);
  Eigen::MatrixXf means(pooled.rows(), pooled.cols());
  for (Eigen::Index b = 0; b < means.rows(); ++b) {
    const Eigen::Index n = std::min<Eigen::Index>(16, 200 - 16 * b);
    for (Eigen::Index d = 0; d < means.cols(); ++d) {
      float sum = 0;
      for (Eigen::Index j = 0; j < n; ++j) sum += static_cast<float>(r.keys.k(16 * b + j, d));
      means(b, d) = sum / static_cast<float>(n);
    }
  }
  ErrorsInMargins errors;
  for (std::int64_t t = 0; t < 200; ++t) {
    const Vector q = r.inputs.q.row(t, 0), exact = gate_scores(q, view(pooled));
    const Vector margins = score_margins(make_arithmetic(Format::bf16), q, pooled, noise, exact);
    for (Eigen::Index b = 0; b < exact.size(); ++b) {
      float score = 0;
      for (Eigen::Index d = 0; d < q.size(); ++d) score += static_cast<float>(q[d]) * means(b, d);
      errors.add(score - exact[b], margins[b]);
    }
  }
  EXPECT_NEAR(errors.rms(), 0.042, 0.08 * 0.042);
}

TEST(ImportanceMargins, AreAsLargeAsWhatSinglePrecisionDoesHasThem) {
  const Case c = parse_case("nsa_compressed(lens=400,heads=4,kv_heads=1,compress_block=8,compress_stride=4,block=16)");
  const NsaProblem problem = nsa_problem_of(c);
  const Inputs in = make_inputs(c);
  const std::int64_t rows = in.k.tokens;
  const Matrix weights = overlap_weights(problem, rows, 25);
  const KeyValues keys(in.k.rows(0, rows, 0), view(weights));
  ErrorsInMargins errors;
  for (std::int64_t t = 15; t < 400; t += 16) {
    const Matrix q = group_queries(problem, in.q, t, 0);
    const Vector exact = importance(problem, q, keys.k, t).importance;
    const Vector margins = importance_margins(make_arithmetic(Format::bf16), problem, q, keys, t, exact);
    const Eigen::Index blocks = t / 16 + 1;
    ASSERT_EQ(margins.size(), blocks);
    Vector computed = Vector::Zero(blocks);
    for (Eigen::Index h = 0; h < 4; ++h) {
      std::vector<float> p;
      float sum = 0;
      for (std::int64_t i = 0; i < num_visible_compressed(problem, t); ++i) {
        float score = 0;
        for (Eigen::Index d = 0; d < 64; ++d) score += static_cast<float>(q(h, d)) * static_cast<float>(keys.k(i, d));
        p.push_back(std::exp(0.125f * score));
        sum += p.back();
      }
      for (std::size_t i = 0; i < p.size(); ++i)
        computed += p[i] / sum * weights.row(static_cast<Eigen::Index>(i)).head(blocks).transpose();
    }
    for (Eigen::Index j = 0; j < blocks; ++j) {
      errors.add(computed[j] - exact[j], margins[j]);
      EXPECT_LE(std::abs(computed[j] - exact[j]), margins[j]);
      EXPECT_LE(margins[j], 4e-6 * exact[j]);
    }
  }
  EXPECT_NEAR(errors.rms(), 0.06, 0.08 * 0.06);
  EXPECT_TRUE(importance_margins(make_arithmetic(Format::bf16), problem, group_queries(problem, in.q, 5, 0), keys, 5,
                                 Vector::Zero(1))
                  .isZero());  // no visible row
}

}  // namespace
}  // namespace attnspec::verify
