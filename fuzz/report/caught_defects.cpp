#include "fuzz/report/caught_defects.hpp"

#include <fmt/format.h>

#include <algorithm>
#include <map>
#include <random>
#include <stdexcept>
#include <utility>

#include "verify/kernels.hpp"
#include "verify/model/defects/defects.hpp"

namespace attnspec::fuzz {

namespace {

using namespace verify;

/// The model kernel with the defect, in the declared arithmetic or, where it cannot play that, in its own.
Kernel planted(const model::Defect& defect, const Kernel& kernel) {
  std::string name = fmt::format("defect:{}", defect.name);
  std::string with_options = name;
  for (const std::string& option : kernel.arithmetic) with_options += "+" + option;
  try {
    return find_kernel(with_options);
  } catch (const std::invalid_argument&) {
    return find_kernel(name);
  }
}

/// In an order in which cases of all kinds come early; the same every time.
std::vector<Case> mixed(std::vector<Case> cases) {
  std::mt19937 random(0);
  std::shuffle(cases.begin(), cases.end(), random);
  return cases;
}

}  // namespace

std::vector<CaughtDefect> caught_defects(const Kernel& kernel, const std::vector<CaseResult>& results,
                                         std::chrono::seconds max_time) {
  std::map<Operator, std::vector<Case>> passed;
  for (const CaseResult& result : results)
    if (result.kernel == kernel.name && result.verdict == Verdict::pass) passed[result.c.op].push_back(result.c);
  for (auto& [op, cases] : passed) cases = mixed(std::move(cases));
  std::vector<CaughtDefect> all;
  std::vector<Kernel> wrong;
  for (const model::Defect& defect : model::defects()) {
    if (!passed.contains(defect.op)) continue;
    all.push_back({.name = defect.name, .what = defect.what, .op = defect.op});
    wrong.push_back(planted(defect, kernel));
  }
  const auto end = std::chrono::steady_clock::now() + max_time;
  for (std::size_t round = 0; round < results.size() && std::chrono::steady_clock::now() < end; ++round) {
#pragma omp parallel for schedule(dynamic)
    for (std::size_t i = 0; i < all.size(); ++i) {
      const std::vector<Case>& cases = passed.at(all[i].op);
      if (!all[i].caught_by.empty() || round >= cases.size() || std::chrono::steady_clock::now() > end) continue;
      ++all[i].cases;
      if (is_finding(judge(wrong[i], cases[round]).verdict)) all[i].caught_by = print(cases[round]);
    }
  }
  return all;
}

}  // namespace attnspec::fuzz
