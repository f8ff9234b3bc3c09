// Class, element and row: the comparison of one row accepts what it must and rejects what it must.

#include "verify/judge/compare.hpp"

#include <gtest/gtest.h>

#include <cmath>
#include <limits>

namespace attnspec::verify {
namespace {

constexpr double kNan = std::numeric_limits<double>::quiet_NaN();
constexpr double kInfinity = std::numeric_limits<double>::infinity();

/// n elements with variance 1 each, spread over all directions.
RowNoise unit_noise(Eigen::Index n) {
  RowNoise noise(n);
  noise.variance.setOnes();
  noise.worst.setConstant(1e9);
  return noise;
}

/// Compares where every element has an error of its own, and beside them one error along `shared`, if it is given.
RowFault fault(const Vector& expected, const Vector& observed, const RowNoise& noise, Format format = Format::fp32,
               const Vector& shared = {}) {
  reference::RowErrors errors(expected.size());
  if (shared.size() > 0) {
    errors.shared.push_back(shared);
  } else {
    errors.separate = noise.variance;
  }
  const Vector zero = Vector::Zero(expected.size());
  const reference::Rows none(nullptr, 0, expected.size());
  return compare_row(expected, observed, noise, format, {errors, none, {}, zero, zero}).fault;
}

TEST(CompareRow, AcceptsWhatIsEqual) {
  EXPECT_EQ(fault(Vector::Zero(3), Vector::Zero(3), RowNoise(3)), RowFault::none);
  EXPECT_EQ(fault(Vector::Zero(0), Vector::Zero(0), RowNoise(0)), RowFault::none);
}

TEST(CompareRow, RejectsAnyErrorWhereNoNoiseIsPredicted) {
  EXPECT_EQ(fault(Vector::Zero(3), Vector::Constant(3, 1e-300), RowNoise(3)), RowFault::element);
}

TEST(CompareRow, RejectsNanWhateverTheNoise) {
  EXPECT_EQ(fault(Vector::Zero(1), Vector::Constant(1, kNan), unit_noise(1)), RowFault::wrong_class);
  RowNoise noise = unit_noise(1);
  noise.worst[0] = kInfinity;
  EXPECT_EQ(fault(Vector::Zero(1), Vector::Constant(1, kNan), noise), RowFault::wrong_class);
}

TEST(CompareRow, RejectsANanPrediction) {
  RowNoise noise = unit_noise(2);
  noise.variance[1] = kNan;
  EXPECT_NE(fault(Vector::Zero(2), Vector::Constant(2, 1), noise), RowFault::none);
}

TEST(CompareRow, TakesTheSmallerOfWorstCaseAndKappaDeviations) {
  RowNoise noise = unit_noise(1);
  EXPECT_EQ(fault(Vector::Zero(1), Vector::Constant(1, 6.99), noise), RowFault::none);
  EXPECT_EQ(fault(Vector::Zero(1), Vector::Constant(1, -7.01), noise), RowFault::element);
  noise.worst[0] = 2;
  EXPECT_EQ(fault(Vector::Zero(1), Vector::Constant(1, 2.01), noise), RowFault::element);
  noise.floor[0] = 1;
  EXPECT_EQ(fault(Vector::Zero(1), Vector::Constant(1, 2.01), noise), RowFault::none);
}

TEST(CompareRow, SeesAnErrorSpreadOverTheRowThatNoElementShows) {
  EXPECT_EQ(fault(Vector::Zero(64), Vector::Constant(64, 1.5), unit_noise(64)), RowFault::none);
  EXPECT_EQ(fault(Vector::Zero(64), Vector::Constant(64, 3), unit_noise(64)), RowFault::row);
}

TEST(CompareRow, AllowsMoreWhereErrorsShareADirection) {
  const RowNoise noise = unit_noise(64);
  const Vector expected = Vector::Zero(64), observed = Vector::Constant(64, 3);
  EXPECT_EQ(fault(expected, observed, noise, Format::fp32, Vector::Ones(64)), RowFault::none);
  Vector partly = Vector::Zero(64);  // another direction than the error's
  partly[0] = 8;
  EXPECT_EQ(fault(expected, observed, noise, Format::fp32, partly), RowFault::none);
  EXPECT_EQ(fault(expected, observed, noise), RowFault::row);
}

TEST(CompareNumber, MeasuresWhatIsBeyondTheFloorInDeviations) {
  RowNoise noise = unit_noise(1);
  noise.floor[0] = 1;
  noise.variance[0] = 4;
  const RowComparison row = compare_number(0, 6, noise, Format::fp32);
  EXPECT_EQ(row.r, 2.5);
  EXPECT_EQ(row.z, 2.5);
}

TEST(CompareNumber, DecidesByTheElementAlone) {
  EXPECT_EQ(compare_number(1, 7.9, unit_noise(1), Format::fp32).fault, RowFault::none);
  EXPECT_EQ(compare_number(1, 8.1, unit_noise(1), Format::fp32).fault, RowFault::element);
  EXPECT_EQ(compare_number(-kInfinity, -kInfinity, RowNoise(1), Format::fp32).fault, RowFault::none);
}

TEST(CompareRow, KnowsWhenAnInfinityIsRight) {
  RowNoise noise = unit_noise(1);
  noise.worst[0] = 100;
  noise.variance[0] = 1e4;
  const auto of = [&](double expected, double observed) {
    return fault(Vector::Constant(1, expected), Vector::Constant(1, observed), noise, Format::fp16);
  };
  EXPECT_EQ(of(65450, kInfinity), RowFault::none);  // 65450 + 100 rounds to infinity
  EXPECT_EQ(of(65400, kInfinity), RowFault::wrong_class);
  EXPECT_EQ(of(65450, -kInfinity), RowFault::wrong_class);
  EXPECT_EQ(of(65600, 65504), RowFault::none);
  EXPECT_EQ(of(70000, 65504), RowFault::wrong_class);
  EXPECT_EQ(of(-kInfinity, -kInfinity), RowFault::none);
  EXPECT_EQ(of(-kInfinity, kInfinity), RowFault::wrong_class);
  EXPECT_EQ(of(-kInfinity, -1e4), RowFault::wrong_class);
}

}  // namespace
}  // namespace attnspec::verify
