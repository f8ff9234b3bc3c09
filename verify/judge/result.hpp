// What the judge found out about a case.
#pragma once

#include <compare>
#include <concepts>
#include <cstdint>
#include <functional>
#include <span>
#include <string>
#include <utility>
#include <vector>

#include "verify/cases/case.hpp"
#include "verify/judge/compare.hpp"
#include "verify/judge/direction.hpp"
#include "verify/judge/distribution.hpp"
#include "verify/run/calls/guarded_run.hpp"
#include "verify/run/verdict.hpp"

namespace attnspec::verify {

/// Where a row is; see Finding.
struct Place {
  std::int64_t sequence, token, head;

  auto operator<=>(const Place&) const = default;
};

/// One row, or one tensor, that is wrong.
struct Finding {
  Verdict verdict = Verdict::value_out_of_bound;
  std::string output{};                               // selection, o, lse, dq, ...; a branch of nsa before a dot
  std::int64_t sequence = -1, token = -1, head = -1;  // token in its sequence, -1: a tensor. A parameter of phi has no
                                                      // sequence: token is its row, head its set
  std::int64_t d = -1;                                // -1: a row
  double observed = 0, expected = 0, bound = 0;
  double r = 0, limit = 0;  // of the row; limit 0 where an element decided
  std::string detail{};     // of a selection or a tensor: what is wrong with it
  std::string call{};       // of a session: which, "call 3, contents"
};

/// In how many rows of an o a fault was imagined, and in how many of them it would show. Tag D2.
struct Imagined {
  std::int64_t rows = 0, shown = 0;
  Distribution smallest{};  // weights at which the fault would begin to show; above 1: at none

  Imagined& operator+=(const Imagined& other);
};

/// Both faults that are imagined: a block or key left out, or one too many.
struct ImaginedCounts {
  Imagined left_out, too_many;

  ImaginedCounts& operator+=(const ImaginedCounts& other);
  /// Whether faults were imagined, and none of them would show.
  bool show_nothing() const;
};

/// What was judged of one output.
struct OutputSummary {
  std::string output;
  std::int64_t rows = 0;      // judged: (token, head) pairs
  std::int64_t findings = 0;  // of them wrong
  std::int64_t undecided = 0;
  double worst_r = 0;
  double sum_r_squared = 0;   // information: mean square far below 1 means more exact than declared
  std::int64_t all = 0;       // rows that it has, where a case may have a sample
  ImaginedCounts imagined{};  // of an o
  Distribution r{};           // of every finite row that was compared with a prediction
  /// The same rows: lengths of an error that no rounding explains, over the length of the expected row.
  Distribution smallest_errors{};
  Distribution clearances{};  // of a selection

  /// Adds what was judged of the same output elsewhere.
  OutputSummary& operator+=(const OutputSummary& other);
};

/// Adds each summary to that of its output, or behind the others where there is none.
void add(const std::vector<OutputSummary>& outputs, std::vector<OutputSummary>& sums);

/// Errors that all rows of one o share.
struct Directions {
  std::string output;
  std::vector<Direction> directions;
};

struct CaseResult {
  Case c;
  std::string kernel;
  Verdict verdict = Verdict::pass;
  std::string reason;                  // of not_supported, or why the backward was not judged
  std::vector<OutputSummary> outputs;  // in the order they were judged
  std::vector<Finding> findings;       // the first kMaxFindings, by output and position
  std::vector<Directions> directions;  // of every o that was judged
  std::string arithmetic;              // the arithmetic judged against
  std::int64_t failing_call = 0;       // of a session: the first that has a finding, from 1; 0: none
  std::int64_t launches = 0;           // of a call that was the same every time, by the law `repeat`
  double seconds = 0;                  // that the judgement took, calls of the kernel included

  std::int64_t rows() const;
  std::int64_t undecided() const;
  ImaginedCounts imagined() const;  // of all of its o
  /// Adds a finding about a whole tensor.
  void add(Finding finding);
  /// Adds a finding for each.
  void add(const std::vector<MemoryFault>& faults);
};

/// Findings kept per case.
inline constexpr std::size_t kMaxFindings = 20;

/// A kind of outputs that are compared with a prediction.
struct OutputKind {
  const char* name;
  bool is_of_every_attention;  // and not of NSA alone
};
/// Beside those of every attention, NSA's compressed rows, the gradients of their tokens and of phi's parameters, and
/// those of the gates.
inline constexpr OutputKind kOutputKinds[] = {{"o", true},         {"lse", true},    {"dq", true},
                                              {"dk", true},        {"dv", true},     {"rows", false},
                                              {"d_tokens", false}, {"d_phi", false}, {"d_gates", false}};

/// A row of an output as it was compared.
struct ObservedRow {
  const std::string& kind;    // the name of one of kOutputKinds
  const std::string& output;  // as a finding names it
  Place place;
  const RowComparison& comparison;
  const Vector &expected, &observed;
  const reference::Covariance* covariance;  // nullptr for lse
  const RowNoise& noise;
};

/// The blocks that a row selected.
struct ObservedSelection {
  Place place;
  std::span<const std::int32_t> blocks;
  bool is_right;
};

/// Of all keys of a sequence and kv head together: what dk and dv of each key share with those of the others.
struct ObservedKeySums {
  const std::string &dk, &dv;  // the outputs, as findings name them
  std::int64_t sequence, head;
  const Vector& d_o;                        // [dv], the sum of the given gradients of the rows that see a key
  const Vector &dk_variance, &dv_variance;  // of the sums over the keys, by errors that keys share
};

/// What is called while a case is judged, from any thread. Any of them may be empty.
struct RowObserver {
  RowObserver() = default;
  /// Of rows alone.
  template <std::invocable<const ObservedRow&> Observe>
  RowObserver(Observe observe) : row(std::move(observe)) {}

  std::function<void(const ObservedRow&)> row;
  std::function<void(const ObservedSelection&)> selection;
  std::function<void(const ObservedKeySums&)> key_sums;
};

}  // namespace attnspec::verify
