// What makes a case valid, beyond how it is written.

#include <fmt/format.h>
#include <fmt/ranges.h>

#include <algorithm>
#include <numeric>
#include <vector>

#include "verify/cases/case.hpp"
#include "verify/cases/inputs/plain_numbers.hpp"
#include "verify/cases/law.hpp"
#include "verify/cases/regimes.hpp"

namespace attnspec::verify {

using reference::InvalidProblem;

namespace {

void validate_law(const Case& c) {
  if (c.law == Law::none) return;
  if (!has_law(c.op, c.law)) {
    std::vector<const char*> names;
    for (const Law law : kLaws)
      if (has_law(c.op, law)) names.push_back(name(law));
    throw InvalidProblem("law", name(c.law), fmt::format("{} has the laws {}", name(c.op), fmt::join(names, ", ")));
  }
  if (!c.session.empty())
    throw InvalidProblem("law", name(c.law), "has calls of its own, beside which there is no session");
  if (needs_causality(c.law) && !c.causal)
    throw InvalidProblem("law", name(c.law), "needs causal=1, else every query sees the future");
}

void validate_sample(const Case& c) {
  if (c.sample == 0) return;
  const std::int64_t least = 2 * c.heads * std::ssize(c.lens);
  if (c.sample < least)
    throw InvalidProblem("sample", std::to_string(c.sample),
                         fmt::format("must be 0, or at least {}: the first and the last row of every sequence and head "
                                     "are always judged",
                                     least));
  if (c.law != Law::none)
    throw InvalidProblem("sample", std::to_string(c.sample), "a law compares every row, and has no sample");
}

}  // namespace

void validate(const Case& c) {
  if (c.lens.size() != c.q_lens.size())
    throw InvalidProblem("q_lens", print_lengths(c.q_lens),
                         fmt::format("must have as many sequences as lens, {}", c.lens.size()));
  if (is_nsa(c.op)) {
    reference::validate(nsa_problem_of(c));
  } else {
    reference::validate(problem_of(c));
  }
  validate_regime(c);
  validate_numbers(c);
  validate_law(c);
  validate_sample(c);
  const double tokens =
      static_cast<double>(std::max(std::accumulate(c.lens.begin(), c.lens.end(), std::int64_t{0}),
                                   std::accumulate(c.q_lens.begin(), c.q_lens.end(), std::int64_t{0})));
  const double elements = tokens * static_cast<double>(c.heads) * static_cast<double>(std::max(c.dk, c.dv));
  const double slots = tokens * static_cast<double>(c.heads) * static_cast<double>(c.top_k);
  const double limit = static_cast<double>(std::int64_t{1} << 36);
  const double parameters = static_cast<double>(c.kv_heads) * static_cast<double>(c.compress_block) *
                            static_cast<double>(std::max(c.dk, c.dv)) *
                            static_cast<double>(std::max({c.dk, c.dv, c.hidden}));
  if (compresses(c.op) && c.phi != reference::Phi::mean && parameters > limit)
    throw InvalidProblem("compress_block", std::to_string(c.compress_block),
                         fmt::format("phi would have {:.3g} parameters, more than 2^36", parameters));
  if (elements > limit)
    throw InvalidProblem("lens", print_lengths(c.lens),
                         fmt::format("a tensor would have {:.3g} elements, more than 2^36", elements));
  if (reads_selection(c.op) && slots > limit)
    throw InvalidProblem("top_k", std::to_string(c.top_k),
                         fmt::format("the selection would have {:.3g} entries, more than 2^36", slots));
}

}  // namespace attnspec::verify
