#include "verify/result.hpp"

#include <algorithm>
#include <utility>

namespace attnspec::verify {

Imagined& Imagined::operator+=(const Imagined& other) {
  rows += other.rows;
  shown += other.shown;
  return *this;
}

std::int64_t CaseResult::rows() const {
  std::int64_t rows = 0;
  for (const OutputSummary& output : outputs) rows += output.rows;
  return rows;
}

std::int64_t CaseResult::undecided() const {
  std::int64_t rows = 0;
  for (const OutputSummary& output : outputs) rows += output.undecided;
  return rows;
}

Imagined CaseResult::left_out() const {
  Imagined sum;
  for (const OutputSummary& output : outputs) sum += output.left_out;
  return sum;
}

Imagined CaseResult::too_many() const {
  Imagined sum;
  for (const OutputSummary& output : outputs) sum += output.too_many;
  return sum;
}

void CaseResult::add(Finding finding) {
  verdict = std::max(verdict, finding.verdict);
  findings.push_back(std::move(finding));
}

}  // namespace attnspec::verify
