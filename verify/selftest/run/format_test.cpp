// Rounding to the storage formats.

#include <gtest/gtest.h>

#include <cmath>
#include <limits>

#include "verify/cases/random.hpp"
#include "verify/run/storage.hpp"

namespace attnspec::verify {
namespace {

using reference::round_to;

TEST(RoundTo, ReproducesEveryFp16NumberAndTheirMidpointsGoToEven) {
  for (std::uint16_t bits = 0; bits < 0x7bff; ++bits) {
    const double x = decode_fp16(bits), next = decode_fp16(static_cast<std::uint16_t>(bits + 1));
    ASSERT_EQ(encode_fp16(x), bits);
    ASSERT_EQ(round_to(x, Format::fp16), x);
    ASSERT_EQ(round_to(-x, Format::fp16), -x);
    ASSERT_EQ(round_to((x + next) / 2, Format::fp16), bits % 2 == 0 ? x : next);
    ASSERT_EQ(round_to(std::nextafter((x + next) / 2, next), Format::fp16), next);
    ASSERT_EQ(reference::spacing(x, Format::fp16), next - x);
  }
}

TEST(RoundTo, ReproducesEveryBf16Number) {
  for (std::uint32_t bits = 0; bits < 0x7f80; ++bits) {
    const double x = decode_bf16(static_cast<std::uint16_t>(bits));
    ASSERT_EQ(encode_bf16(x), bits);
    ASSERT_EQ(round_to(x, Format::bf16), x);
  }
}

TEST(RoundTo, RoundsOnceWhereGoingThroughFloatRoundsTwice) {
  const double x = 1 + 0x1p-8 + 0x1p-40;  // just above the midpoint of 1 and 1 + 2^-7; in float it is the midpoint
  EXPECT_EQ(round_to(x, Format::bf16), 1 + 0x1p-7);
  EXPECT_EQ(round_to(static_cast<float>(x), Format::bf16), 1);
}

TEST(RoundTo, OverflowsAtHalfASpacingAboveTheLargestNumber) {
  EXPECT_EQ(reference::largest_finite(Format::fp16), 65504);
  EXPECT_EQ(round_to(65519.99, Format::fp16), 65504);
  EXPECT_EQ(round_to(65520, Format::fp16), HUGE_VAL);
  EXPECT_EQ(round_to(-1e300, Format::bf16), -HUGE_VAL);
  EXPECT_TRUE(std::isnan(round_to(std::nan(""), Format::fp16)));
}

TEST(Storage, GivesBackWhatWasStored) {
  const Random random(1, "storage");
  for (const Format format : {Format::bf16, Format::fp16, Format::fp32}) {
    HostTensor tensor(format, Layout::strided, 3, 2, 5);
    const TensorView view = tensor.view();
    EXPECT_TRUE(std::isnan(view.load(2, 1, 4)));
    for (std::uint64_t i = 0; i < 30; ++i) {
      const double x = random.normal(i);
      const auto n = static_cast<std::int64_t>(i);
      view.store(n / 10, n / 5 % 2, n % 5, x);
      EXPECT_EQ(view.load(n / 10, n / 5 % 2, n % 5), round_to(x, format));
    }
  }
}

}  // namespace
}  // namespace attnspec::verify
