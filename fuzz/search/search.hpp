// The search: generated cases, judged until one fails, the cases or the time are over, or somebody stops it. The same
// seed draws the same cases in the same order on every machine (with the same captured activations at hand); how many
// of them fit into the time may differ.
#pragma once

#include <rapidcheck.h>

#include <cstdint>
#include <functional>
#include <limits>
#include <map>
#include <optional>
#include <string>
#include <vector>

#include "fuzz/search/swarm.hpp"
#include "verify/cases/limits.hpp"
#include "verify/cases/space/coverage.hpp"
#include "verify/judge/judge.hpp"

namespace attnspec::fuzz {

using verify::Case;
using verify::Operator;

/// Cases of one swarm. The first swarm has everything.
inline constexpr int kSwarmCases = 20;
/// Cases drawn for each one that is kept: the one with the most triples of classes not seen yet.
inline constexpr int kCandidates = 4;

/// An endless sequence of cases. The next one is of the operator that has had the least work so far.
class CaseSource {
 public:
  /// operators: at least one. laws: all cases are judged by one of them, or none: most by the specification. limits:
  /// all cases lie inside.
  CaseSource(std::vector<Operator> operators, std::uint64_t seed, std::vector<verify::Law> laws = {},
             verify::Limits limits = {});

  Case next();

  const Swarm& swarm() const { return swarm_; }    // of the last case
  std::int64_t swarms() const { return swarms_; }  // so far
  /// Of the cases given, and of all that were drawn for them: what the operators can show.
  const verify::Coverage& kept() const { return kept_; }
  const verify::Coverage& drawn() const { return drawn_; }

 private:
  std::vector<Operator> operators_;
  std::vector<verify::Law> laws_;
  verify::Limits limits_;
  rc::Random random_;
  Swarm swarm_;
  std::int64_t cases_ = 0, swarms_ = 0;
  std::vector<double> work_;  // of each operator
  verify::Coverage kept_, drawn_;
};

/// A case on which the kernel failed.
struct Found {
  std::int64_t number = 0;      // of the case, the first is 1
  double seconds = 0;           // since the search began
  verify::CaseResult drawn;     // as it was found
  verify::CaseResult shrunk;    // the simplest found
  std::int64_t judgements = 0;  // of the shrinking
  bool fails_alone = true;      // whether `shrunk` fails as the first case that the kernel meets
  std::optional<Case> after{};  // if not: a case after which it fails, where one was found
};

struct SearchOptions {
  std::vector<Operator> operators;  // none: every one the kernel implements
  std::vector<verify::Law> laws;    // none: cases of every law and of none; else of these alone
  std::uint64_t seed = 0;
  std::int64_t cases = std::numeric_limits<std::int64_t>::max();  // judged, at most
  double seconds = std::numeric_limits<double>::infinity();       // at most, but for the cases under way
  bool keeps_going = false;                                       // after a finding
  int jobs = 0;                      // cases judged at the same time; 0: one for each thread. 1 for a kernel on a GPU
  std::function<bool()> is_stopped;  // asked between cases; empty: never
};

/// What was judged of one operator.
struct OperatorTally {
  std::int64_t cases = 0, rows = 0, undecided_rows = 0;
  double worst_r = 0;
  verify::ImaginedCounts imagined{};
  std::map<verify::Verdict, std::int64_t> verdicts;
};

struct SearchSummary {
  std::map<Operator, OperatorTally> operators;
  double seconds = 0;
  std::int64_t swarms = 0, triples = 0, drawn_triples = 0;   // of classes
  std::map<Operator, std::vector<std::string>> never_drawn;  // classes of cases
  std::int64_t launches = 0;                                 // that the law `repeat` found equal

  std::int64_t cases() const;
  std::int64_t rows() const;
  std::int64_t count(verify::Verdict verdict) const;
  verify::ImaginedCounts imagined() const;
};

/// What happens meanwhile; empty functions are left out. Called from one thread, in the order of the cases.
struct SearchObserver {
  std::function<void(const Swarm&)> swarm;  // the next cases are drawn in it
  std::function<void(const verify::CaseResult&)> judged;
  std::function<void(const Found&)> found;
};

/// Throws std::invalid_argument for an operator that the kernel does not implement, and what judge throws.
SearchSummary search(const verify::Kernel& kernel, const SearchOptions& options, const SearchObserver& observer = {});

/// 0 everything passed; 1 a finding; 3 inconclusive: a case was undecided, no case of an operator was supported, or
/// no row of one would show a fault (D2).
int exit_code(const SearchSummary& summary);

}  // namespace attnspec::fuzz
