// Sessions: where the tensors of their calls lie, and kernels with a memory that they find out.

#include "verify/cases/session.hpp"

#include <gtest/gtest.h>

#include <algorithm>
#include <cmath>
#include <cstddef>
#include <map>
#include <optional>
#include <tuple>
#include <vector>

#include "verify/judge/judge.hpp"
#include "verify/judge/report.hpp"
#include "verify/kernels.hpp"
#include "verify/selftest/judge/altered_kernel.hpp"

namespace attnspec::verify {
namespace {

constexpr const char* kCase = "moba(lens=40+24,heads=2,dk=16,block=8,seed=3";

CaseResult judge_session(const Kernel& kernel, const std::string& steps) {
  return judge(kernel, parse_case(std::string(kCase) + (steps.empty() ? ")" : ",session=" + steps + ")")));
}

/// The call of the verdict's finding.
std::string failing_call(const CaseResult& result) {
  return result.findings.empty() ? "none" : result.findings.front().call;
}

/// The model kernel, which knows calls by a key: where it has seen the key before, it takes the queries of that call.
template <class Key>
Kernel make_remembering(Key key) {
  Kernel kernel = find_kernel("model:moba");
  auto seen = std::make_shared<std::map<decltype(key(std::declval<AnyCall>())), reference::Tensor>>();
  kernel.is_reentrant = false;
  replace_forward(kernel, [seen, key](const AnyCall& call, const DoCall& do_call) {
    const auto [entry, is_new] = seen->try_emplace(key(call), load(call["q"]));
    HostTensor q(call["q"].format, Layout::contiguous, entry->second);
    AnyCall stale = call;
    stale["q"] = q.view();
    do_call(stale);
  });
  return kernel;
}

TEST(Session, HasACallForEachStep) {
  const auto calls = session_calls(parse_case("moba(lens=9+4,seed=1,session=contents+shape+moved+offsets+again)"));
  std::vector<std::string> printed;
  std::vector<std::size_t> places;
  for (const SessionCall& call : calls) {
    printed.push_back(print(call.c));
    places.push_back(call.place);
  }
  EXPECT_EQ(printed,
            (std::vector<std::string>{"moba(lens=9+4,seed=1)", "moba(lens=9+4,seed=2)", "moba(lens=4+4,seed=2)",
                                      "moba(lens=4+4,seed=2)", "moba(lens=4+4,seed=2)", "moba(lens=9+4,seed=1)"}));
  EXPECT_EQ(places, (std::vector<std::size_t>{0, 0, 0, 1, 1, 0}));
  EXPECT_EQ(print(session_calls(parse_case("moba(lens=9+4,q_lens=3+2,session=offsets)")).back().c),
            "moba(lens=4+9,q_lens=2+3)");
}

TEST(Session, WritesAStepThatIsRepeatedWithAFactor) {
  const Case c = parse_case("dense(session=contents+24*again)");
  EXPECT_EQ(c.session.size(), 25u);
  EXPECT_EQ(print(c), "dense(session=contents+24*again)");
  EXPECT_EQ(parse_case("dense(session=2*again)"), parse_case("dense(session=again+again)"));
  for (const char* wrong : {"0*again", "1001*again", "2*", "x*again"})
    EXPECT_THROW(parse_case(std::string("dense(session=") + wrong + ")"), std::invalid_argument) << wrong;
}

TEST(Session, PutsTheCallsOfOnePlaceAtTheSameAddresses) {
  std::vector<void*> q, o;
  Kernel kernel = find_kernel("model:moba");
  replace_forward(kernel, [&q, &o](const AnyCall& call, const DoCall& do_call) {
    q.push_back(call["q"].data);
    o.push_back(call["o"].data);
    do_call(call);
  });
  EXPECT_EQ(judge_session(kernel, "contents+moved+offsets+shape+again").verdict, Verdict::pass);
  ASSERT_EQ(q.size(), 12);  // each call runs twice
  for (const auto& data : {q, o}) {
    EXPECT_EQ(data[2], data[0]);
    EXPECT_NE(data[4], data[0]);
    EXPECT_EQ(data[6], data[4]);
    EXPECT_EQ(data[8], data[4]);
    EXPECT_EQ(data[10], data[0]);
  }
}

TEST(Session, AddsUpWhatWasJudgedOfItsCalls) {
  const Kernel kernel = find_kernel("model:moba");
  const CaseResult alone = judge_session(kernel, ""), session = judge_session(kernel, "moved+contents+again");
  EXPECT_EQ(session.verdict, Verdict::pass);
  EXPECT_EQ(session.rows(), 4 * alone.rows());
}

TEST(Session, FindsResultsKeptByAddress) {
  const Kernel kernel = make_remembering([](const AnyCall& call) { return call["q"].data; });
  EXPECT_EQ(judge_session(kernel, "").verdict, Verdict::pass);
  EXPECT_EQ(judge_session(kernel, "moved+again").verdict, Verdict::pass);
  const CaseResult result = judge_session(kernel, "moved+contents");
  EXPECT_TRUE(is_finding(result.verdict));
  EXPECT_EQ(failing_call(result), "call 3, contents");
  EXPECT_NE(failure_line(result, result.findings.front()).find(" (call 3, contents) => "), std::string::npos);
}

TEST(Session, EndsWithTheCallThatFails) {
  const auto judged = [](const char* steps) {
    return judge_session(make_remembering([](const AnyCall& call) { return call["q"].data; }), steps);
  };
  EXPECT_EQ(judged("moved+contents+again+again").failing_call, 3);
  EXPECT_EQ(judged("moved+contents+again+again").rows(), judged("moved+contents").rows());
}

TEST(Session, LeavesInTheWorkspaceWhatTheCallBeforeWrote) {
  Kernel kernel = find_kernel("model:moba");
  kernel.workspace_bytes = [](const Case&) { return 8; };
  replace_forward(kernel, [](const AnyCall& call, const DoCall& do_call) {
    constexpr std::byte kMark{0x5a};
    do_call(call);
    if (std::ranges::count(call.workspace, kMark) == 8) call["lse"].store(0, 0, 0, 77);
    std::ranges::fill(call.workspace, kMark);
  });
  EXPECT_EQ(judge_session(kernel, "").verdict, Verdict::pass);
  EXPECT_TRUE(is_finding(judge_session(kernel, "again").verdict));
}

TEST(Session, FindsResultsKeptByShape) {
  const auto shape = [](const AnyCall& call) { return std::tuple{call["q"].tokens, call["q"].heads, call["q"].dim}; };
  EXPECT_TRUE(is_finding(judge_session(make_remembering(shape), "shape+contents").verdict));
}

TEST(Session, FindsAddressesKeptFromTheFirstCall) {
  Kernel kernel = find_kernel("model:moba");
  auto first = std::make_shared<std::optional<TensorView>>();
  replace_forward(kernel, [first](const AnyCall& call, const DoCall& do_call) {
    if (!*first) *first = call["q"];
    AnyCall old = call;
    old["q"] = **first;
    do_call(old);
  });
  const CaseResult result = judge_session(kernel, "moved");
  EXPECT_TRUE(is_finding(result.verdict));
  EXPECT_EQ(failing_call(result), "call 2, moved");
}

TEST(Session, LeavesNothingBehindTheKeysOfALargerCall) {
  Kernel kernel = find_kernel("model:moba");
  auto first = std::make_shared<std::optional<std::int64_t>>();
  replace_forward(kernel, [first](const AnyCall& call, const DoCall& do_call) {
    if (!*first) *first = call["v"].tokens;
    TensorView v = call["v"];
    v.tokens = **first;  // a call with fewer keys reads behind them
    for (std::int64_t token = call["v"].tokens; token < v.tokens; ++token)
      if (std::isnan(v.load(token, 0, 0))) call["q"].store(0, 0, 0, std::nan(""));
    do_call(call);
  });
  EXPECT_EQ(judge_session(kernel, "").verdict, Verdict::pass);
  EXPECT_TRUE(is_finding(judge_session(kernel, "shape").verdict));
}

TEST(Law, RepeatFindsAddressesKeptFromTheFirstCall) {
  Kernel kernel = find_kernel("model:moba");
  auto first = std::make_shared<std::optional<TensorView>>();
  replace_forward(kernel, [first](const AnyCall& call, const DoCall& do_call) {
    if (!*first) *first = call["k"];
    AnyCall old = call;
    old["k"] = **first;
    do_call(old);
  });
  EXPECT_EQ(judge(kernel, parse_case(std::string(kCase) + ",law=repeat)")).verdict, Verdict::law_broken);
}

TEST(Session, FindsOffsetsKeptByTheirNumber) {
  Kernel kernel = find_kernel("model:moba");
  auto kept = std::make_shared<std::map<std::size_t, reference::MobaProblem>>();
  replace_forward(kernel, [kept](const AnyCall& call, const DoCall& do_call) {
    const auto [entry, is_new] = kept->try_emplace(call.problem.attention.k_offsets.size(), call.problem);
    do_call({call.op, false, entry->second, call.nsa, call.tensors, call.selection});
  });
  EXPECT_TRUE(is_finding(judge_session(kernel, "offsets").verdict));
}

}  // namespace
}  // namespace attnspec::verify
