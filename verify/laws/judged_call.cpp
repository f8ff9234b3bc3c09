#include "verify/laws/judged_call.hpp"

#include <algorithm>
#include <mutex>
#include <utility>

#include "verify/judge/cases.hpp"
#include "verify/operators/operator.hpp"

namespace attnspec::verify {

namespace {

std::vector<std::int32_t> sorted_blocks(std::span<const std::int32_t> row) {
  std::vector<std::int32_t> blocks;
  std::copy_if(row.begin(), row.end(), std::back_inserter(blocks), [](std::int32_t b) { return b >= 0; });
  std::sort(blocks.begin(), blocks.end());
  return blocks;
}

}  // namespace

NoisyRow& NoisyRow::operator+=(const NoisyRow& other) {
  if (observed.size() == 0) return *this = other;
  observed += other.observed;
  expected += other.expected;
  variance += other.variance;
  worst += other.worst;
  floor += other.floor;
  return *this;
}

Vector NoisyRow::bound() const { return worst.cwiseMin(reference::kKappa * variance.cwiseSqrt()) + floor; }

const std::map<Place, NoisyRow>& JudgedCall::rows(const std::string& output) const {
  static const std::map<Place, NoisyRow> kNone;
  const auto found = outputs.find(output);
  return found == outputs.end() ? kNone : found->second.values;
}

JudgedCall judged_call(const Kernel& kernel, const Case& c, Inputs inputs, CaseResult& result) {
  JudgedCall call{kernel, c, std::move(inputs)};
  std::mutex mutex;
  RowObserver observe([&](const ObservedRow& row) {
    const std::lock_guard lock(mutex);
    NoisyOutput& output =
        call.outputs.try_emplace(row.output, NoisyOutput{tensor_of(c.op, row.output).rows, {}}).first->second;
    output.values.insert_or_assign(
        row.place, NoisyRow{row.observed, row.expected, row.noise.variance, row.noise.worst, row.noise.floor});
  });
  observe.selection = [&](const ObservedSelection& row) {
    const std::lock_guard lock(mutex);
    call.selection.insert_or_assign(row.place, SelectedBlocks{sorted_blocks(row.blocks), row.is_right});
  };
  observe.key_sums = [&](const ObservedKeySums& sums) {
    const std::lock_guard lock(mutex);
    call.key_sums.push_back({sums.dk, sums.dv, sums.sequence, sums.head, sums.d_o, sums.dk_variance, sums.dv_variance});
  };
  CaseResult judged;
  judge_call(kernel, c, call.inputs, observe, judged);
  for (Finding& finding : judged.findings)
    if (finding.verdict >= Verdict::nondeterministic) result.add(std::move(finding));
  return call;
}

}  // namespace attnspec::verify
