#include "verify/diagnosis/behaviour.hpp"

#include <fmt/format.h>
#include <fmt/ranges.h>

#include <algorithm>
#include <set>
#include <string_view>

#include "verify/cases/levels.hpp"
#include "verify/cases/space/work.hpp"
#include "verify/diagnosis/played_case.hpp"
#include "verify/judge/judge.hpp"
#include "verify/judge/report.hpp"
#include "verify/model/model.hpp"

namespace attnspec::verify {

namespace {

using Clock = std::chrono::steady_clock;

constexpr std::size_t kMaxFailing = 5;      // cases that are explained
constexpr std::size_t kMaxPredicted = 16;   // cases of the fixed levels that an explanation must predict
constexpr double kMaxWork = 3e8;            // of a failing case that is played
constexpr double kMaxPredictedWork = 3e7;   // of another
constexpr double kMinEvidence = 1200;       // of an explanation that is certain: three rows far off, or many a little
constexpr std::int64_t kMinWrongCases = 2;  // failing ones, likewise
constexpr std::int64_t kMinNearOfCase = 2, kMinNear = 10;  // at most one row of so many differs
constexpr std::size_t kMaxNames = 4;                       // printed

/// Whether rows that differ are what the kernel computed: a call that wrote elsewhere or ended says nothing of them.
bool is_of_rows(Verdict verdict) {
  return verdict == Verdict::value_out_of_bound || verdict == Verdict::non_finite ||
         verdict == Verdict::selection_mismatch || verdict == Verdict::stray_read;
}

/// Whether two calls or runs differ where they must not.
bool is_of_calls(Verdict verdict) { return verdict == Verdict::law_broken || verdict == Verdict::nondeterministic; }

/// Whether a mistake planted in one operator can be made in another. Masks and loads of NSA's compression and
/// importance say which blocks there are, so that only mistakes of NSA's own have a meaning there.
bool can_be_made(const model::Defect& defect, Operator op) {
  const model::Stages& correct = model::correct_stages();
  return defect.op == op || is_nsa(defect.op) || !(has_importance(op) || compresses(op)) ||
         (defect.stages.is_visible == correct.is_visible && defect.stages.load == correct.load);
}

/// The mistakes that can be made in an operator, its own first, each once.
Mistakes mistakes_of(Operator op) {
  Mistakes all;
  std::set<std::string_view> known;
  for (const bool own : {true, false})
    for (const model::Defect& defect : model::defects())
      if ((defect.op == op) == own && can_be_made(defect, op) && known.insert(defect.what).second)
        all.push_back(&defect);
  return all;
}

/// A mistake and how it fared.
struct TriedMistake {
  const model::Defect* defect;
  Agreement sum{};
  std::int64_t exact = 0;  // failing cases that it explains in every row
  bool is_alive = true, acts = false, is_exact = true;

  void add(const Agreement& of_case, bool fails) {
    acts = acts || of_case.acts;
    is_alive = is_alive && of_case.is_near(kMinNearOfCase) && (!fails || of_case.wrong_reproduced > 0);
    is_exact = is_exact && of_case.is_exact();
    exact += fails && of_case.is_exact();
    sum += of_case;
  }
};

/// Cases of level 1 with values to compare, from the smallest to larger ones, spread over all of them.
std::vector<Case> cases_to_predict(const Kernel& kernel, Operator op, Format dtype,
                                   const std::set<std::string>& without) {
  std::vector<Case> cases;
  for (const Case& c : level_cases(op, 1, kernel.limits))
    if (c.law == Law::none && c.session.empty() && c.sample == 0 && c.dtype == dtype && work(c) <= kMaxPredictedWork &&
        !kernel.unsupported(c) && !without.contains(print(c)))
      cases.push_back(c);
  std::stable_sort(cases.begin(), cases.end(), [](const Case& a, const Case& b) { return work(a) < work(b); });
  if (cases.size() <= kMaxPredicted) return cases;
  std::vector<Case> spread;
  for (std::size_t i = 0; i < kMaxPredicted; ++i) spread.push_back(cases[i * cases.size() / kMaxPredicted]);
  return spread;
}

/// Where the findings of a case lie.
std::set<std::string> places(const CaseResult& result) {
  std::set<std::string> all;
  for (const Finding& finding : result.findings) all.insert(where(finding));
  return all;
}

/// Of cases that a law judges: whether the model kernel with the mistake breaks the same law at the same places. Its
/// bits are not the kernel's, so that this is never certain.
void compare_laws(const Kernel& kernel, const std::vector<const CaseResult*>& failing,
                  std::vector<TriedMistake>& mistakes, Clock::time_point end, Behaviour& found) {
  for (const CaseResult* result : failing) {
    const std::set<std::string> expected = places(*result);
    for (TriedMistake& mistake : mistakes) {
      found.took_too_long = found.took_too_long || Clock::now() > end;
      if (found.took_too_long) return;
      if (!mistake.is_alive) continue;
      const Kernel playing = model::make_kernel("", "", kernel.operators, mistake.defect->stages, kernel.arithmetic);
      const CaseResult played = judge(playing, result->c);
      Agreement agreement{
          1, played.verdict == result->verdict && places(played) == expected, 0, 0, 0, is_finding(played.verdict)};
      mistake.add(agreement, true);
    }
  }
}

std::vector<const CaseResult*> smallest(std::vector<const CaseResult*> results) {
  std::stable_sort(results.begin(), results.end(),
                   [](const CaseResult* a, const CaseResult* b) { return work(a->c) < work(b->c); });
  if (results.size() > kMaxFailing) results.resize(kMaxFailing);
  return results;
}

}  // namespace

Behaviour behaviour(const Kernel& kernel, const std::vector<CaseResult>& results, std::chrono::seconds max_time) {
  Behaviour found;
  const auto end = Clock::now() + max_time;
  std::vector<const CaseResult*> of_rows, of_calls;
  std::set<std::string> known;
  for (const CaseResult& result : results) {
    if (!is_finding(result.verdict)) continue;
    known.insert(print(result.c));
    if (is_of_calls(result.verdict)) of_calls.push_back(&result);
    if (is_of_rows(result.verdict) && result.c.law == Law::none && result.c.sample == 0 && work(result.c) <= kMaxWork)
      of_rows.push_back(&result);
  }
  if (of_rows.empty() && of_calls.empty()) return found;
  const Operator op = (of_rows.empty() ? of_calls : of_rows).front()->c.op;
  const auto is_other = [op](const CaseResult* result) { return result->c.op != op; };
  std::erase_if(of_rows, is_other);
  std::erase_if(of_calls, is_other);
  of_rows = smallest(of_rows);
  std::vector<TriedMistake> mistakes;
  for (const model::Defect* defect : mistakes_of(op)) mistakes.push_back({defect});
  std::int64_t wrong_cases = 0;
  const auto play = [&](const Case& c, bool fails) {
    Mistakes alive;
    for (const TriedMistake& mistake : mistakes)
      if (mistake.is_alive) alive.push_back(mistake.defect);
    const PlayedCase played = play_beside(kernel, c, alive, end);
    found.took_too_long = found.took_too_long || played.took_too_long;
    if (found.took_too_long) return;
    if (is_finding(played.result.verdict) && !is_of_rows(played.result.verdict)) return;  // nothing to compare
    wrong_cases += is_finding(played.result.verdict);
    found.cases += is_finding(played.result.verdict);
    auto agreement = played.agreements.begin();
    for (TriedMistake& mistake : mistakes)
      if (mistake.is_alive) mistake.add(*agreement++, fails || is_finding(played.result.verdict));
  };
  const auto any_alive = [&] {
    return std::any_of(mistakes.begin(), mistakes.end(), [](const TriedMistake& mistake) { return mistake.is_alive; });
  };
  for (const CaseResult* result : of_rows)
    if (!found.took_too_long && any_alive()) play(result->c, true);
  if (of_rows.empty()) {
    of_calls = smallest(of_calls);
    found.cases = std::ssize(of_calls);
    compare_laws(kernel, of_calls, mistakes, end, found);
  } else {
    for (const Case& c : cases_to_predict(kernel, op, of_rows.front()->c.dtype, known)) {
      found.took_too_long = found.took_too_long || Clock::now() > end;
      if (found.took_too_long || !any_alive()) break;
      play(c, false);
    }
  }
  for (const TriedMistake& mistake : mistakes) {
    found.tried += mistake.acts;
    if (mistake.is_alive && mistake.sum.is_near(kMinNear) && !found.took_too_long)
      found.explanations.push_back({mistake.defect->name, mistake.defect->what, mistake.sum.wrong_reproduced,
                                    mistake.sum.wrong, mistake.exact, mistake.sum.evidence});
  }
  std::stable_sort(found.explanations.begin(), found.explanations.end(), [](const auto& a, const auto& b) {
    return a.cases != b.cases ? a.cases > b.cases : a.rows > b.rows;
  });
  if (found.explanations.size() == 1) {
    const auto& only = *std::find_if(mistakes.begin(), mistakes.end(), [&](const TriedMistake& one) {
      return one.defect->name == found.explanations.front().name;
    });
    found.is_certain = !of_rows.empty() && only.is_exact && only.exact == found.cases &&
                       wrong_cases >= kMinWrongCases && only.sum.evidence >= kMinEvidence;
  }
  return found;
}

std::string Behaviour::line() const {
  if (took_too_long) return "behaves like: the search for a known mistake that explains this took too long";
  if (tried == 0) return "";
  if (explanations.empty())
    return fmt::format("behaves like: none of {} known mistakes explains these findings", tried);
  std::vector<std::string> names;
  for (const Explanation& one : explanations) {
    if (names.size() == kMaxNames) break;
    names.push_back(fmt::format("{} ({} of {} cases; defect:{})", one.what, one.cases, cases, one.name));
  }
  const std::size_t more = explanations.size() - names.size();
  return fmt::format("behaves like: {}{}{}", is_certain ? "" : "perhaps ", fmt::join(names, ", or "),
                     more > 0 ? fmt::format(", or {} more", more) : "");
}

}  // namespace attnspec::verify
