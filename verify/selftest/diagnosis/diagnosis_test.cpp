// The stage and the pattern of wrong rows: kernels with a fault in a known place, and the words for it.

#include "verify/diagnosis/diagnosis.hpp"

#include <gtest/gtest.h>

#include <algorithm>
#include <functional>
#include <string>
#include <vector>

#include "verify/judge/judge.hpp"
#include "verify/selftest/judge/altered_kernel.hpp"

namespace attnspec::verify {
namespace {

using IsWrong = std::function<bool(std::int64_t token, std::int64_t head, std::int64_t d)>;

/// Adds 1 to the elements of o, by their place in the packed tensor.
Kernel with_wrong_o(const IsWrong& is_wrong) {
  return altered([is_wrong](const AnyCall& call) {
    const TensorView& o = call["o"];
    for (std::int64_t t = 0; t < o.tokens; ++t)
      for (std::int64_t h = 0; h < o.heads; ++h)
        for (std::int64_t d = 0; d < o.dim; ++d)
          if (is_wrong(t, h, d)) o.store(t, h, d, o.load(t, h, d) + 1);
  });
}

Pattern pattern_of(const IsWrong& is_wrong, const std::string& text) {
  const Kernel kernel = with_wrong_o(is_wrong);
  const Diagnosis diagnosis = diagnose(kernel, {judge(kernel, parse_case(text))}, std::chrono::seconds(600));
  const auto found = std::find_if(diagnosis.patterns.begin(), diagnosis.patterns.end(),
                                  [](const Pattern& pattern) { return pattern.output == "o"; });
  return found == diagnosis.patterns.end() ? Pattern{} : *found;
}

TEST(Pattern, IsTheSimplestThatSeparates) {
  const std::string heads = "dense(lens=40,heads=8,kv_heads=2,dk=8)", tokens = "dense(lens=200,heads=2,dk=8)",
                    sequences = "dense(lens=10+20+7,heads=2,dk=8)", blocks = "moba(lens=70,heads=2,dk=8,block=16)";
  struct Expected {
    std::string words;
    IsWrong is_wrong;
    std::string text;
  };
  const Expected all[] = {
      {"every row", [](auto, auto, auto) { return true; }, heads},
      {"only kv head 1", [](auto, auto h, auto) { return h >= 4; }, heads},
      {"only head 5", [](auto, auto h, auto) { return h == 5; }, heads},
      {"only head 3 of each group", [](auto, auto h, auto) { return h % 4 == 3; }, heads},
      {"only the last sequence", [](auto t, auto, auto) { return t >= 30; }, sequences},
      {"only the last row of each sequence", [](auto t, auto, auto) { return t == 9 || t == 29 || t == 36; },
       sequences},
      {"only t >= 130", [](auto t, auto, auto) { return t >= 130; }, tokens},
      {"only row % 64 == 63", [](auto t, auto, auto) { return t % 64 == 63; }, tokens},
      {"only the last block", [](auto t, auto, auto) { return t >= 64; }, blocks},
      {"only t % B == B - 1, the last token of a block", [](auto t, auto, auto) { return t % 16 == 15; },
       "moba(lens=70,heads=2,dk=8,block=16)"},
  };
  for (const auto& [words, is_wrong, text] : all) {
    const Pattern pattern = pattern_of(is_wrong, text);
    EXPECT_EQ(pattern.words, words) << pattern.line();
    EXPECT_EQ(pattern.recall, 1) << words << ": " << pattern.line();
    EXPECT_EQ(pattern.precision, 1) << words << ": " << pattern.line();
  }
}

TEST(Pattern, NamesFeatures) {
  const Pattern pattern =
      pattern_of([](auto, auto h, auto d) { return h == 1 && d >= 64; }, "dense(lens=30,heads=2,dk=8,dv=96)");
  EXPECT_EQ(pattern.words, "only kv head 1");
  EXPECT_EQ(pattern.features, "only features >= 64");
  EXPECT_EQ(pattern.line(),
            "o is wrong in 30 of 60 rows: only kv head 1 (precision 1.00, recall 1.00), only features >= 64");
}

TEST(Pattern, SaysWhereNoWordsFit) {
  for (const std::int64_t most : {2, 9}) {  // of 11 rows; also where most are wrong, but not every one
    const Pattern pattern =
        pattern_of([=](auto t, auto h, auto) { return (t * 7 + h * 5) % 11 < most; }, "dense(lens=150,heads=3,dk=8)");
    EXPECT_EQ(pattern.words, "") << pattern.line();
  }
}

std::string stage_of(const std::string& kernel_name, const std::string& text) {
  const Kernel kernel = find_kernel(kernel_name);
  return diagnose(kernel, {judge(kernel, parse_case(text))}, std::chrono::seconds(600)).stage;
}

TEST(Stage, IsTheEarliestThatIsWrong) {
  EXPECT_EQ(stage_of("defect:future_token_visible", "moba(lens=40,dk=16,block=8)"),
            "scores, mask or softmax (o and lse are wrong)");
  EXPECT_EQ(stage_of("defect:lse_in_base_two", "moba(lens=40,dk=16,block=8)"), "lse as it is stored (o is right)");
  EXPECT_EQ(stage_of("defect:mean_over_block_size", "moba_select(lens=12,block=8,causal=0,top_k=1)"),
            "pooling, gate or selection");
  EXPECT_TRUE(stage_of("defect:own_block_not_forced", "moba(lens=300,block=16,top_k=3)")
                  .starts_with("selection, whatever the scores are ("));
  EXPECT_EQ(stage_of("defect:delta_missing", "moba(lens=60,dk=16,block=32)"),
            "backward (dk, dq; the forward is right)");
  EXPECT_EQ(stage_of("defect:gates_swapped", "nsa(lens=60,heads=2,kv_heads=1,dk=16)"),
            "gates: the sum of the branches (the branches are right)");
  EXPECT_TRUE(
      stage_of("defect:merge_without_rescaling", "moba(lens=100,dk=16,block=16)").starts_with("merge of the blocks"));
  EXPECT_EQ(stage_of("defect:values_centred", "selected(lens=40,block=8,law=unselected)"),
            "law unselected: two calls differ in rows that must be equal");
}

TEST(Stage, IsAStateWhereACallPassesAlone) {
  std::int64_t calls = 0;
  Kernel kernel = altered([&](const AnyCall& call) {
    if (++calls > 2) call["o"].store(0, 0, 0, 7);  // after the two runs of the first call
  });
  kernel.forget = [&] { calls = 0; };
  const CaseResult result = judge(kernel, parse_case("dense(lens=9,dk=8,session=contents)"));
  ASSERT_EQ(result.failing_call, 2);
  EXPECT_EQ(diagnose(kernel, {result}, std::chrono::seconds(600)).stage, "state between calls (call 2 passes alone)");
}

TEST(Diagnosis, HasNoLinesWithoutAFinding) {
  const Kernel& kernel = model_kernel();
  EXPECT_TRUE(diagnose(kernel, {judge(kernel, parse_case("dense(lens=20)"))}).lines().empty());
}

}  // namespace
}  // namespace attnspec::verify
