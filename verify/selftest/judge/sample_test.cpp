// A case with a sample is judged on rows of it: those that always belong to a sample and those the seed chooses, with
// the values that they have when all rows are judged.

#include "verify/judge/sample.hpp"

#include <gtest/gtest.h>

#include <algorithm>
#include <cmath>
#include <functional>
#include <limits>
#include <map>
#include <mutex>
#include <set>
#include <string>

#include "verify/judge/judge.hpp"
#include "verify/kernels.hpp"
#include "verify/selftest/judge/altered_kernel.hpp"

namespace attnspec::verify {
namespace {

JudgedRows queries_of(const Case& c) { return judged_queries(c, problem_of(c).attention, c.heads); }
JudgedRows keys_of(const Case& c) { return judged_keys(c, problem_of(c).attention); }

TEST(Sample, OfNoneIsEveryRow) {
  for (const char* text :
       {"moba(lens=40+0+3,heads=4,kv_heads=2)", "moba(lens=40+0+3,heads=4,kv_heads=2,sample=1000)"}) {
    const Case c = parse_case(text);
    EXPECT_TRUE(queries_of(c).are_all());
    EXPECT_TRUE(keys_of(c).are_all());
    ASSERT_EQ(queries_of(c).places.size(), 43u * 4);
    EXPECT_EQ(queries_of(c).places[40], (Place{0, 0, 1}));  // one head after the other
  }
}

TEST(Sample, HasTheFirstAndTheLastRowOfEverySequenceAndHeadAndNoMoreThanWereAsked) {
  for (const std::int64_t sample : {24, 100, 1000}) {
    Case c = parse_case("moba(lens=5000+1+300,q_lens=5000+1+40,heads=4,kv_heads=2,block=96)");
    c.sample = sample;
    validate(c);
    const JudgedRows queries = queries_of(c), keys = keys_of(c);
    EXPECT_LE(std::ssize(queries.places), sample);
    EXPECT_GE(std::ssize(queries.places), sample / 2);
    EXPECT_LE(std::ssize(keys.places), sample / 2);  // each sums over two heads
    EXPECT_EQ(queries.all(), 5041 * 4);
    for (std::int64_t s = 0; s < 3; ++s) {
      for (std::int64_t head = 0; head < 4; ++head)
        for (const std::int64_t token : {std::int64_t{0}, c.q_lens[static_cast<std::size_t>(s)] - 1})
          EXPECT_TRUE(queries.contains({s, token, head})) << s << " " << token << " " << head;
      for (std::int64_t g = 0; g < 2; ++g)
        for (const std::int64_t token : {std::int64_t{0}, c.lens[static_cast<std::size_t>(s)] - 1})
          EXPECT_TRUE(keys.contains({s, token, g})) << s << " " << token << " " << g;
    }
  }
}

/// How many rows of a sample have their neighbour across an edge in it, too.
std::int64_t edges_of(const JudgedRows& rows, std::int64_t block, std::int64_t first_position) {
  return std::count_if(rows.places.begin(), rows.places.end(), [&](const Place& place) {
    return place.token > 0 && (place.token + first_position) % block == 0 &&
           rows.contains({place.sequence, place.token - 1, place.head});
  });
}

TEST(Sample, HasBothSidesOfEdgesOfBlocksAndTiles) {
  const Case c = parse_case("moba(lens=100000,q_lens=99990,block=1000,sample=400)");
  const JudgedRows queries = queries_of(c), keys = keys_of(c);
  EXPECT_GE(edges_of(queries, 1000, 10), 40);  // positions begin at 10
  EXPECT_GE(edges_of(keys, 1000, 0), 40);
  EXPECT_GE(edges_of(queries, 16, 0), 40);  // tiles are counted from the first row
  EXPECT_GE(edges_of(keys, 128, 0), 10);
  std::set<std::int64_t> quarters;  // and rows from everywhere
  for (const Place& place : queries.places) quarters.insert(place.token / 25000);
  EXPECT_EQ(quarters.size(), 4u);
}

TEST(Sample, IsAFunctionOfTheSeed) {
  Case c = parse_case("moba(lens=10000,heads=2,sample=100)");
  const JudgedRows first = queries_of(c), again = queries_of(c);
  EXPECT_EQ(first.places, again.places);
  const auto by_place = [](const Place& a, const Place& b) {
    return std::tuple(a.sequence, a.head, a.token) < std::tuple(b.sequence, b.head, b.token);
  };
  EXPECT_TRUE(std::is_sorted(first.places.begin(), first.places.end(), by_place));
  c.seed = 1;
  EXPECT_NE(queries_of(c).places, first.places);
}

/// R of every row that is judged, by output.
std::map<std::string, std::multiset<double>> r_of(const Kernel& kernel, const Case& c) {
  std::mutex mutex;
  std::map<std::string, std::multiset<double>> r;
  judge(kernel, c, [&](const ObservedRow& observed) {
    const std::string& output = observed.kind;
    const RowComparison& row = observed.comparison;
    const std::lock_guard lock(mutex);
    r[output].insert(row.fault == RowFault::none ? row.r : -row.r);
  });
  return r;
}

TEST(Sample, IsJudgedAsTheSameRowsOfTheWholeCase) {
  for (const auto& [text, name] : std::map<const char*, const char*>{
           {"moba(lens=150+40,heads=4,kv_heads=2,dk=16,block=32)", "model:moba"},
           {"moba(lens=200,heads=2,dk=16,block=32,dtype=fp32)", "defect:scale_off"},
           {"dense(lens=150+20,dk=16)", "model:moba"},
           {"selected(lens=200,heads=4,kv_heads=2,dk=16,block=32)", "defect:wrong_gqa_map"},
           {"nsa(lens=80,heads=2,kv_heads=1,dk=16,block=32,window=20)", "model:nsa"}}) {
    const Kernel kernel = find_kernel(name);
    Case c = parse_case(text);
    const auto whole = r_of(kernel, c);
    c.sample = 60;
    for (const auto& [output, rows] : r_of(kernel, c)) {
      const std::multiset<double>& all = whole.at(output);
      for (const double r : rows) {
        const auto near = all.lower_bound(r - 1e-9);
        EXPECT_TRUE(near != all.end() && *near <= r + 1e-9) << text << " " << output << " " << r;
      }
    }
  }
}

TEST(Sample, IsCountedInEveryOutput) {
  const CaseResult moba =
      judge(find_kernel("model:moba"), parse_case("moba(lens=500,heads=4,kv_heads=2,dk=16,block=32,sample=80)"));
  EXPECT_EQ(moba.verdict, Verdict::pass);
  ASSERT_EQ(moba.outputs.size(), 6u);
  for (const OutputSummary& output : moba.outputs) {
    const bool of_keys = output.output == "dk" || output.output == "dv";
    EXPECT_EQ(output.rows, of_keys ? 40 : 80) << output.output;
    EXPECT_EQ(output.all, 500 * (of_keys ? 2 : 4)) << output.output;
  }
  const Kernel nsa = find_kernel("model:nsa");
  for (const char* text :
       {"nsa_compressed(lens=500,heads=4,kv_heads=2,dk=16,sample=80)",
        "window(lens=500,heads=4,kv_heads=2,dk=16,sample=80)", "nsa(lens=100,heads=4,kv_heads=2,dk=16,sample=80)"}) {
    const CaseResult result = judge(nsa, parse_case(text));
    EXPECT_EQ(result.verdict, Verdict::pass) << text;
    for (const OutputSummary& output : result.outputs) {
      if (output.output.ends_with("o") || output.output == "dq") {
        EXPECT_EQ(output.rows, 80) << text << output.output;
      }
    }
  }
}

const char* const kCase = "moba(lens=700,heads=2,kv_heads=1,dk=8,block=32,sample=32)";

TEST(Sample, ShowsMistakesInTheFirstAndTheLastRow) {
  for (const std::int64_t token : {0, 699}) {
    const auto spoil = [=](const TensorView& view) { view.store(token, view.heads - 1, 3, 77); };
    const std::map<std::string, Kernel> kernels{{"o", altered([=](const AnyCall& call) { spoil(call["o"]); })},
                                                {"dq", altered({}, [=](const AnyCall& call) { spoil(call["dq"]); })},
                                                {"dk", altered({}, [=](const AnyCall& call) { spoil(call["dk"]); })},
                                                {"dv", altered({}, [=](const AnyCall& call) { spoil(call["dv"]); })}};
    for (const auto& [output, kernel] : kernels) {
      const CaseResult result = judge(kernel, parse_case(kCase));
      EXPECT_EQ(result.verdict, Verdict::value_out_of_bound) << output;
      ASSERT_FALSE(result.findings.empty());
      EXPECT_EQ(result.findings.at(0).output, output);
      EXPECT_EQ(result.findings.at(0).token, token);
    }
  }
}

TEST(Sample, ShowsPlantedDefects) {
  for (const auto& [defect, text] : std::map<std::string, const char*>{
           {"own_block_not_forced", "moba(lens=1000,dk=16,block=64,sample=64)"},
           {"own_block_beside_top_k", "moba(lens=1000,dk=16,block=64,sample=64)"},
           {"future_token_visible", "moba(lens=1000,dk=16,block=64,sample=64)"},
           {"dk_of_one_head", "moba(lens=1000,heads=2,kv_heads=1,dk=16,block=64,sample=64)"},
           {"last_short_block_dropped", "selected(lens=1000,dk=16,block=64,top_k=4,sample=64)"},
           {"one_key_dropped", "dense(lens=600,dk=16,sample=64)"},
           {"gradients_of_another_head", "dense(lens=600,heads=2,dk=16,sample=64)"},
           {"window_of_one_more", "window(lens=1000,dk=16,window=64,sample=64)"}})
    EXPECT_TRUE(is_finding(judge(find_kernel("defect:" + defect), parse_case(text)).verdict)) << defect;
}

/// A query of the last head that the sample lacks.
Place outside(const JudgedRows& rows) {
  Place place{0, 1, rows.heads - 1};
  while (rows.contains(place)) ++place.token;
  return place;
}

TEST(Sample, LeavesNoNanAndNoMalformedSelectionUnseen) {
  const Case c = parse_case(kCase);
  const Place query = outside(queries_of(c)), key = outside(keys_of(c));
  const auto nan_at = [](const TensorView& view, const Place& place) {
    view.store(place.token, place.head, 5, std::nan(""));
  };
  const std::map<std::string, Kernel> kernels{
      {"o", altered([=](const AnyCall& call) { nan_at(call["o"], query); })},
      {"dq", altered({}, [=](const AnyCall& call) { nan_at(call["dq"], query); })},
      {"dv", altered({}, [=](const AnyCall& call) { nan_at(call["dv"], key); })}};
  for (const auto& [output, kernel] : kernels) {
    const CaseResult result = judge(kernel, c);
    EXPECT_EQ(result.verdict, Verdict::non_finite) << output;
    ASSERT_EQ(result.findings.size(), 1u) << output;
    EXPECT_EQ(result.findings.at(0).output, output);
    EXPECT_EQ(result.findings.at(0).token, output == "dv" ? key.token : query.token);
    EXPECT_EQ(result.findings.at(0).d, 5);
  }
  const Kernel twice = altered([=](const AnyCall& call) {
    std::int32_t* blocks = call.selection.row(query.token, query.head);
    blocks[0] = blocks[1] = blocks[2] = 0;
  });
  const CaseResult result = judge(twice, c);
  EXPECT_EQ(result.verdict, Verdict::selection_mismatch);
  ASSERT_EQ(result.findings.size(), 1u);
  EXPECT_EQ(result.findings.at(0).token, query.token);
}

TEST(Sample, LeavesTheBackwardUndecidedWhereSelectionsAreHidden) {
  Kernel kernel = find_kernel("model:moba");
  kernel.exports_selection = false;
  const CaseResult result = judge(kernel, parse_case(kCase));
  EXPECT_EQ(result.verdict, Verdict::undecided);
  EXPECT_EQ(result.reason, "backward not judged: the selection it would be given is not known");
  ASSERT_EQ(result.outputs.size(), 2u);
  EXPECT_EQ(result.outputs[0].findings, 0);
  kernel.forward_only = kernel.operators;
  EXPECT_EQ(judge(kernel, parse_case(kCase)).verdict, Verdict::pass);
}

}  // namespace
}  // namespace attnspec::verify
