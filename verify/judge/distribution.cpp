#include "verify/judge/distribution.hpp"

#include <algorithm>
#include <cmath>

namespace attnspec::verify {

double Distribution::begin_of(int bin) { return std::exp2(static_cast<double>(bin) / kBinsOfOctave); }

void Distribution::add(double x) {
  const double bin = x > 0 ? std::floor(kBinsOfOctave * std::log2(x)) : kFirstBin;
  ++bins_[static_cast<int>(std::clamp<double>(bin, kFirstBin, kLastBin))];
}

Distribution& Distribution::operator+=(const Distribution& other) {
  for (const auto& [bin, count] : other.bins_) bins_[bin] += count;
  return *this;
}

std::int64_t Distribution::count() const {
  std::int64_t sum = 0;
  for (const auto& [bin, count] : bins_) sum += count;
  return sum;
}

double Distribution::quantile(double share) const {
  const double wanted = share * static_cast<double>(count());
  std::int64_t sum = 0;
  for (const auto& [bin, count] : bins_)
    if (static_cast<double>(sum += count) >= wanted) return bin == kFirstBin ? 0 : begin_of(bin + 1);
  return 0;
}

std::int64_t Distribution::count_up_to(double x) const {
  std::int64_t sum = 0;
  for (const auto& [bin, count] : bins_)
    if (begin_of(bin + 1) <= x) sum += count;
  return sum;
}

}  // namespace attnspec::verify
