// Generated cases are valid, small, on edges, and the same for the same seed.

#include <gtest/gtest.h>

#include <algorithm>
#include <map>
#include <numeric>
#include <set>

#include "fuzz/search/search.hpp"
#include "verify/cases/space/coverage.hpp"
#include "verify/cases/space/space.hpp"
#include "verify/cases/space/work.hpp"

namespace attnspec::fuzz {
namespace {

using namespace verify;

std::vector<Case> first_cases(const std::vector<Operator>& operators, std::uint64_t seed, int cases) {
  CaseSource source(operators, seed);
  std::vector<Case> result;
  for (int i = 0; i < cases; ++i) result.push_back(source.next());
  return result;
}

class Generated : public testing::TestWithParam<Operator> {};

TEST_P(Generated, AreValidAndPrintAsTheyAre) {
  for (const Case& c : first_cases({GetParam()}, 1, 300)) {
    EXPECT_EQ(c.op, GetParam());
    ASSERT_NO_THROW(validate(c)) << print(c);
    ASSERT_EQ(parse_case(print(c)), c);
  }
}

TEST_P(Generated, AreSmall) {
  std::vector<std::int64_t> tokens;
  for (const Case& c : first_cases({GetParam()}, 2, 200))
    tokens.push_back(std::accumulate(c.lens.begin(), c.lens.end(), std::int64_t{0}));
  std::sort(tokens.begin(), tokens.end());
  EXPECT_LT(tokens[100], 100);
  EXPECT_GT(tokens[198], 100);
}

INSTANTIATE_TEST_SUITE_P(Operators, Generated, testing::ValuesIn(kOperators),
                         [](const auto& instance) { return name(instance.param); });

TEST(Generate, TheSameSeedGivesTheSameCases) {
  const std::vector<Operator> all(std::begin(kOperators), std::end(kOperators));
  EXPECT_EQ(first_cases(all, 3, 100), first_cases(all, 3, 100));
  EXPECT_NE(first_cases(all, 3, 100), first_cases(all, 4, 100));
}

/// What other machines and compilers must draw too. It changes only with the generator.
TEST(Generate, TheFirstCasesAreKnown) {
  const std::vector<Case> cases = first_cases({Operator::moba, Operator::nsa}, 0, 2);
  EXPECT_EQ(print(cases[0]),
            "moba(lens=63+1+65+64,q_lens=0+1+153+64,dk=1,dv=7,top_k=2,gate=window,dtype=fp16,regime=very_negative,"
            "seed=795480)");
  EXPECT_EQ(print(cases[1]),
            "nsa(lens=20+16+0+16+4+1+9+12,q_lens=20+16+1+13+4+1+18+13,dk=4,dv=2,block=12,compress_block=9,"
            "compress_stride=3,top_n=3,window=63,phi=mlp,hidden=14,dtype=fp16,layout=contiguous,regime=subnormal,"
            "seed=358673)");
}

TEST(Generate, KeepsToTheLawsWanted) {
  const std::vector<Law> wanted{Law::heads, Law::power};
  CaseSource source({Operator::moba, Operator::nsa_compress}, 1, wanted);
  std::set<Law> drawn;
  std::set<std::int64_t> kv_heads;
  for (int i = 0; i < 200; ++i) {
    const Case c = source.next();
    drawn.insert(c.law);
    if (c.op == Operator::nsa_compress) kv_heads.insert(c.kv_heads);
    EXPECT_TRUE(c.law != Law::heads || c.kv_heads > 1 || c.heads > 1) << print(c);
  }
  EXPECT_EQ(drawn, std::set<Law>(wanted.begin(), wanted.end()));
  EXPECT_GT(kv_heads.size(), 2u);
}

TEST_P(Generated, HaveEveryClass) {
  Coverage coverage;
  for (const Case& c : first_cases({GetParam()}, 5, 3000)) coverage.add(c);
  for (const std::size_t i : coverage.never_seen(GetParam())) ADD_FAILURE() << case_classes()[i].name();
}

TEST(Swarm, DrawsOnlyWhatItHas) {
  Swarm swarm = whole_swarm();
  for (std::size_t i = 0; i < axes().size(); ++i) {
    const auto only = [&](const std::string& axis, const std::string& value) {
      if (axes()[i].name != axis) return;
      for (std::size_t k = 0; k < swarm.enabled[i].size(); ++k) swarm.enabled[i][k] = axes()[i].values[k].name == value;
    };
    only("regime", "tie");
    only("heads", "one");
    only("extreme", "none");
    only("causal", "no");
    only("law", "none");
  }
  EXPECT_EQ(describe(swarm, {Operator::moba}), "heads: one; extreme: none; causal: no; regime: tie; law: none");
  EXPECT_EQ(describe(swarm, {Operator::window}), "heads: one; extreme: none; regime: tie; law: none");
  EXPECT_EQ(describe(whole_swarm(), {Operator::moba}), "everything");
  rc::Random random(6);
  for (int i = 0; i < 100; ++i) {
    const Case c = any_case(Operator::moba, swarm)(random.split()).value();
    EXPECT_EQ(c.regime, "tie");
    EXPECT_EQ(c.heads, 1);
    EXPECT_FALSE(c.causal);
  }
}

TEST(Swarm, AlwaysHasSomething) {
  rc::Random random(7);
  for (int i = 0; i < 100; ++i)
    for (const auto& enabled : any_swarm()(random.split()).value().enabled)
      EXPECT_TRUE(std::any_of(enabled.begin(), enabled.end(), [](bool is_enabled) { return is_enabled; }));
}

TEST(Swarm, LacksHalfOfTheAxesInPart) {
  rc::Random random(8);
  const Swarm whole = whole_swarm();
  std::int64_t lacking = 0;
  for (int i = 0; i < 100; ++i) {
    const Swarm swarm = any_swarm()(random.split()).value();
    for (std::size_t axis = 0; axis < axes().size(); ++axis) lacking += swarm.enabled[axis] != whole.enabled[axis];
  }
  EXPECT_GT(lacking, 25 * std::ssize(axes()));
}

TEST(Coverage, CountsTriplesOnceForEachOperator) {
  Coverage coverage;
  const Case moba = parse_case("moba(lens=40,block=16)"), dense = parse_case("dense(lens=40)");
  const auto n = static_cast<std::int64_t>(classes_of(moba).size());
  EXPECT_EQ(coverage.count_new(moba), n * (n - 1) * (n - 2) / 6);
  coverage.add(moba);
  EXPECT_EQ(coverage.size(), n * (n - 1) * (n - 2) / 6);
  EXPECT_EQ(coverage.count_new(moba), 0);
  EXPECT_GT(coverage.count_new(dense), 0);
  const Case other = parse_case("moba(lens=40,block=16,dtype=fp16)");
  EXPECT_EQ(coverage.count_new(other), (n - 1) * (n - 2) / 2) << "those with its dtype";
}

TEST(CaseSource, SharesWorkBetweenOperators) {
  const std::vector<Operator> all(std::begin(kOperators), std::end(kOperators));
  std::map<Operator, double> done;
  double largest = 0;
  for (const Case& c : first_cases(all, 6, 400)) {
    done[c.op] += work(c);
    largest = std::max(largest, work(c));
  }
  for (const auto& [op, sum] : done)
    for (const auto& [other, other_sum] : done) EXPECT_LE(sum - other_sum, largest) << name(op) << ' ' << name(other);
}

TEST(CaseSource, SteersTowardsUnseenTriples) {
  CaseSource steered({Operator::moba}, 8);
  for (int i = 0; i < 300; ++i) steered.next();
  Coverage unsteered;
  rc::Random random(8);
  for (int i = 0; i < 300; ++i) unsteered.add(any_case(Operator::moba, whole_swarm())(random.split()).value());
  EXPECT_GT(steered.kept().size(), unsteered.size());
  EXPECT_GT(static_cast<double>(steered.kept().size()), 0.4 * static_cast<double>(steered.drawn().size()));
}

TEST(CaseSource, TakesTheCandidateWithMostNewTriples) {
  CaseSource source({Operator::moba}, 8);
  Coverage kept;
  rc::Random random(8);
  const rc::Gen<Case> generator = any_case(Operator::moba, whole_swarm());
  for (int i = 0; i < kSwarmCases; ++i) {
    std::vector<Case> candidates;
    for (int j = 0; j < kCandidates; ++j) candidates.push_back(generator(random.split()).value());
    const Case& best = *std::max_element(candidates.begin(), candidates.end(), [&](const Case& a, const Case& b) {
      return kept.count_new(a) < kept.count_new(b);
    });
    kept.add(best);
    EXPECT_EQ(print(source.next()), print(best)) << i;
  }
}

TEST(CaseSource, HasTheWholeSpaceInItsFirstSwarmAlone) {
  CaseSource source({Operator::moba}, 8);
  source.next();
  EXPECT_EQ(source.swarm().enabled, whole_swarm().enabled);
  for (int i = 0; i < kSwarmCases; ++i) source.next();
  EXPECT_NE(source.swarm().enabled, whole_swarm().enabled);
}

}  // namespace
}  // namespace attnspec::fuzz
