// Where a failing case is wrong: every row of its wrong outputs, by token and head.
#pragma once

#include <array>
#include <cstdint>
#include <string>
#include <vector>

#include "verify/judge/judge.hpp"

namespace attnspec::fuzz {

/// What a row is: by its row error ratio R, or because it failed.
enum class RowLevel : std::uint8_t { not_judged, below_1, below_2, above_2, wrong };
inline constexpr std::array<const char*, 5> kRowLevelNames{"not judged", "R below 1", "R from 1 to 2", "R above 2",
                                                           "wrong"};

/// The rows of one output.
struct ErrorMap {
  std::string output;
  std::vector<std::int64_t> lengths;  // rows of each sequence; of a parameter of phi one, whose heads are its sets
  std::int64_t heads = 0;
  std::vector<RowLevel> levels;  // [sum of lengths, heads]
  bool holds_all_rows = true;    // else only those that the findings name

  RowLevel level(std::int64_t row, std::int64_t head) const {
    return levels[static_cast<std::size_t>(row * heads + head)];
  }
};

/// Rows that follow each other and are wrong.
struct WrongRun {
  std::int64_t sequence, head, first_token, last_token;
};
std::vector<WrongRun> wrong_rows(const ErrorMap& map);

/// One wrong row with its numbers.
struct WrongRow {
  std::string output;
  verify::Place place;
  std::vector<double> expected, observed;
};

struct JudgedAgain {
  std::vector<ErrorMap> maps;   // of the outputs with wrong rows, in the order of the findings
  std::vector<WrongRow> wrong;  // the first few of at most eight features
};

/// Judges a failing case once more, as the kernel's first one, and keeps its rows. No maps of a case that has no wrong
/// rows, does not return, or has too many rows to draw; a law's show the rows that its findings name.
JudgedAgain judge_rows(const verify::Kernel& kernel, const verify::CaseResult& failing);

}  // namespace attnspec::fuzz
