// The fixed levels: which cases `check` judges. Values of the axes of the space of cases, combined so that every pair
// of values of different axes occurs in some case.
#pragma once

#include <string>
#include <vector>

#include "verify/cases/case.hpp"
#include "verify/cases/limits.hpp"

namespace attnspec::verify {

/// The cases of one operator. Level 1: every pair once, a third of them with hundreds of tokens, the captured
/// activations, every law in every format, every extreme once; a minute for all operators. Level 2: every pair under
/// eight seeds, every extreme four times; some minutes. Throws std::runtime_error when a captured file cannot be read.
std::vector<Case> level_cases(Operator op, int level);

inline constexpr int kMaxLevel = 2;

/// Those cases moved inside the limits, each once. Where fewer than 100 without a law are left, others follow that
/// differ in their numbers.
std::vector<Case> level_cases(Operator op, int level, const Limits& limits);

/// The part of level 1 of these operators that the limits allow as it is, from 0 to 1.
double share_inside(const std::vector<Operator>& operators, const Limits& limits);

/// "limits: 12 % of the cases of level 1 lie inside; the others were moved inside (dk 64 128, bf16)": one line with its
/// end; empty where all do.
std::string limits_line(const std::vector<Operator>& operators, const Limits& limits);

}  // namespace attnspec::verify
