// The search finds every planted defect, accuses no equivalent variant, and shrinks what it finds.

#include "fuzz/search/search.hpp"

#include <gtest/gtest.h>

#include <algorithm>
#include <memory>
#include <numeric>
#include <optional>

#include "fuzz/search/judging.hpp"
#include "fuzz/search/shrink.hpp"
#include "verify/cases/inputs/plain_numbers.hpp"
#include "verify/judge/report.hpp"
#include "verify/kernels.hpp"
#include "verify/model/defects/defects.hpp"
#include "verify/model/variants/variants.hpp"
#include "verify/selftest/judge/altered_kernel.hpp"

namespace attnspec::fuzz {
namespace {

using namespace verify;

std::vector<Found> findings(const Kernel& kernel, const SearchOptions& options) {
  std::vector<Found> all;
  SearchObserver observer;
  observer.found = [&](const Found& found) { all.push_back(found); };
  search(kernel, options, observer);
  return all;
}

class Defects : public testing::TestWithParam<std::string> {};

/// Whether `simpler` has no more tokens, heads and features.
void expect_no_larger(const Case& simpler, const Case& c) {
  EXPECT_LE(std::accumulate(simpler.lens.begin(), simpler.lens.end(), std::int64_t{0}),
            std::accumulate(c.lens.begin(), c.lens.end(), std::int64_t{0}));
  EXPECT_LE(simpler.heads, c.heads);
  EXPECT_LE(simpler.dk, c.dk);
  EXPECT_LE(simpler.dv, c.dv);
}

TEST_P(Defects, AreFoundWithin200CasesAndShrunk) {
  const Kernel kernel = find_kernel("defect:" + GetParam());
  SearchOptions options;
  options.cases = 200;
  const std::vector<Found> found = findings(kernel, options);
  ASSERT_EQ(found.size(), 1u);
  const CaseResult& shrunk = found[0].shrunk;
  EXPECT_TRUE(is_finding(shrunk.verdict));
  EXPECT_EQ(shrunk.c.op, found[0].drawn.c.op);
  expect_no_larger(shrunk.c, found[0].drawn.c);
  EXPECT_LE(std::accumulate(shrunk.c.lens.begin(), shrunk.c.lens.end(), std::int64_t{0}), 64) << print(shrunk.c);
  EXPECT_EQ(parse_case(print(shrunk.c)), shrunk.c);
  EXPECT_EQ(judge(kernel, shrunk.c).verdict, shrunk.verdict);
}

/// The names in a list of defects or variants.
template <class List>
std::vector<std::string> names_of(const List& list) {
  std::vector<std::string> names;
  for (const auto& entry : list) names.push_back(entry.name);
  return names;
}

/// The defects that do the same every time.
std::vector<std::string> repeatable_defects() {
  std::vector<std::string> names = names_of(model::defects());
  std::erase(names, "order_of_a_counter");
  return names;
}

INSTANTIATE_TEST_SUITE_P(Planted, Defects, testing::ValuesIn(repeatable_defects()),
                         [](const auto& instance) { return instance.param; });

class Variants : public testing::TestWithParam<std::string> {};

/// Another seed for each of them, so that all of them see many cases.
TEST_P(Variants, AreNotAccusedIn100Cases) {
  SearchOptions options;
  options.cases = 100;
  for (const char letter : GetParam()) options.seed = 31 * options.seed + static_cast<unsigned char>(letter);
  for (const Found& found : findings(find_kernel("variant:" + GetParam()), options))
    ADD_FAILURE() << failure_line(found.shrunk, found.shrunk.findings.front());
}

INSTANTIATE_TEST_SUITE_P(Equivalent, Variants, testing::ValuesIn(names_of(model::variants())),
                         [](const auto& instance) { return instance.param; });

TEST(Laws, FindWhatHappensNowAndThen) {
  SearchOptions options;
  options.cases = 60;
  options.laws = {Law::repeat};
  const std::vector<Found> found = findings(find_kernel("defect:order_of_a_counter"), options);
  ASSERT_EQ(found.size(), 1u);
  EXPECT_EQ(found[0].drawn.c.law, Law::repeat);
  EXPECT_EQ(found[0].shrunk.verdict, Verdict::nondeterministic);
}

/// Cases of every law.
void expect_laws_hold(const std::string& kernel, std::int64_t cases) {
  SearchOptions options;
  options.cases = cases;
  options.laws.assign(std::begin(kLaws), std::end(kLaws));
  for (const char letter : kernel) options.seed = 37 * options.seed + static_cast<unsigned char>(letter);
  for (const Found& found : findings(find_kernel(kernel), options))
    ADD_FAILURE() << failure_line(found.shrunk, found.shrunk.findings.front());
}

TEST_P(Variants, HoldTheLaws) { expect_laws_hold("variant:" + GetParam(), 200); }

TEST(Laws, HoldOfTheModels) {
  for (const char* kernel : {"model:moba", "model:moba+rounded_sum+rounded_partials+rounded_means",
                             "model:moba+normalise_first+fp32_out", "model:nsa", "model:nsa+fused_branches"})
    expect_laws_hold(kernel, 300);
}

TEST(Laws, CountLaunches) {
  SearchOptions options;
  options.cases = 10;
  options.laws = {Law::repeat};
  options.operators = {Operator::dense};
  EXPECT_EQ(search(find_kernel("model:moba"), options).launches, 200);
  options.laws = {Law::unselected};
  EXPECT_THROW(search(find_kernel("model:moba"), options), std::invalid_argument) << "dense has no such law";
}

/// The cases judged, in order.
std::vector<std::string> judged(const Kernel& kernel, SearchOptions options) {
  std::vector<std::string> cases;
  SearchObserver observer;
  observer.judged = [&](const CaseResult& result) { cases.push_back(print(result.c)); };
  search(kernel, options, observer);
  return cases;
}

TEST(Search, JudgesTheSameCasesForTheSameSeed) {
  SearchOptions options;
  options.seed = 9;
  options.cases = 45;
  const Kernel kernel = find_kernel("model:moba");
  const auto cases = judged(kernel, options);
  EXPECT_EQ(cases.size(), 45u);
  options.jobs = 1;
  EXPECT_EQ(judged(kernel, options), cases);
}

TEST(Search, EndsAtTheFirstFindingWhateverTheJobs) {
  SearchOptions options;
  options.seed = 10;
  options.cases = 200;
  const Kernel kernel = find_kernel("defect:top_k_one_is_dense");
  const auto cases = judged(kernel, options);
  options.jobs = 1;
  EXPECT_EQ(judged(kernel, options), cases);
  const std::vector<Found> found = findings(kernel, options);
  ASSERT_EQ(found.size(), 1u);
  EXPECT_EQ(found[0].number, std::ssize(cases));
  EXPECT_EQ(print(found[0].drawn.c), cases.back());
}

TEST(Search, GoesOnWhenAskedTo) {
  SearchOptions options;
  options.cases = 60;
  options.keeps_going = true;
  EXPECT_EQ(judged(find_kernel("defect:delta_missing"), options).size(), 60u);
  EXPECT_GT(findings(find_kernel("defect:delta_missing"), options).size(), 30u);
}

TEST(Search, EndsWhenItIsStoppedOrTheTimeIsOver) {
  SearchOptions options;
  int asked = 0;
  options.is_stopped = [&] { return ++asked > 10; };
  options.jobs = 1;
  EXPECT_LT(judged(find_kernel("model:moba"), options).size(), 20u);
  options.is_stopped = {};
  options.seconds = 0.1;
  EXPECT_LT(search(find_kernel("model:moba"), options).seconds, 10);
}

TEST(Search, CountsWhatIsNotSupportedApart) {
  Kernel kernel = find_kernel("model:moba");
  kernel.unsupported = [](const Case& c) -> std::optional<std::string> {
    if (c.dtype == Format::fp32) return "no fp32";
    return {};
  };
  SearchOptions options;
  options.cases = 100;
  const SearchSummary summary = search(kernel, options);
  EXPECT_EQ(summary.cases(), 100);
  EXPECT_GT(summary.count(Verdict::not_supported), 10);
  EXPECT_EQ(summary.count(Verdict::pass) + summary.count(Verdict::not_supported), 100);
  EXPECT_EQ(exit_code(summary), 0);
  kernel.unsupported = [](const Case&) { return std::optional<std::string>("nothing"); };
  options.cases = 10;
  EXPECT_EQ(exit_code(search(kernel, options)), 3);
}

TEST(Search, DrawsInsideTheLimits) {
  Limits limits;
  limits.dk.set = {16};
  limits.block.set = {8};
  limits.dtypes = {Format::fp32};
  CaseSource source({Operator::moba, Operator::nsa}, 1, {}, limits);
  for (int i = 0; i < 60; ++i) {
    const Case c = source.next();
    EXPECT_EQ(outside(limits, c), std::nullopt) << print(c);
  }
  Kernel kernel = find_kernel("model:moba");
  kernel.limits = limits;
  kernel.unsupported = [limits](const Case& c) { return outside(limits, c); };
  SearchOptions options;
  options.cases = 20;
  EXPECT_EQ(search(kernel, options).count(Verdict::not_supported), 0);
}

TEST(Search, RejectsAnOperatorThatTheKernelLacks) {
  SearchOptions options;
  options.operators = {Operator::window};
  EXPECT_THROW(search(find_kernel("model:moba"), options), std::invalid_argument);
}

TEST(ExitCode, TellsFindingsFromWhatIsInconclusive) {
  SearchSummary summary;
  summary.operators[Operator::moba] = {.cases = 2, .verdicts = {{Verdict::pass, 2}}};
  EXPECT_EQ(exit_code(summary), 0);
  summary.operators[Operator::dense];
  EXPECT_EQ(exit_code(summary), 3) << "no case of dense";
  summary.operators[Operator::dense] = {.cases = 1, .verdicts = {{Verdict::undecided, 1}}};
  EXPECT_EQ(exit_code(summary), 3);
  summary.operators[Operator::moba].verdicts[Verdict::stray_read] = 1;
  EXPECT_EQ(exit_code(summary), 1);
}

TEST(Shrink, FindsTheSmallestCaseOfAnyFailingCase) {
  const Kernel kernel = find_kernel("defect:wrong_gqa_map");
  const CaseResult failing =
      judge(kernel, parse_case("selected(lens=40+0+17,q_lens=30+0+20,heads=6,kv_heads=3,dk=40,dv=24,block=12,top_k=5,"
                               "selection_order=ascending,scale=0.3,dtype=fp16,layout=contiguous,regime=largest_values,"
                               "seed=4711)"));
  ASSERT_TRUE(is_finding(failing.verdict));
  const Shrunk shrunk = shrink([&](const Case& c) { return judge(kernel, c); }, failing);
  EXPECT_LE(shrunk.judgements, kMaxJudgements);
  const Case& c = shrunk.result.c;
  EXPECT_EQ(c.lens, std::vector<std::int64_t>{1});
  EXPECT_EQ(c.q_lens, c.lens);
  EXPECT_EQ(c.heads, 4);  // two kv heads of two query heads each: without them the map is right
  EXPECT_EQ(c.kv_heads, 2);
  EXPECT_EQ(c.block, 1);
  EXPECT_EQ(c.selection_order, SelectionOrder::any);
  EXPECT_EQ(c.regime, "normal");
  EXPECT_EQ(c.dtype, Format::bf16);
  EXPECT_EQ(c.layout, Layout::strided);
  EXPECT_EQ(c.scale, default_scale(c.dk));
  EXPECT_EQ(c.top_k, parse_case("selected()").top_k);  // it does not matter
}

TEST(Shrink, DropsTheLawWhereTheSpecificationFailsToo) {
  Kernel kernel = find_kernel("model:moba");
  replace_forward(kernel, [](const AnyCall& call, const DoCall& do_call) {
    do_call(call);
    if (call["q"].tokens > 4) call["o"].store(4, 0, 0, 77);
  });
  CaseResult failing = judge(kernel, parse_case("dense(lens=30,law=repeat)"));
  failing.verdict = Verdict::law_broken;
  const Shrunk shrunk = shrink([&](const Case& c) { return judge(kernel, c); }, failing);
  EXPECT_EQ(shrunk.result.c.law, Law::none);
  EXPECT_EQ(shrunk.result.c.lens, std::vector<std::int64_t>{5});
  const Kernel only_law = find_kernel("defect:values_centred");
  const CaseResult broken = judge(only_law, parse_case("selected(lens=40,block=8,law=unselected)"));
  ASSERT_EQ(broken.verdict, Verdict::law_broken);
  EXPECT_EQ(shrink([&](const Case& c) { return judge(only_law, c); }, broken).result.c.law, Law::unselected);
}

TEST(Shrink, EndsWithNumbersThatAPersonCanComputeWith) {
  const Kernel kernel = find_kernel("defect:future_token_visible");
  const CaseResult failing = judge(kernel, parse_case("moba(lens=40,heads=2,dk=8,block=16,seed=3)"));
  const Case c = shrink([&](const Case& simpler) { return judge(kernel, simpler); }, failing).result.c;
  EXPECT_EQ(print(c), "moba(lens=2,dk=1,block=2,numbers=zeros+v:positions)");
  const Kernel values = find_kernel("defect:wrong_gqa_map");
  const CaseResult of_values = judge(values, parse_case("selected(lens=20,heads=4,kv_heads=2,dk=8,block=4)"));
  ASSERT_TRUE(is_finding(of_values.verdict));
  const Case simplest = shrink([&](const Case& simpler) { return judge(values, simpler); }, of_values).result.c;
  for (const std::string& tensor : filled_tensors_with_numbers(simplest))
    EXPECT_TRUE(numbers_of(simplest, tensor)) << print(simplest);
}

TEST(Shrink, LeavesOutASample) {
  const Kernel kernel = find_kernel("defect:wrong_gqa_map");
  const CaseResult failing =
      judge(kernel, parse_case("selected(lens=2000,heads=4,kv_heads=2,dk=8,block=64,sample=64)"));
  ASSERT_TRUE(is_finding(failing.verdict));
  const Shrunk shrunk = shrink([&](const Case& c) { return judge(kernel, c); }, failing);
  EXPECT_EQ(shrunk.result.c.lens, std::vector<std::int64_t>{1});
  EXPECT_EQ(shrunk.result.c.sample, 0);
}

TEST(Shrink, StopsAfterSomeJudgements) {
  const auto passes = [](const Case& simpler) {
    CaseResult result;
    result.c = simpler;
    return result;
  };
  Case c = parse_case("moba(heads=32,kv_heads=4,dk=100,dv=99)");
  c.lens.clear(), c.q_lens.clear();
  for (std::int64_t sequence = 0; sequence < 30; ++sequence) {
    c.lens.push_back(3000 + sequence);
    c.q_lens.push_back(2000 + sequence);
  }
  CaseResult failing = passes(c);
  failing.verdict = Verdict::value_out_of_bound;
  EXPECT_EQ(shrink(passes, failing).judgements, kMaxJudgements);
}

TEST(JobsAtOnce, AreOneWithAKernelThatIsCalledByOneThread) {
  Kernel kernel = find_kernel("model:moba");
  EXPECT_EQ(jobs_at_once(4, {{&kernel, {}}}), 4);
  kernel.is_reentrant = false;
  EXPECT_EQ(jobs_at_once(4, {{&kernel, {}}}), 1);
  kernel.another = [] { return std::make_shared<Kernel>(find_kernel("model:moba")); };
  EXPECT_EQ(jobs_at_once(4, {{&kernel, {}}}), 4);
}

TEST(Shrink, StopsWhenItIsTold) {
  const Kernel kernel = find_kernel("defect:delta_missing");
  const CaseResult failing = judge(kernel, parse_case("moba(lens=80,block=16)"));
  const Shrunk shrunk = shrink([&](const Case& c) { return judge(kernel, c); }, failing, [] { return true; });
  EXPECT_EQ(shrunk.judgements, 0);
  EXPECT_EQ(shrunk.result.c, failing.c);
}

}  // namespace
}  // namespace attnspec::fuzz
