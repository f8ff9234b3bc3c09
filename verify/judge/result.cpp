#include "verify/judge/result.hpp"

#include <algorithm>
#include <utility>

namespace attnspec::verify {

Imagined& Imagined::operator+=(const Imagined& other) {
  rows += other.rows;
  shown += other.shown;
  return *this;
}

ImaginedCounts& ImaginedCounts::operator+=(const ImaginedCounts& other) {
  left_out += other.left_out;
  too_many += other.too_many;
  return *this;
}

bool ImaginedCounts::show_nothing() const {
  return left_out.rows + too_many.rows > 0 && left_out.shown + too_many.shown == 0;
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

ImaginedCounts CaseResult::imagined() const {
  ImaginedCounts sum;
  for (const OutputSummary& output : outputs) sum += output.imagined;
  return sum;
}

void CaseResult::add(Finding finding) {
  verdict = std::max(verdict, finding.verdict);
  findings.push_back(std::move(finding));
}

void CaseResult::add(const std::vector<MemoryFault>& faults) {
  for (const MemoryFault& fault : faults) add({.verdict = fault.verdict, .output = fault.tensor, .detail = fault.what});
}

}  // namespace attnspec::verify
