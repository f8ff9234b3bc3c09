// Timing: work is counted as it is, times are those of the work that is judged, and kernels that pretend are found.

#include "fuzz/bench/bench.hpp"

#include <gtest/gtest.h>

#include <algorithm>
#include <array>
#include <set>
#include <string>

#include "fuzz/bench/baselines.hpp"
#include "fuzz/bench/median.hpp"
#include "reference/moba/moba.hpp"
#include "reference/nsa/nsa_selection.hpp"
#include "verify/cases/regimes.hpp"
#include "verify/kernels.hpp"
#include "verify/run/foreign_kernel.hpp"
#include "verify/run/timed_call.hpp"

namespace attnspec::fuzz {
namespace {

using namespace verify;

// ---- Work ----

/// The work of the calls of a case, as the model kernel gets them.
struct WorkOfCalls {
  Work forward, backward;

  explicit WorkOfCalls(const Case& c) {
    const Kernel model = find_kernel(is_nsa(c.op) ? "model:nsa" : "model:moba");
    Kernel spy = model;
    spy.call = [&](const AnyCall& call) {
      model.call(call);
      (call.is_backward ? backward : forward) = work_of(call);
    };
    EXPECT_EQ(judge(spy, c).verdict, Verdict::pass) << print(c);
  }
};

/// Counts the keys of a sequence, one by one, for which sees(t, block of the key, key) of a query at t, over all rows
/// of the selection, whose heads stand for query heads.
template <class Sees>
std::int64_t count(const reference::AttentionProblem& problem, std::int64_t heads, const Sees& sees) {
  std::int64_t entries = 0;
  for (const reference::Sequence& sequence : reference::sequences(problem))
    for (std::int64_t token = sequence.q_begin; token < sequence.q_end; ++token)
      for (std::int64_t head = 0; head < heads; ++head)
        for (std::int64_t key = 0; key < sequence.num_keys(); ++key)
          entries += sees(token, head, sequence.position(token), key);
  return entries;
}

/// The same in the blocks of a selection.
std::int64_t count_selected(const reference::AttentionProblem& problem, std::int64_t block,
                            const reference::Selection& selection) {
  const std::int64_t group = problem.heads / selection.heads;
  return count(problem, problem.heads, [&](std::int64_t token, std::int64_t head, std::int64_t t, std::int64_t key) {
    const auto blocks = selection.row(token, head / group);
    return (!problem.causal || key <= t) && std::find(blocks.begin(), blocks.end(), key / block) != blocks.end();
  });
}

TEST(Work, CountsWhatIsSelectedAndVisible) {
  for (const char* text : {"moba(lens=70+1+0+33,heads=4,kv_heads=2,dk=8,block=16,top_k=3)",
                           "moba(lens=64,q_lens=70,heads=2,dk=8,block=16,top_k=9)",
                           "moba(lens=64,heads=2,dk=8,block=16,top_k=2,gate=sink)",
                           "moba(lens=64,heads=2,dk=8,block=16,top_k=3,causal=0)"}) {
    const Case c = parse_case(text);
    const Inputs inputs = make_inputs(c);
    const reference::MobaProblem problem = problem_of(c);
    const reference::Selection selection = reference::moba_select(problem, inputs.q, inputs.k);
    EXPECT_EQ(WorkOfCalls(c).forward.entries, count_selected(problem.attention, c.block, selection)) << text;
  }
  for (const char* text : {"selected(lens=70+33,heads=4,kv_heads=2,dk=8,block=16,top_k=3,selection=kv_head)",
                           "selected(lens=50,q_lens=9,heads=2,dk=8,block=7,top_k=4,causal=0)"}) {
    const Case c = parse_case(text);
    EXPECT_EQ(WorkOfCalls(c).forward.entries,
              count_selected(problem_of(c).attention, c.block, make_inputs(c).selection))
        << text;
  }
}

TEST(Work, CountsTheBlocksThatAreCompared) {
  // 16 queries in each of the blocks 0 .. 3, whose past has as many blocks
  EXPECT_EQ(WorkOfCalls(parse_case("moba_select(lens=64,heads=2,dk=8,block=16)")).forward.entries,
            2 * 16 * (0 + 1 + 2 + 3));
  EXPECT_EQ(WorkOfCalls(parse_case("moba_select(lens=64,heads=2,dk=8,block=16,gate=window)")).forward.entries, 0);
}

TEST(Work, CountsDenseAndWindows) {
  EXPECT_EQ(WorkOfCalls(parse_case("dense(lens=10+3,heads=2,dk=8)")).forward.entries, 2 * (55 + 6));
  EXPECT_EQ(WorkOfCalls(parse_case("dense(lens=10,q_lens=4,heads=2,dk=8,causal=0)")).forward.entries, 2 * 40);
  EXPECT_EQ(WorkOfCalls(parse_case("window(lens=10,heads=2,dk=8,window=3)")).forward.entries, 2 * (1 + 2 + 8 * 3));
}

TEST(Work, OfNsaIsThatOfItsBranches) {
  const Case c = parse_case(
      "nsa(lens=90+37,heads=4,kv_heads=2,dk=8,dv=16,block=16,compress_block=8,compress_stride=4,top_n=3,window=11)");
  const reference::NsaProblem nsa = nsa_problem_of(c);
  const auto visible = [](std::int64_t t, std::int64_t last) { return last <= t; };
  std::int64_t compressed = 0;
  for (const reference::Sequence& sequence : reference::sequences(nsa.attention))
    for (std::int64_t t = 0; t < sequence.num_keys(); ++t)
      for (std::int64_t begin = 0; begin + 8 <= sequence.num_keys(); begin += 4) compressed += visible(t, begin + 7);
  const std::int64_t in_window =
      count(nsa.attention, 4,
            [](std::int64_t, std::int64_t, std::int64_t t, std::int64_t key) { return key <= t && key > t - 11; });
  const std::int64_t selected =
      count(nsa.attention, 4, [](std::int64_t, std::int64_t, std::int64_t t, std::int64_t key) {
        return key <= t && (t < 3 * 16 || key / 16 == t / 16 || key < 2 * 16);  // any three blocks, its own among them
      });
  const WorkOfCalls work(c);
  EXPECT_EQ(work.forward.entries, 4 * compressed + selected + in_window);
  EXPECT_EQ(work.backward.entries, work.forward.entries);
  EXPECT_EQ(work.forward.operations, static_cast<double>(work.forward.entries * 2 * (8 + 16)));
  EXPECT_EQ(work.backward.operations, static_cast<double>(work.forward.entries * (6 * 8 + 4 * 16)));
}

TEST(Work, HasFourAndTenOperationsForAFeature) {
  const WorkOfCalls work(parse_case("moba(lens=40,heads=2,dk=32,block=16)"));
  const auto entries = static_cast<double>(work.forward.entries);
  EXPECT_EQ(work.forward.operations, 4 * 32 * entries);
  EXPECT_EQ(work.backward.operations, 10 * 32 * entries);
}

TEST(Work, MovesEveryTensorOnce) {
  const WorkOfCalls work(parse_case("dense(lens=40,q_lens=30,heads=4,kv_heads=2,dk=32,dv=16)"));
  const int q = 30 * 4 * 32 * 2, k = 40 * 2 * 32 * 2, v = 40 * 2 * 16 * 2, o = 30 * 4 * 16 * 2, lse = 30 * 4 * 4;
  EXPECT_EQ(work.forward.bytes, q + k + v + o + lse);
  EXPECT_EQ(work.backward.bytes, 2 * (q + k + v + o) + lse);
  const char* shared = "nsa(lens=64,dk=8,block=16,compress_block=8,compress_stride=4,top_n=3,shared_kv=1)";
  const char* apart = "nsa(lens=64,dk=8,block=16,compress_block=8,compress_stride=4,top_n=3)";
  EXPECT_EQ(WorkOfCalls(parse_case(apart)).forward.bytes - WorkOfCalls(parse_case(shared)).forward.bytes,
            2 * 2 * 64 * 8 * 2);
}

TEST(Work, ReadsTheKeysThatQueriesNeed) {
  /// The rows of k and v in all key/value heads that the forward reads, in bf16 with 8 features; `others` are the bytes
  /// of the other tensors.
  const auto rows = [](const char* text, int others) {
    return (static_cast<int>(WorkOfCalls(parse_case(text)).forward.bytes) - others) / (8 * 2);
  };
  const int q_o_lse = 2 * (2 * 8 * 2 + 4);  // of a query with two heads
  EXPECT_EQ(rows("dense(lens=40,q_lens=1,heads=2,kv_heads=1,dk=8)", q_o_lse), 40 + 40);
  EXPECT_EQ(rows("window(lens=40,q_lens=3,heads=2,dk=8,window=5)", 3 * q_o_lse), 2 * (7 + 7));
  // the query's own block has 6 keys, and it takes a whole one beside it; all are pooled
  EXPECT_EQ(rows("moba(lens=70,q_lens=1,heads=2,kv_heads=1,dk=8,block=16,top_k=2)", q_o_lse + 2 * 2 * 4), 70 + 22);
  EXPECT_EQ(rows("moba(lens=70,q_lens=1,heads=2,kv_heads=1,dk=8,block=16,top_k=2,gate=sink)", q_o_lse + 2 * 2 * 4),
            22 + 22);
  EXPECT_EQ(rows("moba(lens=70,q_lens=1,heads=2,kv_heads=1,dk=8,block=16,top_k=1)", q_o_lse + 2 * 4), 6 + 6);
  EXPECT_EQ(rows("moba(lens=70+70,heads=2,kv_heads=1,dk=8,block=16,top_k=2)", 140 * (q_o_lse + 2 * 2 * 4)), 140 + 140);
  EXPECT_EQ(rows("moba_select(lens=70,q_lens=1,heads=2,kv_heads=1,dk=8,block=16,top_k=2)", 2 * 8 * 2 + 2 * 2 * 4), 64);

  const char* text = "selected(lens=90+33,q_lens=4+3,heads=4,kv_heads=2,dk=8,block=16,top_k=3)";
  const Case c = parse_case(text);
  const reference::MobaProblem problem = problem_of(c);
  const reference::Selection selection = make_inputs(c).selection;
  std::set<std::array<std::int64_t, 3>> read;  // sequence, key, kv head
  for (const reference::Sequence& sequence : reference::sequences(problem.attention))
    for (std::int64_t token = sequence.q_begin; token < sequence.q_end; ++token)
      for (std::int64_t head = 0; head < 4; ++head)
        for (std::int64_t key = 0; key <= sequence.position(token); ++key) {
          const auto blocks = selection.row(token, head);
          if (std::find(blocks.begin(), blocks.end(), key / 16) != blocks.end())
            read.insert({sequence.k_begin, key, head / 2});
        }
  EXPECT_EQ(rows(text, 7 * (2 * q_o_lse + 4 * 3 * 4)), 2 * std::ssize(read));
}

TEST(Roofline, IsTheLargerOfBothTimes) {
  const cuda::DevicePeaks peaks{"a GPU", 1e12, 1e12, 1e15, 1000};
  const Work work{1, 2e12, 1e9};
  EXPECT_DOUBLE_EQ(roofline_of(work, Format::bf16, peaks).milliseconds(), 2);
  EXPECT_DOUBLE_EQ(roofline_of(work, Format::fp32, peaks).milliseconds(), 4);
  EXPECT_DOUBLE_EQ(roofline_of({1, 1, 3e9}, Format::bf16, peaks).milliseconds(), 3);
  EXPECT_DOUBLE_EQ(uncached_roofline_of({1, 0, 500}, Format::bf16, peaks).milliseconds(), 0);
}

// ---- Measurements ----

Measurement measured_on_device(std::vector<cuda::RunTime> runs) {
  Measurement m;
  m.timing.on_device = true;
  m.timing.runs = std::move(runs);
  return m;
}

TEST(Measurement, IsTheMedianOfItsRuns) {
  EXPECT_EQ(median(std::vector<int>{3, 1, 2}), 2);
  EXPECT_EQ(median(std::vector<int>{4, 1}), 4);
  const Measurement m = measured_on_device({{5, 5}, {1, 1}, {2, 2}, {3, 3}, {100, 100}});
  EXPECT_EQ(m.milliseconds(), 3);
  EXPECT_EQ(m.spread(), 1);
}

TEST(Measurement, AddsUpTheLaunchesOfAKernel) {
  Measurement m;
  m.timing.kernels = {{{"a", 1}, {"b", 5}, {"a", 2}}, {{"a", 1}, {"b", 6}, {"a", 1}}, {{"a", 4}, {"b", 7}, {"a", 4}}};
  const std::vector<Stage> stages = m.stages();
  ASSERT_EQ(stages.size(), 2u);
  EXPECT_EQ(stages[0].kernel, "b");
  EXPECT_EQ(stages[0].milliseconds, 6);
  EXPECT_EQ(stages[1].milliseconds, 3);
  EXPECT_EQ(stages[1].launches, 2);
}

TEST(Measurement, IsInvalidWhereTheHostsClockDisagreesInEveryRun) {
  const cuda::DevicePeaks peaks{"a GPU", 1e12, 1e12, 1e15, 0};
  EXPECT_EQ(why_invalid(measured_on_device({{1, 1.05}, {1, 3}, {1, 9}}), Format::bf16, peaks), "");
  EXPECT_NE(why_invalid(measured_on_device({{1, 1.5}, {1, 3}, {1, 9}}), Format::bf16, peaks).find("left elsewhere"),
            std::string::npos);
}

TEST(Measurement, IsInvalidBelowTheRoofline) {
  const cuda::DevicePeaks peaks{"a GPU", 1e12, 1e12, 1e15, 0};
  Measurement m = measured_on_device({{1, 1}, {1, 1}, {1, 1}});
  m.work.operations = 0.9e12;
  EXPECT_EQ(why_invalid(m, Format::bf16, peaks), "");
  m.work.operations = 1.1e12;
  EXPECT_NE(why_invalid(m, Format::bf16, peaks).find("at least"), std::string::npos);
}

TEST(DenseShape, IsThatOfEqualSequencesOfAllTheirQueriesOrOne) {
  EXPECT_EQ(dense_shape(parse_case("moba(lens=300,heads=4,kv_heads=2,dk=32,dv=16)")), "1,4,2,32,16,300,300,bf16,1");
  EXPECT_EQ(dense_shape(parse_case("window(lens=90+90,q_lens=1+1,dk=32)")), "2,1,1,32,32,1,90,bf16,0");
  EXPECT_EQ(dense_shape(parse_case("moba(lens=30+30)")), "2,1,1,64,64,30,30,bf16,1");
  for (const char* text : {"moba(lens=30+5)", "moba(lens=30,q_lens=4)", "moba(lens=30+30,q_lens=1+30)", "moba(lens=0)",
                           "moba_select(lens=30)"})
    EXPECT_EQ(dense_shape(parse_case(text)), std::nullopt) << text;
}

// ---- Timed calls ----

/// A tensor whose every element tells its head and token.
HostTensor numbered(std::int64_t tokens, std::int64_t heads, double sign) {
  reference::Tensor values(tokens, heads, 4);
  for (std::int64_t token = 0; token < tokens; ++token)
    for (std::int64_t head = 0; head < heads; ++head)
      values.row(token, head).setConstant(sign * static_cast<double>(16 * head + token));
  return {Format::fp32, Layout::strided, values};
}

std::string bits(const HostTensor& tensor) {
  const std::vector<std::byte> rows = tensor.rows();
  return {reinterpret_cast<const char*>(rows.data()), rows.size()};
}

/// The call copies q, of twice as many heads as k, to o.
struct CopyingCall {
  HostTensor q = numbered(3, 8, 1), k = numbered(3, 4, -1), o{Format::fp32, Layout::strided, 3, 8, 4};
  std::vector<std::string> q_of_runs, o_before_runs;  // bits
  Timing timing;

  explicit CopyingCall(const TimingPlan& plan, std::int64_t kv_heads = 4) {
    CallMemory memory(kDLCPU);
    for (HostTensor* tensor : {&q, &k, &o}) {
      tensor->surround(Surroundings::nan);
      memory.of(tensor->view());
    }
    timing = time_call(plan, memory, kv_heads, [&] {
      q_of_runs.push_back(bits(q));
      o_before_runs.push_back(bits(o));
      for (std::int64_t token = 0; token < 3; ++token)
        for (std::int64_t head = 0; head < 8; ++head) {
          EXPECT_EQ(kv_heads == 1 || k.view().load(token, head / 2, 0) == -16 * static_cast<double>(head / 2) - token,
                    q.view().load(token, head, 0) == 16 * static_cast<double>(head) + static_cast<double>(token));
          for (std::int64_t d = 0; d < 4; ++d) o.view().store(token, head, d, q.view().load(token, head, d));
        }
    });
  }
};

TEST(TimedCall, TurnsTheHeadsFromRunToRun) {
  const CopyingCall call({.warm_ups = 2, .repetitions = 9, .seconds = 100, .seed = 5});
  ASSERT_EQ(call.q_of_runs.size(), 11u);
  EXPECT_EQ(call.timing.runs.size(), 9u);
  EXPECT_FALSE(call.timing.on_device);
  EXPECT_EQ(std::set(call.q_of_runs.begin(), call.q_of_runs.end()).size(), 4u);
  for (std::size_t run = 3; run < call.q_of_runs.size(); ++run)  // after both warm-ups
    EXPECT_NE(call.q_of_runs[run], call.q_of_runs[run - 1]);
}

TEST(TimedCall, LeavesWhatOneTimedRunWroteOnTheTensorsAsGiven) {
  std::set<std::ptrdiff_t> judged;
  for (std::uint64_t seed = 0; seed < 50; ++seed) {
    const CopyingCall call({.warm_ups = 1, .repetitions = 4, .seconds = 100, .seed = seed});
    const std::string given = bits(numbered(3, 8, 1));
    EXPECT_EQ(bits(call.o), given);
    EXPECT_EQ(bits(call.q), given);
    EXPECT_EQ(bits(call.k), bits(numbered(3, 4, -1)));
    EXPECT_TRUE(call.o.outside_is_intact());
    const auto as_given = std::find(call.q_of_runs.begin(), call.q_of_runs.end(), given);
    judged.insert(as_given - call.q_of_runs.begin());
  }
  EXPECT_EQ(judged, (std::set<std::ptrdiff_t>{1, 2, 3, 4}));  // any but the warm-up
}

TEST(TimedCall, ShowsNoRunWhatAnotherWrote) {
  const CopyingCall call({.warm_ups = 1, .repetitions = 4, .seconds = 100, .seed = 0});
  EXPECT_EQ(std::set(call.o_before_runs.begin(), call.o_before_runs.end()).size(), 1u);
}

TEST(TimedCall, TurnsNothingWithOneKvHead) {
  const CopyingCall call({.warm_ups = 1, .repetitions = 4, .seconds = 100, .seed = 0}, 1);
  EXPECT_EQ(std::set(call.q_of_runs.begin(), call.q_of_runs.end()).size(), 1u);
}

TEST(TimedCall, MakesFewerRunsWhereTheyTakeLong) {
  EXPECT_EQ(CopyingCall({.warm_ups = 9, .repetitions = 100, .seconds = 1e-9, .seed = 0}).timing.runs.size(), 3u);
  EXPECT_EQ(CopyingCall({.warm_ups = 9, .repetitions = 2, .seconds = 1e-9, .seed = 0}).timing.runs.size(), 2u);
}

// ---- Kernels ----

BenchResult bench_adversary(const std::string& name, const std::string& text) {
  const Kernel kernel = load_kernel(std::string(ATTNSPEC_ADVERSARIES_DIR) + "/" + name + ".so");
  return bench(kernel, parse_case(text), {.repetitions = 5}, {Direction::forward}, std::nullopt);
}

TEST(Bench, TimesEveryCallOfTheJudge) {
  const Kernel kernel = load_kernel(ATTNSPEC_EXAMPLE);
  const Case c = parse_case("dense(lens=40,heads=2,dk=16)");
  const BenchResult both =
      bench(kernel, c, {.repetitions = 5}, {Direction::forward, Direction::backward}, std::nullopt);
  EXPECT_EQ(both.judged.verdict, Verdict::pass);
  ASSERT_EQ(both.measurements.size(), 2u);
  for (const Measurement& m : both.measurements) {
    EXPECT_EQ(m.timing.runs.size(), 2u * 5);  // among numbers, and among NaN
    EXPECT_GT(m.milliseconds(), 0);
    EXPECT_FALSE(m.roofline.has_value());
  }
  EXPECT_EQ(both.measurements[1].direction, Direction::backward);
  EXPECT_EQ(both.workspace_bytes, kernel.workspace_bytes(c));
  EXPECT_DOUBLE_EQ(both.workspace_share, static_cast<double>(both.workspace_bytes) / (4 * 40 * 2 * 16 * 2));
  const BenchResult backward = bench(kernel, c, {.repetitions = 5}, {Direction::backward}, std::nullopt);
  ASSERT_EQ(backward.measurements.size(), 1u);
  EXPECT_EQ(backward.measurements[0].direction, Direction::backward);
}

TEST(Bench, TimesSimulatedKernels) {
  const auto simulated =
      std::find_if(kernels().begin(), kernels().end(), [](const Kernel& k) { return k.is_simulated; });
  if (simulated == kernels().end()) GTEST_SKIP() << "there is no simulator";
  const BenchResult result = bench(*simulated, parse_case("moba(lens=20,heads=2,dk=16,block=8)"), {.repetitions = 3},
                                   {Direction::forward, Direction::backward}, std::nullopt);
  EXPECT_EQ(result.judged.verdict, Verdict::pass);
  EXPECT_EQ(result.measurements.size(), 2u);
}

TEST(Bench, IsNotFooledByKernelsThatRemember) {
  for (const char* name : {"keeps_by_address", "keeps_by_shape", "tires", "trusts_its_workspace"})
    EXPECT_TRUE(is_finding(bench_adversary(name, "dense(lens=50,heads=4,dk=16)").judged.verdict)) << name;
}

TEST(Bench, SaysWhyAKernelWasNotTimed) {
  const BenchResult refused = bench_adversary("refuses", "dense(lens=50,heads=4,dk=16)");
  EXPECT_EQ(refused.judged.verdict, Verdict::call_failed);
  EXPECT_TRUE(refused.measurements.empty());
  const BenchResult limited = bench_adversary("skips_light_blocks", "moba(lens=50,heads=4,dk=16,dtype=fp16)");
  EXPECT_EQ(limited.judged.verdict, Verdict::not_supported);
  EXPECT_EQ(limited.workspace_bytes, 0);
}

}  // namespace
}  // namespace attnspec::fuzz
