#include "verify/abi/c_api.h"

#include <fmt/format.h>

#include <exception>
#include <new>
#include <nlohmann/json.hpp>
#include <sstream>
#include <stdexcept>
#include <string>
#include <utility>
#include <vector>

#include "verify/cases/levels.hpp"
#include "verify/judge/hint.hpp"
#include "verify/judge/judge.hpp"
#include "verify/judge/report.hpp"
#include "verify/judge/result_json.hpp"
#include "verify/laws/laws.hpp"
#include "verify/run/foreign_kernel.hpp"
#include "verify/run/worker/serve.hpp"

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

/// What a caller wants judged.
struct Request {
  Kernel kernel;
  std::vector<Case> cases;
  std::string limits;  // a line on what the kernel's limits leave out of a level
};

Request make_request(const AttnspecKernel& given, const char* name, int level, const char* cases) {
  const Kernel kernel = make_foreign_kernel(given, name);
  if (cases != nullptr) return {kernel, given_cases(cases), ""};
  return {kernel, all_cases(kernel, level), limits_line(kernel.operators, kernel.limits)};
}

template <class Show>
std::vector<CaseResult> judge_all(const Request& request, const Show& show) {
  std::vector<CaseResult> results;
  for (const Case& c : request.cases) show(results.emplace_back(judge(request.kernel, c)));
  return results;
}

template <class Print>
int check(const Request& request, bool with_details, const Print& print) {
  const std::vector<CaseResult> results = judge_all(request, [&](const CaseResult& result) {
    if (with_details) print(details(result));
    if (!result.findings.empty()) print(failure_line(result, result.findings.front()) + "\n");
  });
  print(table(results) + request.limits);
  for (const std::string& line : {hint(request.kernel, results), over_declaration(request.kernel, results)})
    if (!line.empty()) print(line + "\n");
  print(lse_not_judged(request.kernel) + laws_not_held(request.kernel));
  return exit_code(results);
}

template <class Print>
int check_as_json(const Request& request, const Print& print) {
  const std::vector<CaseResult> results =
      judge_all(request, [&](const CaseResult& result) { print(json_text(json_of(result))); });
  nlohmann::ordered_json of_all{{"totals", totals(results)}};
  const auto add = [&](const char* key, std::string text) {
    if (text.ends_with('\n')) text.pop_back();
    if (!text.empty()) of_all[key] = std::move(text);
  };
  add("limits", request.limits);
  add("hint", hint(request.kernel, results));
  add("over_declaration", over_declaration(request.kernel, results));
  add("lse_not_judged", lse_not_judged(request.kernel));
  add("laws_not_held", laws_not_held(request.kernel));
  print(json_text(of_all));
  return exit_code(results);
}

/// Runs; where that is impossible, hands the error to `refuse` and returns 2.
template <class Run, class Refuse>
int run_or_refuse(const Run& run, const Refuse& refuse) {
  try {
    return run();
  } catch (const std::bad_alloc&) {
    refuse(std::runtime_error("the case needs more memory than there is"));
  } catch (const std::exception& error) {
    refuse(error);
  }
  return 2;
}

}  // namespace

}  // namespace attnspec::verify

int attnspec_check(const AttnspecKernel* kernel, const char* name, int level, const char* cases, int details,
                   AttnspecPrint print, void* context) {
  using namespace attnspec::verify;
  const auto say = [&](const std::string& text) { print(text.c_str(), context); };
  return run_or_refuse([&] { return check(make_request(*kernel, name, level, cases), details != 0, say); },
                       [&](const std::exception& error) { say(error_line(error)); });
}

int attnspec_judge(const AttnspecKernel* kernel, const char* name, int level, const char* cases, AttnspecPrint print,
                   void* context) {
  using namespace attnspec::verify;
  const auto say = [&](const std::string& text) { print(text.c_str(), context); };
  return run_or_refuse([&] { return check_as_json(make_request(*kernel, name, level, cases), say); },
                       [&](const std::exception& error) {
                         say(json_text({{"error", one_line(error)}}));
                       });
}

void attnspec_serve(const AttnspecKernel* kernel, const char* name, int socket, int memory) {
  attnspec::verify::serve(*kernel, name, socket, memory);
}

void attnspec_refuse(int socket, const char* why) { attnspec::verify::refuse(socket, why); }

void attnspec_offer(int socket, const char* names) { attnspec::verify::offer(socket, names); }
