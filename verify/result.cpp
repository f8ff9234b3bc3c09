#include "verify/result.hpp"

#include <algorithm>
#include <utility>

namespace attnspec::verify {

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

void CaseResult::add(Finding finding) {
  verdict = std::max(verdict, finding.verdict);
  findings.push_back(std::move(finding));
}

}  // namespace attnspec::verify
