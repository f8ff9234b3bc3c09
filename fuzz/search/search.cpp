#include "fuzz/search/search.hpp"

#include <fmt/format.h>
#include <fmt/ranges.h>
#include <omp.h>

#include <algorithm>
#include <atomic>
#include <chrono>
#include <optional>
#include <set>
#include <span>
#include <stdexcept>
#include <utility>

#include "fuzz/search/judging.hpp"
#include "fuzz/search/shrink.hpp"
#include "verify/cases/law.hpp"
#include "verify/cases/space/work.hpp"

namespace attnspec::fuzz {

namespace {

using namespace verify;

class Stopwatch {
 public:
  double seconds() const { return std::chrono::duration<double>(Clock::now() - start_).count(); }

 private:
  using Clock = std::chrono::steady_clock;
  Clock::time_point start_ = Clock::now();
};

/// While it lives a judgement keeps to one thread: cases are too small to share, and threads that wait for each other
/// stand still where other programs run.
class OneThreadEach {
 public:
  OneThreadEach() { omp_set_num_threads(1); }
  ~OneThreadEach() { omp_set_num_threads(before_); }
  OneThreadEach(const OneThreadEach&) = delete;
  OneThreadEach& operator=(const OneThreadEach&) = delete;

 private:
  int before_ = omp_get_max_threads();
};

/// Those of the kernel's operators that are wanted and have one of the laws that are.
std::vector<Operator> operators_to_search(const Kernel& kernel, const std::vector<Operator>& wanted,
                                          const std::vector<Law>& laws) {
  for (const Operator op : wanted) {
    if (implements(kernel, op)) continue;
    std::vector<std::string> names;
    for (const Operator implemented : kernel.operators) names.push_back(name(implemented));
    throw std::invalid_argument(
        fmt::format("operator '{}': {} implements {}", name(op), kernel.name, fmt::join(names, ", ")));
  }
  std::vector<Operator> operators = wanted.empty() ? kernel.operators : wanted;
  if (laws.empty()) return operators;
  std::erase_if(operators, [&](Operator op) {
    return std::none_of(laws.begin(), laws.end(), [&](Law law) { return law == Law::none || has_law(op, law); });
  });
  if (operators.empty()) throw std::invalid_argument(fmt::format("law '{}': no operator has it", name(laws.front())));
  return operators;
}

/// Judges the cases at the same time; none of those after the first finding where `only_first`, and none that have not
/// begun when the search is over.
std::vector<std::optional<CaseResult>> judge_swarm(const std::vector<Job>& jobs, int at_once, KernelPool& pool,
                                                   bool only_first, const std::function<bool()>& is_over) {
  std::vector<std::optional<CaseResult>> results(jobs.size());
  std::atomic<std::size_t> last = jobs.size();  // that is judged
  judge_all(
      jobs, at_once, pool, [&](std::size_t i) { return i > last || is_over(); },
      [&](std::size_t i, CaseResult result) {
        if (only_first && is_finding(result.verdict)) last = std::min<std::size_t>(last, i);
        results[i] = std::move(result);
      },
      [](const Kernel& kernel, const Case& c) { return judge(kernel, c); });
  return results;
}

/// The simplest case that fails by itself, so that it can be replayed. A kernel that remembers calls may fail on
/// simpler ones because of those before: then all are judged afresh, which takes longer.
/// earlier: the cases that the kernel has met, the latest last.
Found simplify(const Kernel& kernel, const CaseResult& drawn, std::span<const Case> earlier,
               const std::function<bool()>& stop) {
  const auto with_history = [&](const Case& c) { return judge(kernel, c); };
  const auto afresh = [&](const Case& c) { return judge_afresh(kernel, c); };
  const std::optional<CaseResult> alone = kernel.forget ? fail_alone(kernel, drawn.c, stop) : drawn;
  if (!alone) {
    Found found{.drawn = drawn, .shrunk = drawn, .fails_alone = false};
    if (auto after = fail_after(kernel, earlier, drawn.c, stop)) {
      found.after = std::move(after->earlier);
      found.shrunk = std::move(after->result);
    }
    return found;
  }
  const bool remembers = kernel.forget && alone->c.session != drawn.c.session;
  Shrunk shrunk = shrink(remembers ? Judge(afresh) : Judge(with_history), *alone, stop);
  if (!remembers && kernel.forget && !is_finding(judge_afresh(kernel, shrunk.result.c).verdict))
    shrunk = shrink(afresh, *alone, stop);
  return {.drawn = drawn, .shrunk = shrunk.result, .judgements = shrunk.judgements};
}

/// The classes that cases inside the limits have, as far as so many draws tell.
std::set<std::size_t> classes_inside(const Limits& limits, Operator op) {
  constexpr int kDraws = 1000;
  const rc::Gen<Case> generator = any_case(op, whole_swarm());
  rc::Random random(0);
  std::set<std::size_t> classes;
  for (int i = 0; i < kDraws; ++i)
    for (const std::size_t one : classes_of(inside(limits, generator(random.split()).value()))) classes.insert(one);
  return classes;
}

void add(const CaseResult& result, SearchSummary& summary) {
  OperatorTally& tally = summary.operators[result.c.op];
  ++tally.cases;
  tally.rows += result.rows();
  tally.undecided_rows += result.undecided();
  ++tally.verdicts[result.verdict];
  tally.imagined += result.imagined();
  if (result.verdict == Verdict::pass) summary.launches += result.launches;
  for (const OutputSummary& output : result.outputs) tally.worst_r = std::max(tally.worst_r, output.worst_r);
}

}  // namespace

CaseSource::CaseSource(std::vector<Operator> operators, std::uint64_t seed, std::vector<Law> laws, Limits limits)
    : operators_(std::move(operators)),
      laws_(std::move(laws)),
      limits_(std::move(limits)),
      random_(seed),
      work_(operators_.size()) {}

Case CaseSource::next() {
  if (cases_ % kSwarmCases == 0) {
    swarm_ = swarms_ == 0 ? whole_swarm() : any_swarm()(random_.split()).value();
    if (!laws_.empty()) keep_laws(laws_, swarm_);
    ++swarms_;
  }
  ++cases_;
  const auto turn = std::min_element(work_.begin(), work_.end()) - work_.begin();
  const rc::Gen<Case> generator = any_case(operators_[static_cast<std::size_t>(turn)], swarm_);
  Case best;
  std::int64_t max = -1;
  for (int i = 0; i < kCandidates; ++i) {
    Case candidate = inside(limits_, generator(random_.split()).value());
    const std::int64_t triples = kept_.count_new(candidate);
    drawn_.add(candidate);
    if (triples > max) best = std::move(candidate);
    max = std::max(max, triples);
  }
  kept_.add(best);
  work_[static_cast<std::size_t>(turn)] += work(best);
  return best;
}

SearchSummary search(const Kernel& kernel, const SearchOptions& options, const SearchObserver& observer) {
  const std::vector<Operator> operators = operators_to_search(kernel, options.operators, options.laws);
  CaseSource source(operators, options.seed, options.laws, kernel.limits);
  const int at_once = jobs_at_once(options.jobs, {{&kernel, {}}});
  KernelPool pool;
  const OneThreadEach one_thread_each;
  const Stopwatch stopwatch;
  const auto is_over = [&] {
    return stopwatch.seconds() >= options.seconds || (options.is_stopped && options.is_stopped());
  };
  SearchSummary summary;
  for (const Operator op : operators) summary.operators[op];
  bool has_ended = false;
  std::vector<Case> met;
  for (std::int64_t begin = 0; begin < options.cases && !has_ended && !is_over(); begin += kSwarmCases) {
    std::vector<Job> jobs;
    while (std::ssize(jobs) < std::min<std::int64_t>(kSwarmCases, options.cases - begin))
      jobs.push_back({&kernel, source.next()});
    if (observer.swarm) observer.swarm(source.swarm());
    const auto results = judge_swarm(jobs, at_once, pool, !options.keeps_going, is_over);
    for (std::size_t i = 0; i < results.size() && !has_ended; ++i) {
      if (!results[i]) continue;
      const CaseResult& result = *results[i];
      add(result, summary);
      if (observer.judged) observer.judged(result);
      met.push_back(result.c);
      if (!is_finding(result.verdict)) continue;
      const double seconds = stopwatch.seconds();
      Found found = simplify(kernel, result, std::span(met).first(met.size() - 1), options.is_stopped);
      found.number = begin + static_cast<std::int64_t>(i) + 1;
      found.seconds = seconds;
      if (observer.found) observer.found(found);
      has_ended = !options.keeps_going;
    }
  }
  summary.seconds = stopwatch.seconds();
  summary.swarms = source.swarms();
  summary.triples = source.kept().size();
  summary.drawn_triples = source.drawn().size();
  for (const Operator op : operators) {
    const std::vector<std::size_t> never = source.kept().never_seen(op);
    const std::set<std::size_t> inside = never.empty() ? std::set<std::size_t>() : classes_inside(kernel.limits, op);
    for (const std::size_t i : never)
      if (inside.contains(i)) summary.never_drawn[op].push_back(case_classes()[i].name());
  }
  return summary;
}

std::int64_t SearchSummary::cases() const {
  std::int64_t sum = 0;
  for (const auto& [op, tally] : operators) sum += tally.cases;
  return sum;
}

std::int64_t SearchSummary::rows() const {
  std::int64_t sum = 0;
  for (const auto& [op, tally] : operators) sum += tally.rows;
  return sum;
}

ImaginedCounts SearchSummary::imagined() const {
  ImaginedCounts sum;
  for (const auto& [op, tally] : operators) sum += tally.imagined;
  return sum;
}

std::int64_t SearchSummary::count(Verdict verdict) const {
  std::int64_t sum = 0;
  for (const auto& [op, tally] : operators)
    if (const auto found = tally.verdicts.find(verdict); found != tally.verdicts.end()) sum += found->second;
  return sum;
}

int exit_code(const SearchSummary& summary) {
  for (const Verdict verdict : kVerdicts)
    if (is_finding(verdict) && summary.count(verdict) > 0) return 1;
  for (const auto& [op, tally] : summary.operators) {
    const auto unsupported = tally.verdicts.find(Verdict::not_supported);
    if (tally.cases == (unsupported == tally.verdicts.end() ? 0 : unsupported->second)) return 3;
    if (tally.imagined.show_nothing()) return 3;
  }
  return summary.count(Verdict::undecided) > 0 ? 3 : 0;
}

}  // namespace attnspec::fuzz
