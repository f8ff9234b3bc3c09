#include "verify/judge/hint.hpp"

#include <fmt/format.h>
#include <fmt/ranges.h>

#include <algorithm>
#include <chrono>
#include <cmath>
#include <map>
#include <mutex>
#include <optional>
#include <set>
#include <tuple>
#include <utility>

#include "verify/cases/levels.hpp"
#include "verify/judge/judge.hpp"

namespace attnspec::verify {

namespace {

using reference::ArithmeticOptions;
using Clock = std::chrono::steady_clock;

constexpr std::size_t kMaxFailing = 8, kMaxPassing = 8;    // cases that sets are tried on
constexpr std::size_t kMaxConfirmed = 64;                  // failing cases that a set which fits must explain
constexpr std::size_t kMaxOptions = 3;                     // of a set
constexpr std::int64_t kTellingRows = 64;                  // looked at of one output and case, about
constexpr std::int64_t kMinTellingRows = 12;               // in all
constexpr std::int64_t kMinFeatures = 8, kMinTokens = 48;  // of a passing case
constexpr double kChange = 1.3;                            // of a variance, from which a row can tell
constexpr double kMinRms = 0.8, kMaxRms = 1.15;
constexpr double kMinLikelihood = 50;  // gained, as a logarithm

bool has(const ArithmeticOptions& options, std::string_view name) {
  return std::find(options.begin(), options.end(), name) != options.end();
}

/// Whether an option can change what is predicted of an output of a case. kind: of the output, as ObservedRow has it.
bool touches(std::string_view option, const Case& c, std::string_view kind) {
  const bool is_gradient = kind == "dq" || kind == "dk" || kind == "dv", is_score = kind == "dq" || kind == "dk";
  const bool is_fp32 = c.dtype == Format::fp32;
  const bool has_blocks = attends(c.op) && (has_slots(c.op) || has_branches(c.op));
  if (option == "rounded_head_gradients")
    return ((kind == "dk" || kind == "dv") && c.heads > c.kv_heads) ||
           (kind == "d_phi" && c.shared_phi && c.kv_heads > 1);
  if (option == "rounded_block_gradients") return kind == "dq" && has_blocks;
  if (option == "own_block_apart") return is_gradient && selects(c.op) && c.causal;
  if (option == "rounded_gradient_sums") return is_gradient || kind == "d_phi";
  if (option == "bf16_partials") return c.dtype != Format::bf16 && (is_gradient || kind == "o");
  if (option == "scaled_ds") return is_score && c.dtype == Format::fp16;
  if (option == "rounded_p_in_ds") return is_score && !is_fp32;
  if (option == "softmax_delta") return is_score;
  if (option == "scaled_q" || option == "scaled_q_log2") return kind == "o" || kind == "lse" || is_gradient;
  if (option == "scaled_k" || option == "scaled_k_log2") return is_gradient;
  if (option == "position_bias") return c.phi == reference::Phi::linear && (kind == "rows" || kind == "d_phi");
  if (option.starts_with("tf32")) return is_fp32;
  if (option == "rounded_sum" || option == "normalise_first") return (kind == "o" || kind == "lse") && !is_fp32;
  if (option == "rounded_partials") return kind == "o" && has_blocks && !is_fp32;
  if (option == "fused_branches") return has_branches(c.op) && (kind == "o" || is_gradient);
  return false;  // fp32_out changes the call itself, fp32_weights only narrows, rounded_means is a selection's
}

/// A row of a case under one arithmetic.
struct SeenRow {
  double r = 0, trace = 0;
  std::int64_t dim = 0;
  Vector expected;
  bool tells = false;  // its errors spread, and its floor is not what bounds them

  /// Logarithm of the likelihood of its error, but for a constant.
  double likelihood() const {
    const double n = static_cast<double>(dim);
    return -n / 2 * (r * r + std::log(trace / n));
  }
};
using RowKey = std::tuple<std::string, std::int64_t, std::int64_t, std::int64_t>;  // output and place

struct Trial {
  CaseResult result;
  std::map<RowKey, SeenRow> rows;
  std::map<std::string, std::string> kinds;  // of the outputs
};

/// Whether two predictions of a row differ in what they allow.
bool changes_variance(const SeenRow& old, const SeenRow& now) {
  return now.trace > kChange * old.trace || old.trace > kChange * now.trace;
}

/// Whether a row is one of about kTellingRows of its output and case, from all over it.
bool is_looked_at(const Trial& trial, const ObservedRow& row) {
  for (const OutputSummary& output : trial.result.outputs)
    if (output.output == row.output)
      return (row.place.token * 7919 + row.place.head) % (1 + output.rows / kTellingRows) == 0;
  return false;
}

/// Judges a case under declared arithmetic. before: the same case under another, whose changed rows are looked at.
Trial judge_under(const Kernel& kernel, const ArithmeticOptions& options, const Case& c, const Trial* before) {
  Kernel declared = kernel;
  declared.arithmetic = options;
  Trial trial;
  std::mutex mutex;
  trial.result = judge(declared, c, [&](const ObservedRow& row) {
    SeenRow seen{row.comparison.r, row.comparison.trace, row.expected.size(), row.expected};
    const RowKey key{row.output, row.place.sequence, row.place.token, row.place.head};
    if (before != nullptr && row.covariance != nullptr && is_looked_at(*before, row)) {
      const auto old = before->rows.find(key);
      if (old != before->rows.end() && old->second.trace > 0 && seen.r > 0 &&
          100 * row.comparison.floor_squares < seen.trace) {
        const double terms = reference::effective_terms(row.covariance->matrix());
        const bool is_moved = (seen.expected - old->second.expected).squaredNorm() > seen.trace / 100;
        seen.tells = changes_variance(old->second, seen) ? terms >= reference::kManyTerms : is_moved && terms >= 2;
      }
    }
    const std::lock_guard lock(mutex);
    trial.kinds[row.output] = row.kind;
    trial.rows.insert_or_assign(key, std::move(seen));
  });
  return trial;
}

/// Root mean square R of rows, before and after a set of options was added.
struct RmsChange {
  double before = 0, after = 0;  // sums of squares
  std::int64_t rows = 0;

  void add(const SeenRow& old, const SeenRow& now) {
    before += old.r * old.r;
    after += now.r * now.r;
    ++rows;
  }
  double rms_before() const { return std::sqrt(before / static_cast<double>(rows)); }
  double rms_after() const { return std::sqrt(after / static_cast<double>(rows)); }
};

/// What the rows that can tell say of two arithmetics.
struct Comparison {
  std::map<std::string, RmsChange> widened;  // by output: rows whose predicted variance changes
  RmsChange moved;                           // rows whose expected value alone changes
  double worst_before = 0, worst_after = 0, likelihood = 0;

  void add(const Trial& before, const Trial& after) {
    for (const auto& [key, now] : after.rows) {
      const auto found = before.rows.find(key);
      if (found == before.rows.end() || now.dim == 1 || !(now.trace > 0) || !(found->second.trace > 0)) continue;
      const SeenRow& old = found->second;
      worst_before = std::max(worst_before, old.r);
      worst_after = std::max(worst_after, now.r);
      if (!now.tells) continue;
      likelihood += now.likelihood() - old.likelihood();
      (changes_variance(old, now) ? widened[std::get<0>(key)] : moved).add(old, now);
    }
  }
  RmsChange all() const {
    RmsChange sum = moved;
    for (const auto& [output, change] : widened)
      sum = {sum.before + change.before, sum.after + change.after, sum.rows + change.rows};
    return sum;
  }
  bool can_tell() const { return all().rows >= kMinTellingRows; }
  /// Whether these rows err as predicted. Where the variance changes: as much as it says, and more nearly so than
  /// before in every output. Where another exact function is expected: less than before, and no more than predicted.
  bool is_calibrated() const {
    RmsChange sum;
    for (const auto& [output, change] : widened) {
      sum = {sum.before + change.before, sum.after + change.after, sum.rows + change.rows};
      const auto distance = [](double rms) { return std::abs(std::log(rms)); };
      if (change.rows >= kMinTellingRows && distance(change.rms_after()) > distance(change.rms_before()) + 0.02)
        return false;
    }
    if (sum.rows > 0 && !(sum.rms_after() >= kMinRms && sum.rms_after() <= kMaxRms)) return false;
    return moved.rows == 0 || (moved.after < moved.before && moved.rms_after() <= kMaxRms);
  }
};

bool is_of_values(const CaseResult& result) {
  return result.verdict == Verdict::value_out_of_bound &&
         std::all_of(result.findings.begin(), result.findings.end(), [](const Finding& finding) {
           return finding.verdict == Verdict::value_out_of_bound && finding.detail.empty();
         });
}

std::vector<Case> smallest(const std::vector<const CaseResult*>& results, std::size_t count) {
  std::vector<const CaseResult*> order = results;
  std::stable_sort(order.begin(), order.end(),
                   [](const CaseResult* a, const CaseResult* b) { return a->rows() < b->rows(); });
  std::vector<Case> cases;
  std::set<std::pair<Operator, std::string>> covered;
  const auto failing_outputs = [](const CaseResult& result) {
    std::set<std::pair<Operator, std::string>> failing;
    for (const OutputSummary& output : result.outputs)
      if (output.findings > 0) failing.emplace(result.c.op, output.output);
    return failing;
  };
  std::vector<char> is_taken(order.size(), 0);
  for (const bool needs_new : {true, false})  // first one case for every output that fails
    for (std::size_t i = 0; i < order.size() && cases.size() < count; ++i) {
      const auto failing = failing_outputs(*order[i]);
      const bool is_new = !std::includes(covered.begin(), covered.end(), failing.begin(), failing.end());
      if (is_taken[i] != 0 || (needs_new && !is_new)) continue;
      is_taken[i] = 1;
      cases.push_back(order[i]->c);
      covered.insert(failing.begin(), failing.end());
    }
  return cases;
}

/// Small cases of level 2 that the kernel passes, of the operators and formats given. Rows of few features tell little.
std::vector<Case> passing_cases(const Kernel& kernel, const std::set<std::pair<Operator, Format>>& of,
                                const std::set<std::string>& without) {
  std::vector<std::pair<std::int64_t, Case>> sized;
  for (const auto& [op, dtype] : of)
    for (const Case& c : level_cases(op, 2, kernel.limits)) {
      if (c.dtype != dtype || c.law != Law::none || !c.session.empty() || c.sample > 0 || kernel.unsupported(c))
        continue;
      if (c.dk < kMinFeatures || (attends(c.op) && c.dv < kMinFeatures)) continue;
      if (without.contains(print(c))) continue;
      std::int64_t tokens = 0;
      for (const std::int64_t length : c.lens) tokens += length;
      if (tokens >= kMinTokens) sized.emplace_back(tokens * c.heads * (c.dk + c.dv), c);
    }
  std::stable_sort(sized.begin(), sized.end(), [](const auto& a, const auto& b) { return a.first < b.first; });
  std::vector<Case> cases;
  for (const auto& [size, c] : sized) cases.push_back(c);
  return cases;
}

/// Tries a set of options on the evidence: nothing where a finding is left.
std::optional<Comparison> try_options(const Kernel& kernel, const ArithmeticOptions& options,
                                      const std::vector<Trial>& evidence) {
  Comparison comparison;
  for (const Trial& before : evidence) {
    const Trial after = judge_under(kernel, options, before.result.c, &before);
    if (is_finding(after.result.verdict)) return std::nullopt;
    comparison.add(before, after);
  }
  return comparison;
}

/// All sets of `size` of the options.
std::vector<ArithmeticOptions> sets_of(const ArithmeticOptions& options, std::size_t size) {
  if (size == 0) return {{}};
  std::vector<ArithmeticOptions> sets;
  for (std::size_t first = 0; first + size <= options.size(); ++first)
    for (ArithmeticOptions& rest :
         sets_of({options.begin() + static_cast<std::ptrdiff_t>(first) + 1, options.end()}, size - 1)) {
      rest.insert(rest.begin(), options[first]);
      sets.push_back(std::move(rest));
    }
  return sets;
}

/// Whether of every output that fails in a case some option can change the prediction.
bool may_explain(const ArithmeticOptions& options, const std::vector<Trial>& evidence) {
  for (const Trial& trial : evidence)
    for (const OutputSummary& output : trial.result.outputs)
      if (output.findings > 0 && std::none_of(options.begin(), options.end(), [&](const std::string& option) {
            return touches(option, trial.result.c, trial.kinds.at(output.output));
          }))
        return false;
  return true;
}

std::string sum_of(const ArithmeticOptions& options) { return fmt::format("{}", fmt::join(options, "+")); }

}  // namespace

std::string hint(const Kernel& kernel, const std::vector<CaseResult>& results, std::chrono::seconds max_time) {
  std::vector<const CaseResult*> failing;
  std::set<std::pair<Operator, Format>> of;
  std::set<std::string> names;
  for (const CaseResult& result : results) {
    if (!is_finding(result.verdict)) continue;
    if (!is_of_values(result)) return "";
    failing.push_back(&result);
    of.emplace(result.c.op, result.c.dtype);
    names.insert(print(result.c));
  }
  if (failing.empty()) return "";
  const auto end = Clock::now() + max_time;
  std::vector<Trial> evidence;
  for (const Case& c : smallest(failing, kMaxFailing)) {
    evidence.push_back(judge_under(kernel, kernel.arithmetic, c, nullptr));
    if (!is_of_values(evidence.back().result)) return "";  // another finding than before
  }
  const std::size_t num_failing = evidence.size();
  for (const Case& c : passing_cases(kernel, of, names)) {
    if (evidence.size() >= num_failing + kMaxPassing || Clock::now() > end) break;
    Trial trial = judge_under(kernel, kernel.arithmetic, c, nullptr);
    if (trial.result.verdict == Verdict::pass) evidence.push_back(std::move(trial));
  }
  const std::vector<Trial> accused(evidence.begin(), evidence.begin() + static_cast<std::ptrdiff_t>(num_failing));
  ArithmeticOptions candidates;
  for (const reference::ArithmeticOption& option : reference::arithmetic_options())
    if (!has(kernel.arithmetic, option.name) && std::any_of(accused.begin(), accused.end(), [&](const Trial& trial) {
          return std::any_of(trial.result.outputs.begin(), trial.result.outputs.end(), [&](const OutputSummary& o) {
            return o.findings > 0 && touches(option.name, trial.result.c, trial.kinds.at(o.output));
          });
        }))
      candidates.push_back(option.name);
  std::string allowed;  // the first set without a finding whose rows cannot tell
  for (std::size_t size = 1; size <= kMaxOptions; ++size) {
    std::vector<std::pair<double, std::string>> fits;  // by likelihood
    Comparison best;
    ArithmeticOptions best_options;
    for (const ArithmeticOptions& added : sets_of(candidates, size)) {
      if (Clock::now() > end) return "hint: the search for arithmetic options that explain this took too long";
      ArithmeticOptions options = kernel.arithmetic;
      options.insert(options.end(), added.begin(), added.end());
      if (!reference::contradiction(options).empty() || !may_explain(added, accused)) continue;
      const std::optional<Comparison> tried = try_options(kernel, options, evidence);
      if (!tried || !tried->is_calibrated()) continue;
      if (!tried->can_tell()) {
        if (allowed.empty()) allowed = sum_of(options);
        continue;
      }
      if (tried->likelihood < kMinLikelihood) continue;
      std::size_t confirmed = 0;
      if (std::any_of(failing.begin(), failing.end(), [&](const CaseResult* result) {
            return confirmed++ < kMaxConfirmed &&
                   is_finding(judge_under(kernel, options, result->c, nullptr).result.verdict);
          }))
        continue;
      if (fits.empty() || tried->likelihood > std::max_element(fits.begin(), fits.end())->first)
        best = *tried, best_options = options;
      fits.emplace_back(tried->likelihood, sum_of(added));
    }
    if (fits.empty()) continue;
    std::sort(fits.rbegin(), fits.rend());
    std::vector<std::string> names_of_fits;
    for (const auto& [likelihood, name] : fits) names_of_fits.push_back(name);
    return fmt::format(
        "hint: fits {} (worst R {:.2g} -> {:.2g}, rms {:.2f} -> {:.2f} in {} cases). If that is what it does, declare "
        "it: arithmetic=\"{}\"",
        fmt::join(names_of_fits, " or "), best.worst_before, best.worst_after, best.all().rms_before(),
        best.all().rms_after(), evidence.size(), sum_of(best_options));
  }
  if (!allowed.empty())
    return fmt::format(
        "hint: under arithmetic=\"{}\" these cases pass, but too few of their rows can tell whether it fits", allowed);
  return "hint: no declared arithmetic explains these findings";
}

std::string over_declaration(const Kernel& kernel, const std::vector<CaseResult>& results,
                             std::chrono::seconds max_time) {
  if (kernel.arithmetic.empty()) return "";
  std::set<std::pair<Operator, Format>> of;
  for (const CaseResult& result : results) {
    if (is_finding(result.verdict)) return "";
    if (result.verdict == Verdict::pass) of.emplace(result.c.op, result.c.dtype);
  }
  const auto end = Clock::now() + max_time;
  const std::vector<Case> cases = passing_cases(kernel, of, {});
  std::vector<std::string> needless;
  for (const std::string& option : kernel.arithmetic) {
    ArithmeticOptions fewer = kernel.arithmetic;
    std::erase(fewer, option);
    if (option == "fp32_out" || !reference::contradiction(fewer).empty()) continue;
    std::vector<Trial> evidence;
    for (const Case& c : cases) {
      if (evidence.size() == 3 * kMaxPassing || Clock::now() > end) break;
      const bool acts = std::any_of(std::begin(kOutputKinds), std::end(kOutputKinds),
                                    [&](const OutputKind& kind) { return touches(option, c, kind.name); });
      if (!acts) continue;
      Trial trial = judge_under(kernel, kernel.arithmetic, c, nullptr);
      if (trial.result.verdict == Verdict::pass) evidence.push_back(std::move(trial));
    }
    const std::optional<Comparison> tried = try_options(kernel, fewer, evidence);
    if (tried && tried->can_tell() && tried->is_calibrated() && tried->likelihood >= kMinLikelihood)
      needless.push_back(option);
  }
  if (needless.empty()) return "";
  return fmt::format("hint: declares more than it does: everything that was tried passes without {}",
                     fmt::join(needless, ", or without "));
}

}  // namespace attnspec::verify
