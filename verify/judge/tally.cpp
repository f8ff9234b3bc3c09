#include "verify/judge/tally.hpp"

#include <algorithm>
#include <cmath>
#include <tuple>
#include <utility>

namespace attnspec::verify {

Tally::Tally(const RowObserver& observe, std::string kind, std::string output)
    : observe_(observe), kind_(std::move(kind)) {
  summary_.output = std::move(output);
}

void Tally::add(const Place& place, const RowComparison& row, const Vector& expected, const Vector& observed,
                const RowNoise& noise, const reference::Covariance* covariance) {
  if (observe_.row) observe_.row({kind_, summary_.output, place, row, expected, observed, covariance, noise});
  measure(row, expected);
  if (row.fault == RowFault::none) return pass(row.r);
  fail({.verdict = row.fault == RowFault::wrong_class ? Verdict::non_finite : Verdict::value_out_of_bound,
        .sequence = place.sequence,
        .token = place.token,
        .head = place.head,
        .d = row.d,
        .observed = observed[row.d],
        .expected = expected[row.d],
        .bound = row.bound,
        .r = row.r,
        .limit = row.fault == RowFault::row ? row.limit : 0});
}

void Tally::add(const Place& place, const reference::PredictedRow& row, const Vector& observed, Format format) {
  const reference::Covariance covariance = row.covariance();
  add(place, compare_row(row.expected, observed, row.sum.noise, format, covariance), row.expected, observed,
      row.sum.noise, &covariance);
}

void Tally::add(const ImaginedFaults& faults) {
  const std::lock_guard lock(mutex_);
  const auto count = [](const std::optional<ImaginedFault>& fault, Imagined& sum) {
    if (!fault) return;
    ++sum.rows;
    sum.shown += fault->shows;
    sum.smallest.add(fault->smallest_weight);
  };
  count(faults.left_out, summary_.imagined.left_out);
  count(faults.too_many, summary_.imagined.too_many);
}

void Tally::add_selection(const Place& place, std::span<const std::int32_t> blocks, const std::string& wrong,
                          std::optional<double> clearance) {
  if (observe_.selection) observe_.selection({place, blocks, wrong.empty()});
  if (clearance) {
    const std::lock_guard lock(mutex_);
    summary_.clearances.add(*clearance);
  }
  if (wrong.empty()) return pass(0);
  fail({.verdict = Verdict::selection_mismatch,
        .sequence = place.sequence,
        .token = place.token,
        .head = place.head,
        .detail = wrong});
}

void Tally::add_undecided() {
  const std::lock_guard lock(mutex_);
  ++summary_.undecided;
}

void Tally::sample(const JudgedRows& rows) { summary_.all = rows.all(); }

void Tally::sample(const JudgedRows& rows, const TensorView& view) {
  sample(rows);
  if (rows.are_all()) return;
  for (std::size_t s = 0; s + 1 < rows.offsets.size(); ++s) {
#pragma omp parallel for collapse(2)
    for (std::int64_t token = rows.offsets[s]; token < rows.offsets[s + 1]; ++token) {
      for (std::int64_t head = 0; head < rows.heads; ++head) {
        std::int64_t d = 0;
        while (d < view.dim && !std::isnan(view.load(token, head, d))) ++d;
        const Place place{static_cast<std::int64_t>(s), token - rows.offsets[s], head};
        if (d == view.dim || rows.contains(place)) continue;
        fail({.verdict = Verdict::non_finite,
              .sequence = place.sequence,
              .token = place.token,
              .head = place.head,
              .d = d,
              .detail = "NaN, which is right nowhere"});
      }
    }
  }
}

void Tally::measure(const RowComparison& row, const Vector& expected) {
  if (row.fault == RowFault::wrong_class) return;
  const double length = expected.norm();
  const std::lock_guard lock(mutex_);
  summary_.r.add(row.r);
  if (std::isfinite(length) && length > 0)
    summary_.smallest_errors.add(smallest_error(row.trace, std::sqrt(row.floor_squares)) / length);
}

void Tally::pass(double r) {
  const std::lock_guard lock(mutex_);
  ++summary_.rows;
  summary_.worst_r = std::max(summary_.worst_r, r);
  summary_.sum_r_squared += r * r;
}

void Tally::fail(Finding finding) {
  const std::lock_guard lock(mutex_);
  ++summary_.rows;
  ++summary_.findings;
  summary_.worst_r = std::max(summary_.worst_r, finding.r);
  summary_.sum_r_squared += finding.r * finding.r;
  finding.output = summary_.output;
  findings_.push_back(std::move(finding));
  if (findings_.size() > 4 * kMaxFindings) keep_first();
}

void Tally::finish(CaseResult& result) {
  keep_first();
  for (Finding& finding : findings_) {
    result.verdict = std::max(result.verdict, finding.verdict);
    if (result.findings.size() < kMaxFindings) result.findings.push_back(std::move(finding));
  }
  if (summary_.undecided > 0) result.verdict = std::max(result.verdict, Verdict::undecided);
  result.outputs.push_back(std::move(summary_));
}

void Tally::keep_first() {
  const auto position = [](const Finding& f) { return std::tuple(f.sequence, f.token, f.head); };
  std::sort(findings_.begin(), findings_.end(),
            [&](const Finding& a, const Finding& b) { return position(a) < position(b); });
  if (findings_.size() > kMaxFindings) findings_.resize(kMaxFindings);
}

}  // namespace attnspec::verify
