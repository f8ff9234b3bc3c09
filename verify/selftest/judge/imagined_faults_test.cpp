// Which faults of a row would show, against rows that really have the fault.

#include "verify/judge/imagined_faults.hpp"

#include <gtest/gtest.h>

#include <vector>

#include "reference/noise/attention_noise.hpp"
#include "verify/cases/regimes.hpp"
#include "verify/judge/judge.hpp"
#include "verify/kernels.hpp"

namespace attnspec::verify {
namespace {

using namespace reference;

/// The attention of the last query of a sequence of 64 keys with values of one number, in bf16.
struct LastRow {
  explicit LastRow(std::vector<KeyRange> ranges) : visible(std::move(ranges)) {
    for (std::int64_t j = 0; j < 64; ++j) {
      k.at(j, 0)[0] = j == 7 ? 20 : 0;  // the only heavy key
      v.at(j, 0)[0] = static_cast<double>(j % 5) - 1.5;
    }
    q.at(0, 0)[0] = 1;
  }

  ImaginedFaults imagine(std::int64_t block, std::int64_t index) {
    const KeyValues keys{k.rows(0, 64, 0), v.rows(0, 64, 0)};
    const RowInputs in{q.row(0, 0), keys, visible, 1};
    const AttendedRow row = attend({in.q, keys.k, keys.v}, visible, 1);
    return imagine_faults(in, row, attention_noise(arithmetic, in, row).o, 64, block, Random(0, "test"), index);
  }

  Arithmetic arithmetic{};
  Tensor q{1, 1, 1}, k{64, 1, 1}, v{64, 1, 1};
  std::vector<KeyRange> visible;
};

/// Of so many rows: where each fault shows.
struct Shares {
  double left_out = 0, too_many = 0;
};
Shares shares(LastRow row, std::int64_t block) {
  constexpr int kRows = 1000;
  Shares sum;
  for (int i = 0; i < kRows; ++i) {
    const ImaginedFaults faults = row.imagine(block, i);
    sum.left_out += faults.left_out->shows ? 1.0 / kRows : 0;
    sum.too_many += faults.too_many.value_or(ImaginedFault{}).shows ? 1.0 / kRows : 0;
  }
  return sum;
}

TEST(ImaginedFaults, ShowWhereTheBlockIsHeavy) {
  // Of four selected blocks one holds all the weight; none of the four others holds any beside it.
  const Shares heavy = shares(LastRow({{0, 8}, {16, 24}, {32, 40}, {56, 64}}), 8);
  EXPECT_NEAR(heavy.left_out, 0.25, 0.05);
  EXPECT_EQ(heavy.too_many, 0);
  // The heavy block is one of the five that are not selected; all others weigh the same.
  const Shares even = shares(LastRow({{16, 24}, {32, 40}, {56, 64}}), 8);
  EXPECT_GT(even.left_out, 0.9);
  EXPECT_GT(even.too_many, 0.15);
}

TEST(ImaginedFaults, AreOfKeysWhereThereAreNoBlocks) {
  EXPECT_NEAR(shares(LastRow({{0, 64}}), 64).left_out, 1.0 / 64, 0.015);  // the heavy one alone
  EXPECT_NEAR(shares(LastRow({{0, 7}}), 64).too_many, 1, 1e-9);           // the next key is the heavy one
  EXPECT_EQ(shares(LastRow({{0, 64}}), 64).too_many, 0);                  // there is none
  LastRow whole({{0, 64}});
  EXPECT_FALSE(whole.imagine(64, 0).too_many.has_value());
  LastRow one({{7, 8}});
  EXPECT_TRUE(one.imagine(64, 0).left_out->shows);  // nothing is left: o is 0
}

TEST(ImaginedFaults, AreCountedOfEveryRowThatSeesKeys) {
  const CaseResult result = judge(find_kernel("model:moba"), parse_case("moba(lens=70,q_lens=80,block=16,top_k=2)"));
  EXPECT_EQ(result.imagined().left_out.rows, 70);  // the first ten queries see nothing
  EXPECT_EQ(result.imagined().too_many.rows, 70);
  EXPECT_GT(result.imagined().left_out.shown, 60);
  EXPECT_GT(result.imagined().too_many.shown, 60);
  const CaseResult session =
      judge(find_kernel("model:moba"), parse_case("moba(lens=70,q_lens=80,block=16,top_k=2,session=again)"));
  EXPECT_EQ(session.imagined().left_out.rows, 140);
  const CaseResult spiky = judge(find_kernel("model:moba"), parse_case("dense(lens=300,regime=spiky)"));
  EXPECT_LT(spiky.imagined().left_out.shown, 60);  // most keys weigh nothing
}

TEST(ImaginedFaults, TellTheSmallestWeightThatShows) {
  // All weight on one of four blocks: whichever is left out, the same values would show with far less.
  const ImaginedFault fault = *LastRow({{0, 8}, {16, 24}, {32, 40}, {56, 64}}).imagine(8, 0).left_out;
  EXPECT_GT(fault.smallest_weight, 0);
  const CaseResult few = judge(find_kernel("model:moba"), parse_case("dense(lens=300)"));
  const CaseResult coarse = judge(find_kernel("model:moba"), parse_case("dense(lens=300,dtype=fp32)"));
  const Imagined &in_bf16 = few.imagined().left_out, &in_fp32 = coarse.imagined().left_out;
  EXPECT_EQ(in_bf16.smallest.count(), in_bf16.rows);
  EXPECT_LT(in_fp32.smallest.quantile(0.5), 0.01 * in_bf16.smallest.quantile(0.5));
  EXPECT_LT(in_bf16.smallest.quantile(0.5), 0.5);
}

}  // namespace
}  // namespace attnspec::verify
