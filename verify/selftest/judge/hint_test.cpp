// Hints: arithmetic that a kernel does and does not declare is named, and a fault never is.

#include "verify/judge/hint.hpp"

#include <gtest/gtest.h>

#include <algorithm>
#include <string>
#include <vector>

#include "verify/cases/levels.hpp"
#include "verify/judge/judge.hpp"
#include "verify/kernels.hpp"
#include "verify/model/defects/defects.hpp"

namespace attnspec::verify {
namespace {

/// A kernel of that name, which declares other options than those that it plays.
Kernel declaring(const std::string& name, const reference::ArithmeticOptions& options) {
  Kernel kernel = find_kernel(name);
  kernel.arithmetic = options;
  return kernel;
}

std::vector<CaseResult> judged(const Kernel& kernel, const std::vector<std::string>& cases) {
  std::vector<CaseResult> results;
  for (const std::string& text : cases) results.push_back(judge(kernel, parse_case(text)));
  return results;
}

std::string hint_of(const Kernel& kernel, const std::vector<std::string>& cases) {
  return hint(kernel, judged(kernel, cases), std::chrono::hours{1});  // whatever the machine and the compiler
}

/// What a kernel plays, and cases that accuse it.
struct Undeclared {
  const char* option;
  std::vector<std::string> cases;
};

TEST(Hint, NamesTheArithmeticThatIsNotDeclared) {
  const Undeclared all[] = {
      {"rounded_head_gradients",
       {"dense(lens=200,heads=8,kv_heads=1,dk=32,dv=32,regime=subnormal,dtype=fp16)",
        "dense(lens=200,heads=8,kv_heads=1,dk=64,dv=64)", "dense(lens=300,heads=16,kv_heads=2,dk=32,dv=64,seed=3)",
        "dense(lens=200,heads=16,kv_heads=1,dk=64,dv=32,causal=0,seed=4)"}},
      {"scaled_q", {"dense(lens=200,heads=2,scale=0.3)"}},
      {"softmax_delta", {"dense(lens=200,heads=2,regime=spiky)"}},
      {"rounded_gradient_sums", {"nsa(lens=200,heads=4,kv_heads=2,regime=large)"}},
      {"scaled_k", {"dense(lens=150,heads=2,scale=0.3,regime=spiky)"}},
  };
  for (const auto& [option, cases] : all) {
    const Kernel kernel =
        declaring(std::string(cases[0].starts_with("nsa") ? "model:nsa+" : "model:moba+") + option, {});
    const std::vector<CaseResult> results = judged(kernel, cases);
    const std::string line = hint(kernel, results);
    const bool is_accused = std::any_of(results.begin(), results.end(),
                                        [](const CaseResult& result) { return is_finding(result.verdict); });
    if (is_accused)
      EXPECT_TRUE(line.starts_with(std::string("hint: fits ") + option + " (")) << option << ": " << line;
    else
      EXPECT_EQ(line, "") << option;
  }
}

TEST(Hint, AddsToWhatIsDeclared) {
  const std::string line =
      hint_of(declaring("model:moba+scaled_q+fp32_out", {"fp32_out"}), {"dense(lens=200,heads=2,scale=0.3)"});
  EXPECT_TRUE(line.starts_with("hint: fits scaled_q (")) << line;
  EXPECT_TRUE(line.ends_with("declare it: arithmetic=\"fp32_out+scaled_q\"")) << line;
}

TEST(Hint, IsNeverAPass) {
  const Kernel kernel = declaring("model:moba+scaled_q", {});
  const CaseResult result = judge(kernel, parse_case("dense(lens=200,heads=2,scale=0.3)"));
  hint(kernel, {result});
  EXPECT_EQ(result.verdict, Verdict::value_out_of_bound);
}

TEST(Hint, SaysNothingOfWhatIsNoRounding) {
  EXPECT_EQ(hint_of(find_kernel("model:moba"), {"dense(lens=40)"}), "");
  EXPECT_EQ(hint_of(find_kernel("defect:own_block_not_forced"), {"moba(lens=300,block=16,top_k=3)"}), "");
}

TEST(Hint, SaysThatNothingExplainsAFault) {
  EXPECT_EQ(hint_of(find_kernel("defect:delta_missing"), {"moba(lens=160,block=32,top_k=3)"}),
            "hint: no declared arithmetic explains these findings");
}

/// At most one case of fifty gives a planted defect a hint, from whatever case of its own the search comes upon.
TEST(Hint, DoesNotExplainPlantedDefects) {
  std::size_t accused = 0, explained = 0;
  std::string which;
  for (const model::Defect& defect : model::defects()) {
    const Kernel kernel = find_kernel(std::string("defect:") + defect.name);
    for (const Case& c : level_cases(defect.op, 1)) {
      if (c.law != Law::none || c.heads * (c.dk + c.dv) > 300) continue;
      const CaseResult result = judge(kernel, c);
      if (!is_finding(result.verdict)) continue;
      ++accused;
      if (const std::string line = hint(kernel, {result}); line.starts_with("hint: fits")) {
        ++explained;
        which += std::string(defect.name) + " " + print(c) + " " + line + "\n";
      }
      break;
    }
  }
  EXPECT_GE(accused, 55u);
  EXPECT_LE(50 * explained, accused) << which;
}

TEST(OverDeclaration, NamesAnOptionThatIsNotPlayed) {
  const std::vector<std::string> cases{"dense(lens=200,heads=4,kv_heads=1)"};
  const Kernel plain = declaring("model:moba", {"rounded_head_gradients"});
  EXPECT_EQ(over_declaration(plain, judged(plain, cases), std::chrono::hours{1}),
            "hint: declares more than it does: everything that was tried passes without rounded_head_gradients");
  const Kernel honest = find_kernel("model:moba+rounded_head_gradients+rounded_p_in_ds");
  EXPECT_EQ(over_declaration(honest, judged(honest, cases), std::chrono::hours{1}), "");
}

}  // namespace
}  // namespace attnspec::verify
