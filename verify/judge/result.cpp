#include "verify/judge/result.hpp"

#include <algorithm>
#include <utility>

namespace attnspec::verify {

Imagined& Imagined::operator+=(const Imagined& other) {
  rows += other.rows;
  shown += other.shown;
  smallest += other.smallest;
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

OutputSummary& OutputSummary::operator+=(const OutputSummary& other) {
  rows += other.rows;
  findings += other.findings;
  undecided += other.undecided;
  worst_r = std::max(worst_r, other.worst_r);
  sum_r_squared += other.sum_r_squared;
  all += other.all;
  imagined += other.imagined;
  r += other.r;
  smallest_errors += other.smallest_errors;
  clearances += other.clearances;
  return *this;
}

void add(const std::vector<OutputSummary>& outputs, std::vector<OutputSummary>& sums) {
  for (const OutputSummary& output : outputs) {
    const auto found =
        std::find_if(sums.begin(), sums.end(), [&](const OutputSummary& sum) { return sum.output == output.output; });
    if (found == sums.end())
      sums.push_back(output);
    else
      *found += output;
  }
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
