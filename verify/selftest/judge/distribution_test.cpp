#include "verify/judge/distribution.hpp"

#include <gtest/gtest.h>

#include <limits>

#include "verify/judge/judge.hpp"
#include "verify/judge/selection.hpp"
#include "verify/kernels.hpp"

namespace {

using namespace attnspec::verify;

TEST(Distribution, CountsInBinsOfEqualRatio) {
  Distribution some;
  for (const double x : {1.0, 1.1, 1.19, 1.9, 2.0, 0.0, -3.0, std::numeric_limits<double>::infinity()}) some.add(x);
  EXPECT_EQ(some.count(), 8);
  EXPECT_EQ(some.bins().at(0), 2);  // 1.19 is above 2^(1/4) = 1.189
  EXPECT_EQ(some.bins().at(4), 1);
  EXPECT_EQ(some.bins().at(Distribution::kFirstBin), 2);
  EXPECT_EQ(some.bins().at(Distribution::kLastBin), 1);
  EXPECT_EQ(some.count_up_to(1), 2);
  EXPECT_EQ(some.count_up_to(2), 6);
  Distribution twice = some;
  twice += some;
  EXPECT_EQ(twice.count(), 16);
}

TEST(Distribution, HasQuantiles) {
  Distribution some;
  EXPECT_EQ(some.quantile(0.5), 0);
  for (int i = 1; i <= 1000; ++i) some.add(i);
  EXPECT_NEAR(some.quantile(0.5), 500, 100);
  EXPECT_NEAR(some.quantile(0.95), 950, 200);
  Distribution zero;
  zero.add(0);
  EXPECT_EQ(zero.quantile(0.5), 0);
}

TEST(Distribution, IsOfTheRowsOfACase) {
  const CaseResult result = judge(find_kernel("model:moba"), parse_case("moba(lens=200,heads=2,block=16)"));
  for (const OutputSummary& output : result.outputs) {
    if (output.output == "selection") {
      EXPECT_EQ(output.r.count(), 0);
      EXPECT_GT(output.clearances.count(), 200);  // the first blocks leave no choice
      EXPECT_GT(output.clearances.quantile(0.5), 10);
    } else {
      EXPECT_EQ(output.r.count(), output.rows) << output.output;
      EXPECT_NEAR(output.r.quantile(1), output.worst_r, 0.2 * output.worst_r) << output.output;
      EXPECT_GT(output.smallest_errors.quantile(0.5), 1e-8) << output.output;
      EXPECT_LT(output.smallest_errors.quantile(0.5), 1) << output.output;
    }
  }
  EXPECT_GT(result.seconds, 0);
}

TEST(Clearance, IsTheGapInMargins) {
  SelectionRule rule{.num_blocks = 4, .wanted = 2, .forced = {3}, .scores = {5, 4, 1, 9}, .margins = {.5, .5, .5, .5}};
  EXPECT_EQ(clearance_of(rule, Blocks{0, 3}), 1);
  EXPECT_EQ(clearance_of(rule, Blocks{3, 1, -1}), -1);
  EXPECT_EQ(clearance_of(rule, Blocks{0, 1, 2, 3}), std::nullopt);  // nothing is left out
  EXPECT_EQ(clearance_of(rule, Blocks{3}), std::nullopt);           // nothing but what is forced
  rule.margins.assign(4, 0);
  EXPECT_EQ(clearance_of(rule, Blocks{0, 3}), std::nullopt);
}

}  // namespace
