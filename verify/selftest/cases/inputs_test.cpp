// Inputs are a pure function of the case, the same on every machine.

#include <gtest/gtest.h>
#include <omp.h>

#include <algorithm>
#include <bit>
#include <cmath>
#include <set>
#include <string>
#include <vector>

#include "reference/moba/moba.hpp"
#include "verify/cases/inputs/plain_numbers.hpp"
#include "verify/cases/random.hpp"
#include "verify/cases/regimes.hpp"

namespace attnspec::verify {
namespace {

using reference::Tensor;
using reference::Vector;

/// Every tensor of a case.
std::vector<const Tensor*> tensors(const Inputs& in) {
  std::vector<const Tensor*> all{&in.q,          &in.k,        &in.v,        &in.d_o,  &in.k_selected,
                                 &in.v_selected, &in.k_window, &in.v_window, &in.gates};
  for (const auto& [name, tensor] : kPhiParts<Tensor>)
    for (const auto* phi : {&in.phi_k, &in.phi_v}) all.push_back(&(phi->*tensor));
  return all;
}

/// FNV-1a over the bits of every input.
std::uint64_t fingerprint(const Inputs& inputs) {
  std::uint64_t hash = 0xcbf29ce484222325u;
  const auto add = [&](std::uint64_t bits) {
    for (int byte = 0; byte < 8; ++byte) hash = (hash ^ (bits >> (8 * byte) & 0xff)) * 0x100000001b3u;
  };
  for (const Tensor* tensor : tensors(inputs))
    for (std::int64_t token = 0; token < tensor->tokens; ++token)
      for (std::int64_t head = 0; head < tensor->heads; ++head)
        for (const double x : tensor->row(token, head)) add(std::bit_cast<std::uint64_t>(x));
  for (const std::int32_t b : inputs.selection.blocks) add(static_cast<std::uint64_t>(b));
  return hash;
}

std::uint64_t fingerprint(const char* text) { return fingerprint(make_inputs(parse_case(text))); }

TEST(Inputs, AreTheSameOnEveryMachine) {
  EXPECT_EQ(fingerprint("moba(lens=20+3,heads=2,seed=7)"), 15539124447795480315u);
  EXPECT_EQ(fingerprint("selected(lens=50,heads=4,kv_heads=2,block=8,regime=near_tie,dtype=fp16)"),
            12401185348575438578u);
  EXPECT_EQ(fingerprint("moba(lens=30,regime=captured:layer4,heads=6,kv_heads=2,seed=5)"), 3961933668545898305u);
}

TEST(Inputs, DoNotDependOnTheNumberOfThreads) {
  const int threads = omp_get_max_threads();
  omp_set_num_threads(1);
  const std::uint64_t one = fingerprint("moba(lens=100,heads=3,regime=token_tagged)");
  omp_set_num_threads(4);
  EXPECT_EQ(fingerprint("moba(lens=100,heads=3,regime=token_tagged)"), one);
  omp_set_num_threads(threads);
}

TEST(Inputs, DifferFromSeedToSeedAndFromTensorToTensor) {
  EXPECT_NE(fingerprint("moba(seed=1)"), fingerprint("moba(seed=2)"));
  const Inputs inputs = make_inputs(parse_case("moba()"));
  EXPECT_NE(inputs.q.values, inputs.k.values);
}

TEST(Inputs, AreExactInTheirFormat) {
  for (const Regime& regime : regimes()) {
    const std::string name = regime.name == std::string("captured") ? "captured:layer4" : regime.name;
    for (const char* dtype : {"bf16", "fp16", "fp32"}) {
      for (const char* op : {"moba(", "nsa(compress_block=8,compress_stride=4,hidden=8,phi=mlp,"}) {
        const Case c = parse_case(op + ("lens=70,heads=2,regime=" + name + ",dtype=" + dtype + ")"));
        const Inputs inputs = make_inputs(c);
        for (const Tensor* tensor : tensors(inputs))
          for (const double x : tensor->values) ASSERT_EQ(x, reference::round_to(x, c.dtype)) << name << " " << dtype;
      }
    }
  }
}

TEST(Inputs, OfNsaAreSharedByTheBranchesOnlyWhereTheCaseSaysSo) {
  const Inputs own = make_inputs(parse_case("nsa(lens=40)")),
               shared = make_inputs(parse_case("nsa(lens=40,shared_kv=1)"));
  EXPECT_NE(own.k.values, own.k_selected.values);
  EXPECT_NE(own.v_selected.values, own.v_window.values);
  EXPECT_EQ(shared.k.values, shared.k_window.values);
  EXPECT_EQ(shared.v.values, shared.v_selected.values);
  const auto [least, most] = std::minmax_element(own.gates.values.begin(), own.gates.values.end());
  EXPECT_EQ(*least, 0);
  EXPECT_EQ(*most, 1);
}

TEST(EdgeSpikeRegime, PutsNearlyAllWeightOnOneKeyAtABlocksEdge) {
  const Case c = parse_case("nsa_compressed(lens=400,regime=edge_spike,compress_block=32,compress_stride=16,block=64)");
  const Inputs in = make_inputs(c);
  Eigen::VectorXd scores = c.scale * (in.k.rows(0, in.k.tokens, 0) * in.q.row(399, 0));
  Eigen::Index spike = 0;
  EXPECT_GT(scores.maxCoeff(&spike), 8);
  EXPECT_EQ(spike % 4, 3);  // its tokens are the last 16 of a selection block and the first 16 of the next
  scores[spike] = 0;
  EXPECT_LT(scores.maxCoeff(), 6);
}

TEST(DisagreeingHeadsRegime, MakesTheHeadsOfAGroupWantOtherBlocks) {
  const Case c = parse_case("moba(lens=320,heads=2,kv_heads=1,block=16,regime=disagreeing_heads)");
  const Inputs in = make_inputs(c);
  const reference::Matrix pooled = reference::pool_keys(in.k.rows(0, 320, 0), 16);
  Eigen::Index first = 0, second = 0;
  (pooled * in.q.row(319, 0)).maxCoeff(&first);
  (pooled * in.q.row(319, 1)).maxCoeff(&second);
  EXPECT_NE(first % 2, second % 2);
}

TEST(PlainNumbers, StandInPlaceOfThePattern) {
  const Case c =
      parse_case("nsa(lens=3+2,dk=4,numbers=q:zeros+gates:ones+selected.v:positions+window.k:one_hot+d_o:whole)");
  EXPECT_EQ(print(c), "nsa(lens=3+2,dk=4,numbers=q:zeros+gates:ones+selected.v:positions+window.k:one_hot+d_o:whole)");
  const Inputs in = make_inputs(c), pattern = make_inputs(parse_case("nsa(lens=3+2,dk=4)"));
  EXPECT_TRUE(in.q.row(1, 0).isZero());
  EXPECT_EQ(in.gates.row(4, 0), Vector::Ones(3));
  EXPECT_EQ(in.v_selected.row(2, 0), Vector::Constant(4, 3));
  EXPECT_EQ(in.v_selected.row(3, 0), Vector::Ones(4));  // the second sequence
  EXPECT_EQ(in.k_window.row(1, 0), Vector::Unit(4, 1));
  EXPECT_EQ(in.d_o.row(2, 0), pattern.d_o.row(2, 0).array().round().matrix());
  EXPECT_EQ(in.k_selected.row(2, 0), pattern.k_selected.row(2, 0));
  const Inputs most = make_inputs(parse_case("nsa(lens=3+2,dk=4,numbers=zeros+selected.v:positions)"));
  EXPECT_TRUE(most.k_selected.row(2, 0).isZero());
  EXPECT_EQ(most.v_selected.row(2, 0), Vector::Constant(4, 3));
}

TEST(PlainNumbers, AreWrittenShort) {
  Case c = parse_case("dense(lens=3,numbers=v:ones)");
  c = with_numbers(c, "q", PlainNumbers::zeros);
  EXPECT_EQ(print(c), "dense(lens=3,numbers=q:zeros+v:ones)");
  c = with_numbers(with_numbers(c, "d_o", PlainNumbers::zeros), "k", PlainNumbers::ones);
  EXPECT_EQ(print(c), "dense(lens=3,numbers=zeros+k:ones+v:ones)");
  EXPECT_EQ(numbers_of(c, "d_o"), PlainNumbers::zeros);
  EXPECT_EQ(numbers_of(c, "k"), PlainNumbers::ones);
  EXPECT_EQ(print(with_numbers(c, "k", PlainNumbers::zeros)), "dense(lens=3,numbers=zeros+v:ones)");
  // Parameters that a phi does not have are not named.
  EXPECT_EQ(filled_tensors_with_numbers(parse_case("nsa_compress(lens=64,phi=linear)")),
            (std::vector<std::string>{"tokens", "phi.position", "phi.w", "d_rows"}));
}

TEST(Random, NormalHasMeanZeroAndVarianceOne) {
  const Random random(3, "test");
  double sum = 0, squares = 0;
  constexpr int kDraws = 100000;
  for (std::uint64_t i = 0; i < kDraws; ++i) {
    sum += random.normal(i);
    squares += random.normal(i) * random.normal(i);
  }
  EXPECT_NEAR(sum / kDraws, 0, 0.02);
  EXPECT_NEAR(squares / kDraws, 1, 0.02);
}

TEST(TieRegime, MakesBlocksThatTieExactly) {
  const Case c = parse_case("moba(lens=320,block=16,regime=tie)");
  const Inputs inputs = make_inputs(c);
  const reference::Matrix pooled = reference::pool_keys(inputs.k.rows(0, 320, 0), 16);
  std::set<double> scores;
  for (Eigen::Index b = 0; b < pooled.rows(); ++b) scores.insert(pooled.row(b).dot(inputs.q.row(319, 0)));
  EXPECT_LE(scores.size(), 3u);
}

TEST(NearTieRegime, MakesMeansThatDifferByLessAndByMoreThanTheirRounding) {
  const Case c = parse_case("moba(lens=640,block=32,regime=near_tie)");
  const Inputs inputs = make_inputs(c);
  const reference::Matrix pooled = reference::pool_keys(inputs.k.rows(0, 640, 0), 32);
  int below = 0, above = 0;
  for (Eigen::Index b = 1; b < pooled.rows(); ++b) {
    const double difference = (pooled.row(b) - pooled.row(0)).cwiseAbs().maxCoeff(), half_ulp = 0x1p-8;
    if (difference > 0) (difference < half_ulp ? below : above) += 1;
  }
  EXPECT_GT(below, 2);
  EXPECT_GT(above, 0);
}

TEST(VeryNegativeRegime, HasScoresFarBelowZero) {
  const Case c = parse_case("dense(lens=16,regime=very_negative)");
  const Inputs inputs = make_inputs(c);
  EXPECT_LT(c.scale * inputs.q.row(15, 0).dot(inputs.k.row(3, 0)), -7000);
}

double largest_of(const Tensor& tensor) {
  double largest = 0;
  for (const double x : tensor.values) largest = std::max(largest, std::abs(x));
  return largest;
}

TEST(LargestRegimes, ReachTheLargestNumbersOfTheFormat) {
  const auto inputs = [](const std::string& regime, const std::string& keys) {
    return make_inputs(parse_case("dense(lens=64,dk=16,dv=16,regime=" + regime + keys + ")"));
  };
  EXPECT_EQ(largest_of(inputs("largest_values", ",dtype=fp16").v), 65504);
  EXPECT_GT(largest_of(inputs("largest_values", "").v), 0x1p100);
  EXPECT_EQ(largest_of(inputs("largest_gradients", ",dtype=fp16").d_o), 65504.0 / 2);
  EXPECT_GT(largest_of(inputs("largest_gradients", ",dtype=fp32").d_o), 0x1p100);
  EXPECT_GT(largest_of(make_inputs(parse_case("nsa_compress(lens=64,regime=largest_values)")).k), 0x1p100);
}

TEST(LargestKeysRegime, KeepsScoresAtAnyScale) {
  bool has_keys = false, has_queries = false, has_both = false;
  for (const char* scale : {"", ",scale=64", ",scale=5.960464477539063e-08"}) {
    for (int seed = 0; seed < 12; ++seed) {
      const Case c =
          parse_case("dense(lens=64,dtype=fp16,regime=largest_keys,seed=" + std::to_string(seed) + scale + ")");
      const Inputs in = make_inputs(c);
      const double q = largest_of(in.q), k = largest_of(in.k);
      has_keys = has_keys || k > 60000, has_queries = has_queries || q > 60000;
      has_both = has_both || (q > 1000 && k > 1000);
      EXPECT_LT((c.scale * in.k.rows(0, 64, 0) * in.q.row(9, 0)).cwiseAbs().maxCoeff(), 10) << print(c);
    }
  }
  EXPECT_TRUE(has_keys);
  EXPECT_TRUE(has_queries);
  EXPECT_TRUE(has_both);
}

TEST(LargestKeysRegime, HasTheSameKindInEveryBranchOfNsa) {
  for (int seed = 0; seed < 8; ++seed) {
    const Inputs in =
        make_inputs(parse_case("nsa(lens=64,dtype=fp16,regime=largest_keys,seed=" + std::to_string(seed) + ")"));
    EXPECT_EQ(largest_of(in.k) > 1000, largest_of(in.k_window) > 1000);
    EXPECT_EQ(largest_of(in.k) > 1000, largest_of(in.q) < 1);
  }
}

TEST(SmallestRegime, LiesOnBothSidesOfTheSmallestNormalNumber) {
  const Inputs in = make_inputs(parse_case("dense(lens=64,regime=smallest)"));
  for (const Tensor* tensor : {&in.q, &in.k, &in.v, &in.d_o}) {
    EXPECT_GT(largest_of(*tensor), 0x1p-124);
    EXPECT_TRUE(std::any_of(tensor->values.begin(), tensor->values.end(),
                            [](double x) { return x != 0 && std::abs(x) < 0x1p-126; }));
  }
}

TEST(WideGatesRegime, HasGatesOutsideThoseOfASigmoid) {
  const Inputs in = make_inputs(parse_case("nsa(lens=40,regime=wide_gates)"));
  const auto [least, most] = std::minmax_element(in.gates.values.begin(), in.gates.values.end());
  EXPECT_LE(*least, -1);
  EXPECT_EQ(*most, 100);
}

TEST(CancellingWeightsRegime, HasPairsOfHeadsOfWhichLittleIsLeftAndOfThatNothingInBf16) {
  const Inputs in = make_inputs(parse_case("dsa_select(lens=40,heads=4,regime=cancelling_weights)"));
  for (std::int64_t token = 0; token < 40; ++token)
    for (const std::int64_t head : {0, 2}) {
      const double one = in.w.at(token, 0)[head], other = in.w.at(token, 0)[head + 1];
      EXPECT_EQ(in.q.row(token, head), in.q.row(token, head + 1));
      EXPECT_LE(std::abs(one + other), 0x1p-7 * std::abs(one));
      EXPECT_TRUE(one == 0 || one + other != 0);
    }
}

TEST(Selections, HaveEmptySlotsEmptyRowsAndTheOwnBlock) {
  const Case c = parse_case("selected(lens=300,block=16,top_k=6,seed=1)");
  const Inputs inputs = make_inputs(c);
  EXPECT_NO_THROW(reference::validate(problem_of(c).attention, c.block, inputs.selection));
  int empty_rows = 0, empty_front = 0, own = 0;
  for (std::int64_t t = 0; t < 300; ++t) {
    const auto row = inputs.selection.row(t, 0);
    empty_rows += std::count(row.begin(), row.end(), -1) == 6 ? 1 : 0;
    empty_front += row[0] == -1 ? 1 : 0;
    own += std::count(row.begin(), row.end(), static_cast<std::int32_t>(t / 16)) > 0 ? 1 : 0;
  }
  EXPECT_GT(empty_rows, 0);
  EXPECT_GT(empty_front, 10);
  EXPECT_GT(own, 200);
}

TEST(Selections, HaveTheOrderOfTheCase) {
  for (const SelectionOrder order : {SelectionOrder::packed, SelectionOrder::ascending, SelectionOrder::own_last}) {
    Case c = parse_case("selected(lens=300+0+70,block=16,top_k=6,seed=1)");
    c.selection_order = order;
    const Inputs inputs = make_inputs(c);
    EXPECT_NO_THROW(reference::validate(problem_of(c).attention, c.block, inputs.selection));
    int unordered = 0;
    for (std::int64_t t = 0; t < 300; ++t) {
      const auto row = inputs.selection.row(t, 0);
      const auto end = std::find(row.begin(), row.end(), -1);
      EXPECT_EQ(std::count(end, row.end(), -1), row.end() - end);
      unordered += std::is_sorted(row.begin(), end) ? 0 : 1;
      if (order == SelectionOrder::own_last) {
        ASSERT_NE(end, row.begin());
        EXPECT_EQ(*(end - 1), t / 16);
      }
    }
    EXPECT_EQ(unordered > 0, order == SelectionOrder::packed);
  }
}

TEST(CapturedRegime, SlicesTheFileAndAlignsQueriesWithTheLastKeys) {
  const Inputs whole = make_inputs(parse_case("moba(lens=64,heads=6,kv_heads=2,regime=captured:layer0)"));
  const Inputs decode =
      make_inputs(parse_case("moba(lens=64,q_lens=2,heads=3,kv_heads=1,dk=16,dv=16,regime=captured:layer0)"));
  EXPECT_EQ(decode.q.row(1, 2)[5], whole.q.row(63, 2)[5]);
  EXPECT_EQ(decode.k.row(63, 0)[5], whole.k.row(63, 0)[5]);
  EXPECT_EQ(decode.d_o.row(0, 0)[15], whole.d_o.row(62, 0)[15]);
}

}  // namespace
}  // namespace attnspec::verify
