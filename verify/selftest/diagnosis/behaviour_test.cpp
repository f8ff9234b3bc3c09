// What a wrong kernel behaves like: planted defects are named, and no other kernel is given a name without "perhaps".

#include "verify/diagnosis/behaviour.hpp"

#include <gtest/gtest.h>

#include <algorithm>
#include <string>
#include <vector>

#include "verify/cases/levels.hpp"
#include "verify/cases/space/work.hpp"
#include "verify/judge/judge.hpp"
#include "verify/kernels.hpp"
#include "verify/model/defects/defects.hpp"

namespace attnspec::verify {
namespace {

constexpr std::chrono::seconds kPatience{3600};  // whatever the machine and the compiler

Behaviour behaviour_of(const Kernel& kernel, const std::vector<Case>& cases) {
  std::vector<CaseResult> results;
  for (const Case& c : cases) results.push_back(judge(kernel, c));
  return behaviour(kernel, results, kPatience);
}

/// The first failing cases of level 1, in a dtype where there are some.
std::vector<Case> failing_cases(const Kernel& kernel, Operator op, std::size_t count) {
  std::vector<Case> failing;
  for (const Case& c : level_cases(op, 1)) {
    if (work(c) > 1e8 || !c.session.empty()) continue;
    if (failing.size() == count) break;
    if (is_finding(judge(kernel, c).verdict)) failing.push_back(c);
  }
  return failing;
}

TEST(Behaviour, NamesPlantedDefects) {
  std::size_t accused = 0, named = 0;
  std::string others;
  for (const model::Defect& defect : model::defects()) {
    const Kernel kernel = find_kernel(std::string("defect:") + defect.name);
    const std::vector<Case> failing = failing_cases(kernel, defect.op, 3);
    ASSERT_FALSE(failing.empty()) << defect.name;
    ++accused;
    const Behaviour found = behaviour_of(kernel, failing);
    const bool is_named = std::any_of(found.explanations.begin(), found.explanations.end(),
                                      [&](const Explanation& one) { return one.what == std::string(defect.what); });
    named += is_named;
    std::cerr << defect.name << ": " << found.line() << " wrong cases " << found.cases << std::endl;
    others += std::string(is_named ? "  " : "! ") + defect.name + ": " + found.line() + "\n";
  }
  EXPECT_GE(10 * named, 9 * accused) << others;
  std::cout << others;
}

}  // namespace
}  // namespace attnspec::verify
