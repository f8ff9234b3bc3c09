#include "fuzz/report/report.hpp"

#include <fmt/chrono.h>
#include <fmt/format.h>

#include <algorithm>
#include <ctime>
#include <exception>
#include <numeric>
#include <tuple>
#include <utility>

#include "fuzz/search/findings.hpp"
#include "verify/cases/levels.hpp"
#include "verify/judge/report.hpp"
#include "verify/laws/laws.hpp"
#include "verify/xray/xray.hpp"

namespace attnspec::fuzz {

namespace {

using namespace verify;

constexpr std::size_t kMaxSlowest = 5;
/// Passed cases of an operator that planted defects may be judged on.
constexpr std::int64_t kMaxPassed = 400;

template <class Items, class Is>
auto& found_or_added(Items& items, const Is& is, typename Items::value_type fresh) {
  const auto found = std::find_if(items.begin(), items.end(), is);
  return found == items.end() ? items.emplace_back(std::move(fresh)) : *found;
}

void add(const CaseResult& result, LawResults& law) {
  if (is_finding(result.verdict))
    ++law.failed;
  else if (result.verdict == Verdict::pass)
    ++law.passed;
  else
    ++(result.reason == promise_missing(law.law) ? law.not_promised : law.other);
}

template <class Results>
std::int64_t sum_of(const std::vector<Results>& all, std::int64_t (Results::*part)() const) {
  std::int64_t sum = 0;
  for (const Results& one : all) sum += (one.*part)();
  return sum;
}

}  // namespace

std::int64_t OperatorResults::rows() const {
  std::int64_t sum = 0;
  for (const OutputSummary& output : outputs) sum += output.rows;
  return sum;
}

std::int64_t OperatorResults::undecided() const {
  std::int64_t sum = 0;
  for (const OutputSummary& output : outputs) sum += output.undecided;
  return sum;
}

double OperatorResults::worst_r() const {
  double worst = 0;
  for (const OutputSummary& output : outputs) worst = std::max(worst, output.worst_r);
  return worst;
}

ImaginedCounts OperatorResults::imagined() const {
  ImaginedCounts sum;
  for (const OutputSummary& output : outputs) sum += output.imagined;
  return sum;
}

KernelResults::KernelResults(const Kernel& kernel)
    : name(kernel.name),
      summary(kernel.summary),
      limits(describe(kernel.limits)),
      promise(verify::name(kernel.equal_bits)),
      promise_backward(verify::name(kernel.equal_bits_backward)),
      exports_selection(kernel.exports_selection),
      exports_lse(kernel.exports_lse),
      options(kernel.arithmetic) {}

void KernelResults::add(const CaseResult& result) {
  const auto is_of_it = [&](const OperatorResults& results) { return results.op == result.c.op; };
  OperatorResults& results = found_or_added(operators, is_of_it, {.op = result.c.op});
  ++results.cases;
  ++results.verdicts[result.verdict];
  results.seconds += result.seconds;
  if (!result.arithmetic.empty()) results.arithmetic.insert(result.arithmetic);
  if (const Law law = result.c.law; law == Law::none)
    verify::add(result.outputs, results.outputs);
  else
    fuzz::add(result, found_or_added(laws, [&](const LawResults& l) { return l.law == law; }, {.law = law}));
  slowest.push_back({print(result.c), result.seconds});
  std::stable_sort(slowest.begin(), slowest.end(),
                   [](const TimedCase& a, const TimedCase& b) { return a.seconds > b.seconds; });
  if (slowest.size() > kMaxSlowest) slowest.pop_back();
}

std::int64_t KernelResults::cases() const {
  std::int64_t sum = 0;
  for (const OperatorResults& results : operators) sum += results.cases;
  return sum;
}

std::int64_t KernelResults::count(Verdict verdict) const {
  std::int64_t sum = 0;
  for (const OperatorResults& results : operators)
    if (const auto found = results.verdicts.find(verdict); found != results.verdicts.end()) sum += found->second;
  return sum;
}

std::int64_t KernelResults::findings() const {
  std::int64_t sum = 0;
  for (const Verdict verdict : kVerdicts) sum += is_finding(verdict) ? count(verdict) : 0;
  return sum;
}

std::int64_t Report::cases() const { return sum_of(kernels, &KernelResults::cases); }

std::int64_t Report::findings() const { return sum_of(kernels, &KernelResults::findings); }

std::int64_t Report::count(Verdict verdict) const {
  std::int64_t sum = 0;
  for (const KernelResults& kernel : kernels) sum += kernel.count(verdict);
  return sum;
}

std::string Report::outcome() const {
  if (findings() > 0) return "fail";
  bool all_judged = is_complete && cases() > 0 && count(Verdict::undecided) == 0;
  for (const KernelResults& kernel : kernels)
    for (const OperatorResults& results : kernel.operators) {
      const auto unsupported = results.verdicts.find(Verdict::not_supported);
      const bool none = unsupported != results.verdicts.end() && unsupported->second == results.cases;
      all_judged = all_judged && !none && !results.imagined().show_nothing();
    }
  return all_judged ? "pass" : "inconclusive";
}

Reporter::Reporter(std::string command, const std::vector<Kernel>& kernels) : kernels_(kernels) {
  report_.command = std::move(command);
  report_.version = ATTNSPEC_VERSION;
  for (const Kernel& kernel : kernels) report_.kernels.emplace_back(kernel);
}

KernelResults& Reporter::of(const std::string& kernel) {
  return *std::find_if(report_.kernels.begin(), report_.kernels.end(),
                       [&](const KernelResults& results) { return results.name == kernel; });
}

const Kernel& Reporter::kernel(const std::string& name) const {
  return *std::find_if(kernels_.begin(), kernels_.end(), [&](const Kernel& one) { return one.name == name; });
}

void Reporter::add(const CaseResult& result) {
  of(result.kernel).add(result);
  if (result.verdict == Verdict::undecided && report_.undecided.size() < kMaxShownCases)
    report_.undecided.push_back(result);
  if (result.verdict == Verdict::pass && of(result.kernel).count(Verdict::pass) <= kMaxPassed)
    passed_.push_back(result);
}

namespace {

/// Pairs of a query row and a key of which a report has an X-ray, at most.
constexpr std::int64_t kMaxXrayPairs = std::int64_t{1} << 14;

/// The picture of an X-ray; none of a case that has none, or a large one.
std::optional<std::string> small_xray(const Kernel& kernel, const Case& c) {
  const std::vector<std::int64_t> queries = row_counts(c, RowsOf::queries), keys = key_rows(c);
  const std::int64_t rows = std::accumulate(queries.begin(), queries.end(), std::int64_t{0}) * c.heads,
                     columns = std::accumulate(keys.begin(), keys.end(), std::int64_t{0}) * c.kv_heads;
  if (!attends(c.op) || c.law != Law::none || !c.session.empty() || rows * columns > kMaxXrayPairs) return std::nullopt;
  try {
    return svg(xray(kernel, c));
  } catch (const std::exception&) {  // a kernel that fails in other calls has no picture; its finding is shown
    return std::nullopt;
  }
}

}  // namespace

void Reporter::show(FailingCase failing) {
  if (report_.failing.size() == kMaxShownCases) return;
  if (failing.replay.empty()) failing.replay = replay_command(failing.result.kernel, failing.result.c);
  failing.rows = judge_rows(kernel(failing.result.kernel), failing.result);
  failing.numbers = few_numbers(failing.result.c);
  if (!failing.xray) failing.xray = small_xray(kernel(failing.result.kernel), failing.result.c);
  report_.failing.push_back(std::move(failing));
}

void Reporter::explain(const Kernel& kernel, const Diagnosis& diagnosis) {
  of(kernel.name).diagnosis = diagnosis.lines();
}

void Reporter::note(const Kernel& kernel, const std::string& line) {
  if (const auto end = line.find_last_not_of('\n'); end != std::string::npos)
    of(kernel.name).notes.push_back(line.substr(0, end + 1));
}

Report Reporter::finish(const std::vector<CaseResult>& results, double seconds, bool is_complete) {
  std::vector<const CaseResult*> failing, others;
  std::set<std::tuple<std::string, Operator, Law, Verdict, std::string>> kinds;
  for (const CaseResult& result : results) {
    add(result);
    if (!is_finding(result.verdict)) continue;
    const bool is_new =
        kinds.emplace(result.kernel, result.c.op, result.c.law, result.verdict, main_finding(result).output).second;
    (is_new ? failing : others).push_back(&result);
  }
  failing.insert(failing.end(), others.begin(), others.end());
  for (const CaseResult* result : failing) show({.result = *result, .replay = {}});
  return finish(seconds, is_complete);
}

Report Reporter::finish(double seconds, bool is_complete) {
  report_.ended = fmt::format("{:%Y-%m-%d %H:%M} UTC", fmt::gmtime(std::time(nullptr)));
  report_.seconds = seconds;
  report_.is_complete = is_complete;
  std::erase_if(report_.kernels, [](const KernelResults& kernel) { return kernel.cases() == 0; });
  for (KernelResults& results : report_.kernels) {
    const Kernel& judged = kernel(results.name);
    if (!results.limits.empty()) results.share_inside = share_inside(judged.operators, judged.limits);
    results.defects = caught_defects(judged, passed_);
  }
  return std::move(report_);
}

}  // namespace attnspec::fuzz
