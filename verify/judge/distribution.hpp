// How numbers are distributed over orders of magnitude.
#pragma once

#include <cstdint>
#include <map>

namespace attnspec::verify {

/// Counts numbers in bins of equal ratio, four for each factor of 2.
class Distribution {
 public:
  static constexpr int kBinsOfOctave = 4;
  /// Numbers below 2^-30, 0 and negative ones are in the first bin; those above 2^30 and infinity in the last.
  static constexpr int kFirstBin = -30 * kBinsOfOctave, kLastBin = 30 * kBinsOfOctave;

  /// x: not NaN.
  void add(double x);
  Distribution& operator+=(const Distribution& other);

  std::int64_t count() const;
  /// A number that this share of all is at most, up to the width of a bin; 0 of none.
  double quantile(double share) const;
  /// How many lie in bins that end at x or below.
  std::int64_t count_up_to(double x) const;
  /// Counts by bin, of those that hold something.
  const std::map<int, std::int64_t>& bins() const { return bins_; }

  /// Where a bin begins; it ends where the next one begins.
  static double begin_of(int bin);

 private:
  std::map<int, std::int64_t> bins_;
};

}  // namespace attnspec::verify
