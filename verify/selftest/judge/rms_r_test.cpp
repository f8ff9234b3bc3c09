// The predicted noise is as large as it was recorded, for every output, arithmetic option and input pattern.

#include "verify/calibration/rms_r.hpp"

#include <gtest/gtest.h>

#include <algorithm>
#include <set>
#include <string>
#include <vector>

#include "verify/calibration/calibration.hpp"
#include "verify/cases/regimes.hpp"
#include "verify/selftest/testing.hpp"

namespace attnspec::verify {
namespace {

constexpr const char* kRecord = ATTNSPEC_SOURCE_DIR "/verify/selftest/judge/rms_r.txt";

TEST(RmsR, IsWrittenAndReadAsALine) {
  const std::string line = "model:moba moba(lens=96): o 0.692, lse 0.41";
  const RecordedRms record = parse_recorded_rms(line);
  EXPECT_EQ(record.kernel, "model:moba");
  EXPECT_EQ(record.c, parse_case("moba(lens=96)"));
  EXPECT_EQ(print(record), line);
  EXPECT_TRUE(parse_recorded_rms("model:moba moba(lens=96)").outputs.empty());
  for (const char* wrong : {"model:moba", "model:moba moba(): o", "model:moba moba(): o 1x"})
    EXPECT_EQ(message_of<std::invalid_argument>([&] { parse_recorded_rms(wrong); }).find("line '"), 0u) << wrong;
  EXPECT_EQ(parse_rms_record("# a comment\n\n" + line + "\n").size(), 1u);
}

TEST(RmsR, IsOutsideTheBandWhereATermDoubled) {
  const RecordedRms recorded = parse_recorded_rms("k moba(): o 1, lse 0.001");
  const auto outside = [&](const char* now) { return outside_band(recorded, parse_recorded_rms(now)); };
  EXPECT_EQ(outside("k moba(): o 1, lse 0.001"), "");
  EXPECT_EQ(outside("k moba(): o 1.07, lse 0.002"), "");
  EXPECT_EQ(outside("k moba(): o 0.91, lse 0.001"), "o 0.91 where 1 is recorded");
  EXPECT_EQ(outside("k moba(): o 1.09, lse 0.001"), "o 1.09 where 1 is recorded");
  EXPECT_EQ(outside("k moba(): dq 1, lse 0.001"), "o is missing where 1 is recorded, dq 1 is not recorded");
}

TEST(RmsR, OfEveryOutputIsAsItWasRecorded) {
  const std::string text = read_file(kRecord);
  const std::vector<RecordedRms> before = parse_rms_record(text), now = parse_rms_record(measured_rms_record(text));
  ASSERT_EQ(before.size(), now.size());
  for (std::size_t i = 0; i < before.size(); ++i)
    EXPECT_EQ(outside_band(before[i], now[i]), "")
        << "now: " << print(now[i]) << "\n./attnspec calibrate --rms " << kRecord << " prints the whole record";
}

TEST(RmsR, IsRecordedOfEveryArithmeticAndOfEveryInputPatternInEveryFormat) {
  std::set<std::string> kernels;
  std::set<std::pair<std::string, Format>> patterns;
  for (const RecordedRms& record : parse_rms_record(read_file(kRecord))) {
    kernels.insert(record.kernel + " " + reference::name(record.c.dtype));
    patterns.emplace(record.c.regime, record.c.dtype);
  }
  for (const CalibratedArithmetic& arithmetic : calibrated_arithmetics())
    EXPECT_TRUE(kernels.contains(arithmetic.kernel(Operator::moba) + " " + reference::name(arithmetic.dtype)) ||
                kernels.contains(arithmetic.kernel(Operator::nsa) + " " + reference::name(arithmetic.dtype)))
        << arithmetic.name();
  const auto has_values = [](const Regime& regime) {
    return std::any_of(kOperators.begin(), kOperators.end(),
                       [&](Operator op) { return has_gradients(op) && regime.has(op); });
  };
  for (const Regime& regime : regimes())
    for (const Format dtype : {Format::bf16, Format::fp16, Format::fp32})
      EXPECT_TRUE(regime.name == std::string("captured") || !has_values(regime) ||
                  patterns.contains({regime.name, dtype}))
          << regime.name;
}

}  // namespace
}  // namespace attnspec::verify
