// The simplest words that separate the wrong rows of an output from the right ones.
#pragma once

#include <cstdint>
#include <string>
#include <vector>

#include "verify/diagnosis/rows.hpp"

namespace attnspec::verify {

/// The words that fit best, from a fixed list ordered from simple to less simple. Of words that fit about as well the
/// simplest are taken.
struct Pattern {
  std::string output;
  std::string words{};   // "only kv head 1"; empty: none of the list separates them
  double precision = 0;  // the share of the rows that the words name that is wrong
  double recall = 0;     // the share of the wrong rows that the words name
  std::int64_t wrong = 0, rows = 0;
  std::string features{};  // likewise of the elements of the wrong rows, "only features >= 128"; empty: none

  /// "o is wrong in 20 of 64 rows: only kv head 1 (precision 1.00, recall 1.00)"
  std::string line() const;
};

/// rows: of one output, at least one of them wrong.
Pattern find_pattern(const std::string& output, const std::vector<RowFacts>& rows);

}  // namespace attnspec::verify
