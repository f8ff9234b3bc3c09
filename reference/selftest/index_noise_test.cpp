// The margins of MSA's, DSA's and QSA's scores against what kernels make that add in fp32 in any order: no correct
// kernel exceeds them, and they are not much wider than the worst that was seen.

#include <gtest/gtest.h>

#include <algorithm>
#include <cmath>
#include <iostream>
#include <map>
#include <numeric>
#include <string>
#include <vector>

#include "reference/noise/msa_noise.hpp"
#include "reference/noise/qsa_noise.hpp"
#include "verify/cases/random.hpp"

namespace attnspec::verify {
namespace {

using namespace reference;

constexpr std::int64_t kFeatures = 128, kKeys = 96;

enum class Data { normal, offset, wandering, alternating, equal, tiny };
constexpr Data kAllData[] = {Data::normal, Data::offset, Data::wandering, Data::alternating, Data::equal, Data::tiny};
constexpr const char* kDataNames[] = {"normal", "offset", "wandering", "alternating", "equal", "tiny"};

/// Rows of numbers of a format.
Matrix draw(std::int64_t rows, std::int64_t columns, Data data, Format format, std::uint64_t seed,
            const std::string& name) {
  const Random random(seed, name);
  Matrix result(rows, columns);
  for (Eigen::Index i = 0; i < rows; ++i)
    for (Eigen::Index d = 0; d < columns; ++d) {
      double x = random.normal(static_cast<std::uint64_t>(i * columns + d));
      if (data == Data::offset) x += 3;
      if (data == Data::wandering) x = std::abs(x) * (name == "q" && d >= columns / 2 ? -1 : 1);
      if (data == Data::alternating) x = (1 + std::abs(x) / 8) * (name == "q" && d % 2 == 0 ? -1 : 1);
      if (data == Data::equal) x = 0.1 + static_cast<double>(random.below(1000, static_cast<std::uint64_t>(i))) / 500;
      if (data == Data::tiny) x *= 0x1p-62;
      result(i, d) = round_to(x, format);
    }
  return result;
}

/// fp32 as a kernel has it: it may flush, and a tensor core cuts what it adds to an accumulator.
class Kernel {
 public:
  Kernel(std::uint64_t seed, bool flushes) : random_(seed, "kernel"), flushes_(flushes) {}

  float flush(double x) const {
    const auto rounded = static_cast<float>(x);
    return flushes_ && std::abs(rounded) < kFlushed ? 0 : rounded;
  }

  /// sum of a_i b_i in one of four orders: as they stand, shuffled, in eight lanes, or by sixteen on a tensor core.
  float dot(const Vector& a, const Vector& b, bool has_tensor_core) {
    const auto n = static_cast<std::size_t>(a.size());
    std::vector<Eigen::Index> order(n);
    std::iota(order.begin(), order.end(), 0);
    const std::uint64_t kind = random_.below(has_tensor_core ? 4 : 3, next_++);
    if (kind == 1)
      for (std::size_t i = n - 1; i > 0; --i) std::swap(order[i], order[random_.below(i + 1, next_++)]);
    if (kind == 3) {
      float sum = 0;
      for (std::size_t begin = 0; begin < n; begin += 16) {
        double chunk = sum;
        for (std::size_t i = begin; i < std::min(n, begin + 16); ++i) chunk += a[order[i]] * b[order[i]];
        sum = flush(round_to_zero(chunk));
      }
      return sum;
    }
    float lanes[8] = {};
    for (std::size_t i = 0; i < n; ++i) {
      float& lane = lanes[kind == 2 ? i % 8 : 0];
      lane = flush(lane + static_cast<double>(flush(a[order[i]] * b[order[i]])));
    }
    for (std::size_t step = 4; step > 0; step /= 2)
      for (std::size_t i = 0; i < step; ++i) lanes[i] = flush(static_cast<double>(lanes[i]) + lanes[i + step]);
    return lanes[0];
  }

 private:
  static double round_to_zero(double x) {
    const auto rounded = static_cast<float>(x);
    return std::abs(rounded) > std::abs(x) ? std::nextafter(rounded, 0.0f) : rounded;
  }

  Random random_;
  bool flushes_;
  std::uint64_t next_ = 0;
};

/// The largest error over margin by data, of scores that none may exceed.
class Worst {
 public:
  void add(Data data, const Vector& observed, const Vector& expected, const Vector& margins) {
    for (Eigen::Index b = 0; b < expected.size(); ++b) {
      const double error = std::abs(observed[b] - expected[b]);
      EXPECT_LE(error, margins[b]) << kDataNames[static_cast<int>(data)] << " score " << expected[b];
      if (margins[b] > 0) worst_[data] = std::max(worst_[data], error / margins[b]);
    }
  }

  /// Prints the largest parts, and expects that of normal data to be at least `least`.
  void expect_at_least(double least) const {
    for (const auto& [data, part] : worst_)
      std::cout << kDataNames[static_cast<int>(data)] << ": largest part of the margin " << part << "\n";
    EXPECT_GE(worst_.at(Data::normal), least);
  }

 private:
  std::map<Data, double> worst_;
};

struct Setting {
  Arithmetic arithmetic;
  Format input;
  bool has_tensor_core;
};

std::vector<Setting> settings() {
  return {{make_arithmetic(Format::bf16), Format::bf16, true},
          {make_arithmetic(Format::fp16), Format::fp16, true},
          {make_arithmetic(Format::bf16, {"fp32_weights"}), Format::bf16, false},
          {make_arithmetic(Format::fp32), Format::fp32, false}};
}

/// Calls test(setting, data, features, seed) for all of them, with few features too: there the products hardly round,
/// and what follows them does.
template <class Test>
void for_each_setting(std::uint64_t seeds, const Test& test) {
  for (const Setting& s : settings())
    for (const Data data : kAllData)
      for (const std::int64_t features : {std::int64_t{2}, kFeatures})
        for (std::uint64_t seed = 0; seed < seeds; ++seed) test(s, data, features, seed);
}

/// n^-1/2, which some kernels multiply by for di features or Hi heads.
float inverse_root(std::int64_t n) { return 1 / std::sqrt(static_cast<float>(n)); }

TEST(MsaMargin, HoldsSumsInAnyOrderAndIsAtMostFourTimesTheWorst) {
  Worst worst;
  for_each_setting(40, [&](const Setting& s, Data data, std::int64_t features, std::uint64_t seed) {
    const MsaProblem problem{{}, features, 16, 2};
    const Matrix q = draw(1, features, data, s.input, seed, "q"), k = draw(kKeys, features, data, s.input, seed, "k");
    const Vector query = q.row(0).transpose();
    Kernel kernel(seed, data == Data::tiny);
    const float scale = seed % 2 == 0 ? 1.0f : inverse_root(features);
    Vector scores(kKeys);
    for (Eigen::Index j = 0; j < kKeys; ++j) {
      const float score = kernel.dot(query, k.row(j).transpose(), s.has_tensor_core);
      scores[j] = kernel.flush(static_cast<double>(score) * scale);
    }
    worst.add(data, block_maxima(scores, problem.block) / scale,
              block_maxima(index_scores(query, view(k)), problem.block),
              score_margins(s.arithmetic, problem, query, view(k), max_ties_of_rows(view(k))));
  });
  worst.expect_at_least(0.25);
}

/// G7, under every arithmetic and for one head and several.
TEST(ScoreBounds, AreNoLessThanMarginsAndNotFarAbove) {
  double closest = 1e9;
  for_each_setting(4, [&](const Setting& s, Data data, std::int64_t features, std::uint64_t seed) {
    const MsaProblem problem{{}, features, 16, 2};
    const Matrix q = draw(3, features, data, s.input, seed, "q"), k = draw(kKeys, features, data, s.input, seed, "k");
    const Vector w = draw(1, 3, Data::normal, Format::fp32, seed, "w").row(0).transpose(), norms = k.rowwise().norm();
    const Vector ties = max_ties_of_rows(view(k)), query = q.row(0).transpose();
    for (const Arithmetic& arithmetic :
         {s.arithmetic, make_arithmetic(Format::fp32, {"tf32"}), make_arithmetic(Format::fp32, {"tf32x3"})}) {
      const Vector of_dsa = score_margins(arithmetic, q, w, view(k), ties),
                   of_msa = score_margins(arithmetic, problem, query, view(k), ties),
                   bounds = score_bounds(arithmetic, q, w, norms),
                   bounds_of_msa = score_bounds(arithmetic, problem, query, norms);
      const double rounding = 0x1p-50 * q.norm() * norms.maxCoeff();  // of a margin, which is a difference of doubles
      EXPECT_LE(((1 - 0x1p-40) * of_dsa - bounds).maxCoeff(), rounding);
      EXPECT_LE(((1 - 0x1p-40) * of_msa - bounds_of_msa).maxCoeff(), rounding);
      if (data == Data::normal) closest = std::min(closest, (bounds_of_msa.array() / of_msa.array()).minCoeff());
    }
  });
  EXPECT_LT(closest, 100);
}

/// Operands that tensor cores take as tf32, rounded or cut, on fp32 inputs.
TEST(MsaMargin, HoldsProductsOfTf32) {
  const MsaProblem problem{{}, kFeatures, 1, 2};
  for (const auto& [option, format] : {std::pair("tf32", Format::tf32), std::pair("tf32_truncated", Format::tf32_cut)})
    for (const Data data : {Data::normal, Data::offset, Data::alternating}) {
      const Matrix q = draw(1, kFeatures, data, Format::fp32, 7, "q"),
                   k = draw(kKeys, kFeatures, data, Format::fp32, 7, "k");
      const auto operand = [format = format](double x) { return round_to(x, format); };
      const Vector query = q.row(0).transpose(), expected = index_scores(query, view(k));
      const Vector margins =
          score_margins(make_arithmetic(Format::fp32, {option}), problem, query, view(k), max_ties_of_rows(view(k)));
      Kernel kernel(7, false);
      for (Eigen::Index j = 0; j < kKeys; ++j) {
        const Vector key = k.row(j).transpose().unaryExpr(operand);
        EXPECT_LE(std::abs(kernel.dot(query.unaryExpr(operand), key, true) - expected[j]), margins[j]) << option;
      }
      EXPECT_GT(
          margins.mean(),
          10 * score_margins(make_arithmetic(Format::fp32), problem, query, view(k), max_ties_of_rows(view(k))).mean());
    }
}

/// Where and when a kernel multiplies a score by its constants.
struct Scales {
  float in_relu = 1, in_weight = 1, at_end = 1;
  double product() const { return static_cast<double>(in_relu) * in_weight * at_end; }
};

Vector simulated_scores(Kernel& kernel, const Setting& s, const Scales& scales, const Matrix& qi, const Vector& w,
                        const Matrix& ki) {
  Vector scores(ki.rows()), weights(w.size()), positive(w.size());
  for (Eigen::Index h = 0; h < w.size(); ++h) weights[h] = kernel.flush(w[h] * scales.in_weight);
  for (Eigen::Index j = 0; j < ki.rows(); ++j) {
    for (Eigen::Index h = 0; h < w.size(); ++h) {
      const float x = kernel.dot(qi.row(h).transpose(), ki.row(j).transpose(), s.has_tensor_core);
      positive[h] = std::max(0.0f, kernel.flush(static_cast<double>(x) * scales.in_relu));
    }
    scores[j] = kernel.flush(static_cast<double>(kernel.dot(positive, weights, false)) * scales.at_end);
  }
  return scores / scales.product();
}

TEST(DsaMargin, HoldsSumsInAnyOrderAndIsAtMostFourTimesTheWorst) {
  Worst worst;
  for_each_setting(12, [&](const Setting& s, Data data, std::int64_t features, std::uint64_t seed) {
    const std::int64_t heads = features == kFeatures ? 8 : 64;
    const float by_features = inverse_root(features), by_heads = inverse_root(heads);
    const Scales scales[] = {
        {}, {by_features, by_heads, 1}, {1, by_features * by_heads, 1}, {1, by_heads, by_features}};
    const Matrix qi = draw(heads, features, data, s.input, seed, "q");
    const Matrix ki = draw(kKeys, features, data, s.input, seed, "k");
    const double weight = data == Data::tiny ? 1000 : 1;  // what flushes before it meets a large weight
    const Vector w = weight * draw(1, heads, Data::normal, Format::bf16, seed, "w").row(0).transpose();
    Kernel kernel(seed, data == Data::tiny);
    worst.add(data, simulated_scores(kernel, s, scales[seed % 4], qi, w, ki), index_scores(qi, w, view(ki)),
              score_margins(s.arithmetic, qi, w, view(ki), max_ties_of_rows(view(ki))));
  });
  worst.expect_at_least(0.25);
}

/// A flushed weight takes its whole term.
TEST(DsaMargin, HoldsAWeightThatIsFlushed) {
  const Matrix qi = Matrix::Constant(1, 1, 64), ki = Matrix::Constant(1, 1, 64);
  const Vector w = Vector::Constant(1, 0x1p-127);
  const Vector margins = score_margins(make_arithmetic(Format::bf16), qi, w, view(ki), max_ties_of_rows(view(ki)));
  EXPECT_GE(margins[0], index_scores(qi, w, view(ki))[0]);
}

TEST(QsaMargin, HoldsSumsInAnyOrderAndIsAtMostFourTimesTheWorst) {
  Worst worst;
  for_each_setting(12, [&](const Setting& s, Data data, std::int64_t features, std::uint64_t seed) {
    const Scales scales[] = {{}, {1, 1, inverse_root(features)}};
    const Matrix qi = draw(4, features, data, s.input, seed, "q");
    const Matrix kbar = draw(kKeys, features, data, s.input, seed, "k");
    Kernel kernel(seed, data == Data::tiny);
    worst.add(data, simulated_scores(kernel, s, scales[seed % 2], qi, Vector::Ones(4), kbar),
              block_scores(qi, view(kbar)), score_margins(s.arithmetic, qi, view(kbar), max_ties_of_rows(view(kbar))));
  });
  worst.expect_at_least(0.25);
}

/// How many of the scores are off by more than their margins when each is stored in fp16.
Eigen::Index num_exceeded_in_fp16(const Vector& scores, const Vector& margins) {
  const Vector stored = scores.unaryExpr([](double x) { return round_to(x, Format::fp16); });
  return ((stored - scores).cwiseAbs().array() > margins.array()).count();
}

TEST(IndexMargins, AreExceededByScoresStoredInFp16) {
  const Arithmetic arithmetic = make_arithmetic(Format::bf16);
  const Matrix q = draw(8, kFeatures, Data::normal, Format::bf16, 1, "q");
  const Matrix k = draw(kKeys, kFeatures, Data::normal, Format::bf16, 1, "k");
  const Vector w = draw(1, 8, Data::normal, Format::fp32, 1, "w").row(0).transpose(), query = q.row(0).transpose();
  const Vector ties = max_ties_of_rows(view(k));
  const MsaProblem problem{{}, kFeatures, 1, 2};
  EXPECT_GT(
      num_exceeded_in_fp16(index_scores(query, view(k)), score_margins(arithmetic, problem, query, view(k), ties)),
      kKeys * 9 / 10);
  EXPECT_GT(num_exceeded_in_fp16(index_scores(q, w, view(k)), score_margins(arithmetic, q, w, view(k), ties)),
            kKeys * 9 / 10);
  EXPECT_GT(num_exceeded_in_fp16(block_scores(q, view(k)), score_margins(arithmetic, q, view(k), ties)),
            kKeys * 9 / 10);
}

/// A head that is surely negative adds no error, so that tokens no head likes have margins of what flushes alone.
TEST(DsaMargin, IsOfFlushedNumbersAloneWhereNoHeadIsPositive) {
  const Matrix qi = Matrix::Constant(3, kFeatures, -1), ki = Matrix::Ones(2, kFeatures);
  const Vector margins =
      score_margins(make_arithmetic(Format::bf16), qi, Vector::Ones(3), view(ki), max_ties_of_rows(view(ki)));
  EXPECT_GT(margins.minCoeff(), 0);
  EXPECT_LT(margins.maxCoeff(), 1000 * kFlushed);
}

/// The exact product is -2^-26, and fp32 has 2^-26 in the order in which the terms stand: 1 + 3 2^-25 is 1 + 2^-23.
TEST(DsaMargin, HoldsAHeadThatRoundsAcrossZero) {
  const Matrix qi = Matrix::Ones(1, 4);
  const Matrix ki = (Matrix(1, 4) << 1, 3 * 0x1p-25, -1, -3.5 * 0x1p-25).finished();
  float x = 0;
  for (const double term : ki.row(0)) x += static_cast<float>(term);
  EXPECT_EQ(x, 0x1p-26f);
  EXPECT_EQ(index_scores(qi, Vector::Ones(1), view(ki))[0], 0);
  EXPECT_GE(score_margins(make_arithmetic(Format::fp32), qi, Vector::Ones(1), view(ki), max_ties_of_rows(view(ki)))[0],
            0x1p-26);
}

/// A maximum errs by the margin of keys that may be the largest, not of keys far below.
TEST(MsaMargin, IsThatOfTheKeysThatMayBeTheLargest) {
  const Vector qi = Vector::Ones(4);
  Matrix ki = Matrix::Ones(3, 4);
  const MsaProblem problem{{}, 4, 3, 2};
  const auto margin = [&] {
    return score_margins(make_arithmetic(Format::bf16), problem, qi, view(ki), max_ties_of_rows(view(ki)))[0];
  };
  const double alone = margin();
  ki.row(1) << 1000, -1000, 1000, -1000;  // a large error around 0, which is below 4
  EXPECT_EQ(margin(), alone);
  ki.row(1) << 1000, -1000, 1000, -996.0001;  // around 3.9999
  EXPECT_GT(margin(), 2 * alone);
}

}  // namespace
}  // namespace attnspec::verify
