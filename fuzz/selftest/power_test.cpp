// The usual rules on numbers by hand; the judge sees every fault of the table and accuses no right kernel.

#include "fuzz/power/power.hpp"

#include <fmt/format.h>
#include <gtest/gtest.h>

#include <algorithm>
#include <limits>
#include <pugixml.hpp>
#include <string>
#include <vector>

namespace attnspec::fuzz {
namespace {

bool accepts(const std::string& rule, const std::vector<double>& expected, const std::vector<double>& observed) {
  const auto rules = usual_rules();
  const auto found = std::find_if(rules.begin(), rules.end(), [&](const Rule& r) { return r.name == rule; });
  return found->accepts(expected, observed);
}

TEST(UsualRules, DecideAsTheyDoElsewhere) {
  EXPECT_TRUE(accepts("allclose 1e-2", {1, 0}, {1.0199, 0.0099}));
  EXPECT_FALSE(accepts("allclose 1e-2", {1, 0}, {1.0201, 0}));
  EXPECT_FALSE(accepts("allclose 1e-2", {1, 0}, {1, 0.0101}));
  EXPECT_TRUE(accepts("allclose 2e-2", {1, 0}, {1.0201, 0.0101}));
  EXPECT_TRUE(accepts("relative RMS 0.005", {3, 4}, {3.024, 4}));  // 0.024 / 5
  EXPECT_FALSE(accepts("relative RMS 0.005", {3, 4}, {3.026, 4}));
  EXPECT_TRUE(accepts("NMSE 5e-4", {3, 4}, {3.11, 4}));  // 0.0121 / 25
  EXPECT_FALSE(accepts("NMSE 5e-4", {3, 4}, {3.12, 4}));
  EXPECT_TRUE(accepts("cosine 1e-3", {1, 0}, {2, 0.08}));  // a factor never matters; half the angle's square does
  EXPECT_FALSE(accepts("cosine 1e-3", {1, 0}, {2, 0.1}));
  constexpr double infinity = std::numeric_limits<double>::infinity(), nan = std::numeric_limits<double>::quiet_NaN();
  for (const Rule& rule : usual_rules()) {
    EXPECT_TRUE(accepts(rule.name, {-infinity, 1}, {-infinity, 1})) << rule.name;
    EXPECT_TRUE(accepts(rule.name, {0, 0}, {0, 0})) << rule.name;
    EXPECT_FALSE(accepts(rule.name, {0, 1}, {nan, 1})) << rule.name;
  }
}

TEST(Power, SeesEveryFaultOfTheTableAndAccusesNoRightKernel) {
  Power power;
  for (const Subject& fault : faults()) {
    power.faults.push_back(look(fault));
    EXPECT_TRUE(power.faults.back().by_judge()) << fault.name;
  }
  for (const Subject& right : right_kernels()) {
    power.right.push_back(look(right));
    EXPECT_FALSE(power.right.back().by_judge()) << verify::print(right.c);
  }
  const auto seen = [&](std::size_t rule) {
    return std::count_if(power.faults.begin(), power.faults.end(),
                         [&](const auto& fault) { return !fault.by_rule[rule].empty(); });
  };
  EXPECT_GT(seen(0), 5);  // allclose 1e-2 sees the gross ones
  EXPECT_LT(seen(1), seen(0));
  pugi::xml_document picture;
  ASSERT_TRUE(picture.load_string(power_picture(power).c_str()));
  EXPECT_EQ(std::ranges::distance(picture.child("svg").children("rect")),
            1 + static_cast<std::ptrdiff_t>((faults().size() + 1) * (usual_rules().size() + 1)));
  const std::string none = fmt::format("| attnspec | 0 of {} | - |", power.right.size());
  EXPECT_NE(power_tables(power).find(none), std::string::npos) << power_tables(power);
}

}  // namespace
}  // namespace attnspec::fuzz
