// Every way in which a wrong kernel could pass has a hostile kernel, and the search finds it.

#include <fmt/format.h>
#include <gtest/gtest.h>

#include <optional>
#include <ostream>
#include <set>
#include <stdexcept>
#include <string>
#include <vector>

#include "fuzz/search/search.hpp"
#include "verify/run/foreign_kernel.hpp"

namespace attnspec::fuzz {
namespace {

using enum verify::Verdict;

struct Adversary {
  const char* name;                    // of the library
  verify::Operator op;                 // where it is wrong
  std::set<verify::Verdict> verdicts;  // one of which it earns
};

const Adversary kAdversaries[] = {
    {"keeps_by_address", verify::Operator::dense, {value_out_of_bound, non_finite, law_broken}},
    {"keeps_by_shape", verify::Operator::dense, {value_out_of_bound, non_finite, law_broken}},
    {"keeps_pointers", verify::Operator::dense, {value_out_of_bound, non_finite, law_broken}},
    {"knows_the_fill", verify::Operator::dense, {value_out_of_bound, nondeterministic, stray_read}},
    {"leaves_early", verify::Operator::dense, {crash}},
    {"writes_outside", verify::Operator::dense, {stray_write}},
    {"reads_outside", verify::Operator::dense, {stray_read}},
    {"dense_when_small", verify::Operator::moba, {value_out_of_bound}},
    {"declares_too_much", verify::Operator::dense, {value_out_of_bound}},
    {"skips_light_blocks", verify::Operator::moba, {value_out_of_bound, non_finite}},
    {"refuses", verify::Operator::dense, {call_failed}},
    {"hides_behind_ties", verify::Operator::moba, {selection_mismatch}},
    {"wrong_now_and_then", verify::Operator::dense, {nondeterministic, value_out_of_bound, law_broken}},
    {"tires", verify::Operator::dense, {value_out_of_bound, non_finite, nondeterministic, stray_read, law_broken}},
    {"trusts_its_workspace", verify::Operator::dense, {value_out_of_bound}}};

verify::Kernel load(const std::string& name) {
  return verify::load_kernel(fmt::format("{}/{}.so", ATTNSPEC_ADVERSARIES_DIR, name));
}

verify::CaseResult judge_afresh(const std::string& name, const verify::Case& c) { return verify::judge(load(name), c); }

void PrintTo(const Adversary& adversary, std::ostream* out) { *out << adversary.name; }

class Adversaries : public testing::TestWithParam<Adversary> {};

TEST_P(Adversaries, AreFound) {
  const auto& [name, op, verdicts] = GetParam();
  SearchOptions options;
  options.operators = {op};
  options.cases = 1000;
  std::optional<Found> found;
  SearchObserver observer;
  observer.found = [&](const Found& f) { found = f; };
  search(load(name), options, observer);
  ASSERT_TRUE(found.has_value());
  EXPECT_TRUE(verdicts.contains(found->drawn.verdict)) << verify::name(found->drawn.verdict);
  EXPECT_TRUE(found->fails_alone) << verify::print(found->drawn.c);
  EXPECT_TRUE(verify::is_finding(judge_afresh(name, found->shrunk.c).verdict)) << verify::print(found->shrunk.c);
}

INSTANTIATE_TEST_SUITE_P(Hostile, Adversaries, testing::ValuesIn(kAdversaries),
                         [](const auto& instance) { return std::string(instance.param.name); });

TEST(Adversary, ThatIsWrongOnceInFiftyCallsIsShownByTheShortestSession) {
  SearchOptions options;
  options.operators = {verify::Operator::dense};
  std::optional<Found> found;
  SearchObserver observer;
  observer.found = [&](const Found& f) { found = f; };
  search(load("wrong_now_and_then"), options, observer);
  ASSERT_TRUE(found.has_value());
  // Each call of a session is launched twice: the 25th holds the fiftieth launch.
  EXPECT_EQ(found->shrunk.c.session, std::vector<verify::SessionStep>(24, verify::SessionStep::again));
}

TEST(Adversary, ThatIsWrongAfterAnotherCaseIsShownByBoth) {
  SearchOptions options;
  options.operators = {verify::Operator::dense};
  options.cases = 1000;
  std::optional<Found> found;
  SearchObserver observer;
  observer.found = [&](const Found& f) { found = f; };
  search(load("confused_by_decoding"), options, observer);
  ASSERT_TRUE(found.has_value());
  EXPECT_FALSE(found->fails_alone);
  ASSERT_TRUE(found->after.has_value());
  const verify::Kernel kernel = load("confused_by_decoding");
  EXPECT_FALSE(verify::is_finding(verify::judge(kernel, *found->after).verdict));
  EXPECT_TRUE(verify::is_finding(verify::judge(kernel, found->shrunk.c).verdict));
}

TEST(Adversary, ThatKeepsPointersIsShownByAMove) {
  EXPECT_EQ(judge_afresh("keeps_pointers", verify::parse_case("dense(lens=9)")).verdict, pass);
  const verify::CaseResult moved = judge_afresh("keeps_pointers", verify::parse_case("dense(lens=9,session=moved)"));
  EXPECT_EQ(moved.verdict, non_finite);
  EXPECT_EQ(moved.failing_call, 2);
  EXPECT_EQ(judge_afresh("keeps_pointers", verify::parse_case("dense(lens=9,law=repeat)")).verdict, law_broken);
}

TEST(Adversary, ThatLeavesNothingToJudgeIsRefused) { EXPECT_THROW(load("limits_itself"), std::invalid_argument); }

}  // namespace
}  // namespace attnspec::fuzz
