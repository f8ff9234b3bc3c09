#include "verify/c_api.h"

#include <fmt/format.h>

#include <exception>
#include <sstream>
#include <stdexcept>
#include <string>
#include <vector>

#include "verify/foreign_kernel.hpp"
#include "verify/hint.hpp"
#include "verify/judge.hpp"
#include "verify/laws/laws.hpp"
#include "verify/levels.hpp"
#include "verify/report.hpp"
#include "verify/worker/serve.hpp"

namespace attnspec::verify {

namespace {

std::vector<Case> given_cases(const char* text) {
  std::vector<Case> cases;
  std::istringstream lines(text);
  for (std::string line; std::getline(lines, line);)
    if (!line.empty()) cases.push_back(parse_case(line));
  if (cases.empty()) throw std::invalid_argument("cases: there is none");
  return cases;
}

std::vector<Case> all_cases(const Kernel& kernel, int level) {
  if (level < 1 || level > kMaxLevel)
    throw std::invalid_argument(fmt::format("level={}: must be in 1 .. {}", level, kMaxLevel));
  std::vector<Case> cases;
  for (const Operator op : kernel.operators)
    for (const Case& c : level_cases(op, level, kernel.limits)) cases.push_back(c);
  return cases;
}

template <class Print>
int check(const Kernel& kernel, const std::vector<Case>& cases, const std::string& limits, bool with_details,
          const Print& print) {
  std::vector<CaseResult> results;
  for (const Case& c : cases) {
    results.push_back(judge(kernel, c));
    if (with_details) print(details(results.back()));
    if (!results.back().findings.empty()) print(failure_line(results.back(), results.back().findings.front()) + "\n");
  }
  print(table(results) + limits);
  for (const std::string& line : {hint(kernel, results), over_declaration(kernel, results)})
    if (!line.empty()) print(line + "\n");
  print(lse_not_judged(kernel) + laws_not_held(kernel));
  return exit_code(results);
}

}  // namespace

}  // namespace attnspec::verify

int attnspec_check(const AttnspecKernel* kernel, const char* name, int level, const char* cases, int details,
                   AttnspecPrint print, void* context) {
  using namespace attnspec::verify;
  const auto say = [&](const std::string& text) { print(text.c_str(), context); };
  try {
    const Kernel judged = make_foreign_kernel(*kernel, name);
    if (cases != nullptr) return check(judged, given_cases(cases), "", details != 0, say);
    return check(judged, all_cases(judged, level), limits_line(judged.operators, judged.limits), details != 0, say);
  } catch (const std::bad_alloc&) {
    say("attnspec: the case needs more memory than there is\n");
  } catch (const std::exception& error) {
    say(error_line(error));
  }
  return 2;
}

void attnspec_serve(const AttnspecKernel* kernel, const char* name, int socket, int memory) {
  attnspec::verify::serve(*kernel, name, socket, memory);
}

void attnspec_refuse(int socket, const char* why) { attnspec::verify::refuse(socket, why); }

void attnspec_offer(int socket, const char* names) { attnspec::verify::offer(socket, names); }
