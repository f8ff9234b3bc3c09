// Shrinking: from a case on which a kernel fails to the simplest one on which it fails.
#pragma once

#include <rapidcheck.h>

#include <functional>

#include "verify/judge/judge.hpp"

namespace attnspec::fuzz {

/// One way to make a case simpler: cases that are, the simplest first. Some may be invalid.
using Simpler = std::function<rc::Seq<verify::Case>(const verify::Case&)>;

/// Every way, in the order of what matters: the law, calls of a session, sequences, lengths, queries, heads, features,
/// blocks, the other parameters to their defaults, the regime, the seed.
const std::vector<Simpler>& ways_to_simplify();

struct Shrunk {
  verify::CaseResult result;    // of the simplest case found
  std::int64_t judgements = 0;  // cases judged on the way
};

/// Judgements of one shrinking, at most, and seconds after which none begins: a kernel that hangs takes all its
/// timeout for each.
inline constexpr std::int64_t kMaxJudgements = 400;
inline constexpr double kMaxSeconds = 120;

/// Judges the kernel that is shrunk for on a case.
using Judge = std::function<verify::CaseResult(const verify::Case&)>;

/// Follows each way as far as the kernel fails, whatever the verdict, again and again until none leads on; then leaves
/// out the sizes that may as well be the default ones, and gives tensors plain numbers as long as the same output fails
/// with the same verdict. stop: ends it early, empty: never. The operator never changes,
/// and a law only gives way to the specification.
Shrunk shrink(const Judge& judge, const verify::CaseResult& failing, const std::function<bool()>& stop = {});

}  // namespace attnspec::fuzz
