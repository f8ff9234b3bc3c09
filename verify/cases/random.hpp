// The one source of randomness: a counter-based generator. A number is a pure function of (seed, stream, index), the
// same on every machine and with any number of threads, and made without library functions that could round apart.
#pragma once

#include <cstdint>
#include <string_view>

namespace attnspec::verify {

class Random {
 public:
  /// stream: what the numbers are for, such as the name of a tensor.
  Random(std::uint64_t seed, std::string_view stream) : key_(mix(seed + 0x9e3779b97f4a7c15u)) {
    for (const char letter : stream) key_ = mix(key_ ^ static_cast<unsigned char>(letter));
  }

  /// 64 uniform bits.
  std::uint64_t bits(std::uint64_t index) const { return mix(key_ + 0x9e3779b97f4a7c15u * (index + 1)); }

  /// Uniform on 0 .. n - 1, n >= 1 (biased by less than n / 2^64).
  std::int64_t below(std::int64_t n, std::uint64_t index) const {
    return static_cast<std::int64_t>(bits(index) % static_cast<std::uint64_t>(n));
  }

  /// Normal with mean 0 and variance 1, as a sum of twelve uniform numbers: exact arithmetic, |x| < 6.
  double normal(std::uint64_t index) const {
    std::int64_t sum = 0;
    for (std::uint64_t word = 0; word < 3; ++word)
      for (std::uint64_t rest = bits(3 * index + word), part = 0; part < 4; ++part, rest >>= 16)
        sum += static_cast<std::int64_t>(rest & 0xffff);
    return (static_cast<double>(sum) - 6.0 * 0xffff) / 0x10000;
  }

 private:
  static std::uint64_t mix(std::uint64_t x) {  // the finaliser of SplitMix64
    x = (x ^ (x >> 30)) * 0xbf58476d1ce4e5b9u;
    x = (x ^ (x >> 27)) * 0x94d049bb133111ebu;
    return x ^ (x >> 31);
  }

  std::uint64_t key_;
};

}  // namespace attnspec::verify
