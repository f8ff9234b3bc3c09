// The fixed levels cover what they claim.

#include "verify/cases/levels.hpp"

#include <gtest/gtest.h>

#include <algorithm>
#include <set>
#include <string>

#include "verify/cases/inputs/captured.hpp"
#include "verify/cases/regimes.hpp"
#include "verify/cases/session.hpp"
#include "verify/cases/space/coverage.hpp"
#include "verify/cases/space/pairwise.hpp"

namespace attnspec::verify {
namespace {

TEST(Pairwise, CoversEveryPairWithFewRows) {
  const std::vector<int> sizes{12, 6, 6, 11, 4, 3, 8};
  const auto rows = pairwise(sizes);
  for (std::size_t a = 0; a < sizes.size(); ++a)
    for (std::size_t b = a + 1; b < sizes.size(); ++b)
      for (int x = 0; x < sizes[a]; ++x)
        for (int y = 0; y < sizes[b]; ++y)
          EXPECT_TRUE(
              std::any_of(rows.begin(), rows.end(), [&](const auto& row) { return row[a] == x && row[b] == y; }));
  EXPECT_LT(rows.size(), 2 * 12 * 11u);
}

TEST(Levels, HoldDistinctValidCasesOfTheOperator) {
  for (const Operator op : kOperators) {
    std::set<std::string> names;
    for (const Case& c : level_cases(op, 1)) {
      EXPECT_EQ(c.op, op);
      EXPECT_TRUE(parse_case(print(c)) == c);
      names.insert(print(c));
    }
    EXPECT_GE(names.size(), op == Operator::nsa ? 75u : 95u) << name(op);
  }
  EXPECT_GT(level_cases(Operator::moba, 2).size(), 6 * level_cases(Operator::moba, 1).size());
}

TEST(Levels, HoldEveryRegimeInEveryDtypeAndTheCapturedActivations) {
  std::set<std::string> seen;
  for (const Case& c : level_cases(Operator::moba, 1)) seen.insert(c.regime + reference::name(c.dtype));
  for (const auto& [op, regime] :
       {std::pair(Operator::nsa, "wide_gates"), std::pair(Operator::dsa_select, "cancelling_weights")})
    for (const Case& c : level_cases(op, 1))
      if (c.regime == regime) seen.insert(c.regime + reference::name(c.dtype));
  for (const char* dtype : {"bf16", "fp16", "fp32"}) {
    for (const Regime& regime : regimes()) {
      if (regime.name == std::string("captured")) continue;
      EXPECT_EQ(seen.count(std::string(regime.name) + dtype), 1u) << regime.name;
    }
    for (const std::string& file : captured_names()) EXPECT_EQ(seen.count("captured:" + file + dtype), 1u) << file;
  }
}

TEST(Levels, HoldEveryClass) {
  for (const Operator op : kOperators) {
    Coverage coverage;
    for (const Case& c : level_cases(op, 1)) coverage.add(c);
    for (const std::size_t i : coverage.never_seen(op)) ADD_FAILURE() << name(op) << ": " << case_classes()[i].name();
  }
}

TEST(Levels, HoldEveryStepOfASession) {
  for (const Operator op : kOperators) {
    std::set<SessionStep> seen;
    for (const Case& c : level_cases(op, 1)) seen.insert(c.session.begin(), c.session.end());
    EXPECT_EQ(seen.size(), std::size(kSessionSteps)) << name(op);
  }
}

}  // namespace
}  // namespace attnspec::verify
