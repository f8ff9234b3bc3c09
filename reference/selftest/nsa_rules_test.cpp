// The rules of the second oracle of NSA on cases worked out by hand, and against what must follow from them.
#include <gtest/gtest.h>
#include <rapidcheck.h>

#include <map>
#include <string>

#include "reference/selftest/nsa_problems.hpp"

namespace attnspec::oracle {
namespace {

using Blocks = std::vector<std::int64_t>;

TEST(NsaRules, RandomProblemsReachEveryCorner) {
  std::map<std::string, std::int64_t> rows;
  std::int64_t num_rows = 0;
  expect_on_small_nsa(10, [&](const SmallNsa& small) {
    const NsaProblem problem = nsa_problem(small);
    const Lists seen = compressed_keys(problem);
    for (std::int64_t token = 0; token < problem.attention.q_offsets.back(); ++token, ++num_rows) {
      const Place place = locate(problem.attention, token);
      const std::int64_t num_blocks = place.t < 0 ? 0 : place.t / problem.block + 1;
      const std::int64_t num_forced = problem.initial_blocks + problem.local_blocks;
      rows["before the first key"] += place.t < 0;
      rows["of a sequence without compressed rows"] += place.t >= 0 && place.num_keys < problem.compress_block;
      rows["that see no compressed row"] += place.t >= 0 && seen.row(token, 0).empty();
      rows["at the last token of a compression block"] +=
          place.t + 1 >= problem.compress_block &&
          (place.t + 1 - problem.compress_block) % problem.compress_stride == 0;
      rows["with overlapping forced blocks"] += num_blocks > 0 && num_blocks < num_forced;
      rows["with room for forced blocks only"] += num_blocks > num_forced && small.free_blocks == 0;
      rows["that choose"] += num_blocks > problem.top_n && small.free_blocks > 0;
      rows["at the first token of a selection block"] += place.t > 0 && place.t % problem.block == 0;
      rows["with a window of one key"] += place.t > 0 && problem.window == 1;
      rows["with keys before the window"] += place.t >= problem.window;
      rows["with the window before the first key"] += place.t >= 0 && place.t < problem.window - 1;
      rows["with overlapping compression blocks"] += seen.row(token, 0).size() > 1 && small.compress_strides > 1;
      rows["with a compression block across selection blocks"] +=
          seen.row(token, 0).size() > 1 && small.compress_strides > 1 && num_blocks > 1;
    }
  });
  for (const auto& [corner, count] : rows) {
    std::cout << count << " of " << num_rows << " rows " << corner << "\n";
    EXPECT_GT(count, num_rows / 100) << corner;
  }
}

TEST(NsaRules, CompressesByHand) {
  NsaProblem problem;
  problem.attention.k_offsets = {0, 3};
  problem.attention.q_offsets = {0, 3};
  problem.compress_block = 2;
  problem.compress_stride = 1;
  Tensor<Real> x(3, 1, 1);
  x.values = {1, 2, -1};
  PhiParameters<Real> phi{{2, 1, 1}, {2, 1, 1}, {1, 1, 1}, {1, 1, 1}, {1, 1, 1}};
  phi.position.values = {0.5, -0.5};
  phi.w1.values = {2, 3};
  phi.b1.values = {-4};
  phi.w2.values = {-2};
  phi.b2.values = {5};
  const auto values = [&](Phi kind, Activation activation) {
    problem.phi = kind;
    problem.activation = activation;
    std::vector<Real> row_values;
    for (const Sum<Real>& row : compress(problem, x, phi).values) row_values.push_back(row.value);
    return row_values;
  };
  using Values = std::vector<Real>;
  EXPECT_EQ(values(Phi::mean, Activation::relu), (Values{1.5, 0.5}));
  EXPECT_EQ(values(Phi::linear, Activation::relu), (Values{7.5, 0.5})) << "2 (x + 1/2) + 3 (x' - 1/2)";
  EXPECT_EQ(values(Phi::mlp, Activation::relu), (Values{-2, 5})) << "5 - 2 max(0, 7/2), 5 - 2 max(0, -7/2)";
  phi.b1.values = {-6.5};  // z = 1 and -6
  EXPECT_NEAR(values(Phi::mlp, Activation::silu)[0], 5 - 2 * 0.731058578630004879251L, 1e-18L);
  EXPECT_NEAR(values(Phi::mlp, Activation::gelu)[0], 5 - 2 * 0.841344746068542948585L, 1e-18L);
  EXPECT_NEAR(values(Phi::mlp, Activation::gelu)[1], 5 + 2 * 5.919526e-9L, 1e-14L);
}

TEST(NsaRules, SeesCompressionBlocksOnceTheyAreComplete) {
  NsaProblem problem;
  problem.compress_block = 4;
  problem.compress_stride = 2;
  problem.attention.q_offsets = {0, 3, 3, 9};
  problem.attention.k_offsets = {0, 3, 3, 12};  // shorter than a block; empty; six queries at 3 .. 8 of nine keys
  EXPECT_EQ(compression_blocks(problem), (Blocks{3, 5, 7}));
  const Lists seen = compressed_keys(problem);
  const std::vector<Blocks> expected{{}, {}, {}, {0}, {0}, {0, 1}, {0, 1}, {0, 1, 2}, {0, 1, 2}};
  EXPECT_EQ(seen.rows, expected);
}

/// The weights of the first compressed rows in selection block j.
std::vector<std::int64_t> weights(const NsaProblem& problem, std::int64_t j, std::int64_t num_rows) {
  std::vector<std::int64_t> row;
  for (std::int64_t i = 0; i < num_rows; ++i) row.push_back(overlap(problem, i * problem.compress_stride, j));
  return row;
}

TEST(NsaRules, WeighsCompressedRowsByHand) {
  NsaProblem problem;  // l = 32, d = 16, l' = 64
  EXPECT_EQ(weights(problem, 0, 13), (Blocks{2, 2, 2, 1, 0, 0, 0, 0, 0, 0, 0, 0, 0}));
  EXPECT_EQ(weights(problem, 1, 13), (Blocks{0, 0, 0, 1, 2, 2, 2, 1, 0, 0, 0, 0, 0}));
  EXPECT_EQ(weights(problem, 2, 13), (Blocks{0, 0, 0, 0, 0, 0, 0, 1, 2, 2, 2, 1, 0}));
  problem.block = 32;
  EXPECT_EQ(weights(problem, 1, 6), (Blocks{0, 1, 2, 1, 0, 0}));
  problem.compress_block = 16;
  EXPECT_EQ(weights(problem, 1, 6), (Blocks{0, 0, 1, 1, 0, 0}));
}

/// By the double sum that NSA eq. 9 prints, with both of its indices from 1: sum over m < l'/d, n < l/d of
/// p_cmp[(l'/d) j - m - n].
TEST(NsaRules, WeighsCompressedRowsAsThePaperPrints) {
  expect_on_small_nsa(2, [](const SmallNsa& small) {
    const NsaProblem problem = nsa_problem(small);
    const std::int64_t num_rows = 40, ratio = problem.block / problem.compress_stride;
    for (std::int64_t j = 1; j <= 5; ++j) {
      std::vector<std::int64_t> expected(num_rows);
      for (std::int64_t m = 0; m < ratio; ++m)
        for (std::int64_t n = 0; n < problem.compress_block / problem.compress_stride; ++n)
          if (const std::int64_t i = ratio * j - m - n; 1 <= i && i <= num_rows) ++expected[std::size_t(i - 1)];
      RC_ASSERT(weights(problem, j - 1, num_rows) == expected);
    }
  });
}

TEST(NsaRules, ImportancesAddUpToTheTokensOfABlock) {
  Comparison comparison(kExtendedTolerance);
  expect_on_small_nsa(2, [&](const SmallNsa& small) {
    const FrozenNsa frozen = freeze(small);
    const Lists seen = compressed_keys(frozen.problem);
    for (std::int64_t token = 0; token < frozen.in.q.tokens; ++token)
      for (std::int64_t g = 0; g < small.kv_heads; ++g) {
        Sum<Real> mass;
        for (const Sum<Real>& p : importance(frozen.problem, frozen.in.q, frozen.rows.k, token, g)) mass += p;
        const bool is_empty = seen.row(token, 0).empty();
        RC_ASSERT(comparison.agrees("mass", is_empty ? 0 : Real(small.group * small.compress_strides), mass));
      }
  });
}

/// I(t) where block j of the blocks 0 .. c has the importance importance_of[j].
Blocks selected_of(std::int64_t initial, std::int64_t local, std::int64_t top_n,
                   const std::vector<Real>& importance_of) {
  NsaProblem problem;
  problem.initial_blocks = initial;
  problem.local_blocks = local;
  problem.top_n = top_n;
  return select_blocks(problem, std::vector<Sum<Real>>(importance_of.begin(), importance_of.end()));
}

TEST(NsaRules, SelectsByHand) {
  const std::vector<Real> p{9, 1, 3, 2, 3, 9, 0, 0};
  EXPECT_EQ(selected_of(1, 2, 3, p), (Blocks{0, 6, 7})) << "forced only";
  EXPECT_EQ(selected_of(1, 2, 4, p), (Blocks{0, 5, 6, 7}));
  EXPECT_EQ(selected_of(1, 2, 5, p), (Blocks{0, 2, 5, 6, 7})) << "ties go to the lower index";
  EXPECT_EQ(selected_of(1, 2, 7, p), (Blocks{0, 2, 3, 4, 5, 6, 7}));
  EXPECT_EQ(selected_of(1, 2, 20, p), (Blocks{0, 1, 2, 3, 4, 5, 6, 7})) << "fewer blocks than top_n";
  EXPECT_EQ(selected_of(0, 1, 1, p), (Blocks{7}));
  EXPECT_EQ(selected_of(0, 1, 2, p), (Blocks{0, 7}));
  EXPECT_EQ(selected_of(2, 3, 6, p), (Blocks{0, 1, 2, 5, 6, 7}));
  EXPECT_EQ(selected_of(1, 2, 4, {0, 0, 0, 0, 0, 0}), (Blocks{0, 1, 4, 5})) << "nothing is visible yet";
  EXPECT_EQ(selected_of(1, 2, 3, {5}), (Blocks{0})) << "the initial block is the own one";
  EXPECT_EQ(selected_of(1, 2, 4, {5, 4}), (Blocks{0, 1})) << "and a local one";
  EXPECT_EQ(selected_of(2, 2, 4, {5, 4, 3}), (Blocks{0, 1, 2}));
  EXPECT_EQ(selected_of(2, 3, 6, {1, 2, 3, 4}), (Blocks{0, 1, 2, 3}));
  EXPECT_EQ(selected_of(1, 1, 2, {}), Blocks{}) << "before the first key";
}

/// Whether two tensors hold the same values, as many of them.
bool equal(const Tensor<Sum<Real>>& a, const Tensor<Sum<Real>>& b) {
  return std::equal(a.values.begin(), a.values.end(), b.values.begin(), b.values.end(),
                    [](const Sum<Real>& x, const Sum<Real>& y) { return x.value == y.value; });
}

TEST(NsaRules, BranchesThatSeeEverythingAreDense) {
  expect_on_small_nsa(1, [](SmallNsa small) {
    small.compress_stride = small.compress_strides = 1;
    small.phi = Phi::mean;
    small.window = kMaxNsaKeys;
    small.free_blocks = kMaxNsaKeys;
    const FrozenNsa frozen = freeze(small);
    const Lists keys = dense_keys(frozen.problem.attention);
    const auto dense = [&](const KeyValues<Real>& branch) {
      return attend(frozen.problem.attention, frozen.in.q, branch.k, branch.v, keys).o;
    };
    RC_ASSERT(equal(frozen.outputs.compressed.o, dense(frozen.in.compressed)));
    RC_ASSERT(equal(frozen.outputs.selected.o, dense(frozen.in.selected)));
    RC_ASSERT(equal(frozen.outputs.window.o, dense(frozen.in.window)));
  });
}

TEST(NsaRules, AWindowOfOneKeyIsTheValueOfTheToken) {
  expect_on_small_nsa(1, [](SmallNsa small) {
    small.window = 1;
    const FrozenNsa frozen = freeze(small);
    for (std::int64_t token = 0; token < frozen.in.q.tokens; ++token) {
      const Place place = locate(frozen.problem.attention, token);
      for (std::int64_t h = 0; h < frozen.in.q.heads; ++h)
        for (std::int64_t e = 0; e < small.dv; ++e) {
          const Real own = place.t < 0 ? 0 : frozen.in.window.v(place.first_key + place.t, h / small.group, e);
          RC_ASSERT(frozen.outputs.window.o(token, h, e).value == own);
        }
    }
  });
}

TEST(NsaRules, SelectsWhatMobaSelectsFromMeansOfOneHead) {
  expect_on_small_nsa(2, [](SmallNsa small) {
    small.group = 1;
    small.phi = Phi::mean;
    small.compress_strides = 1;
    small.more_strides = small.initial_blocks = 0;
    small.local_blocks = 1;
    small.relative_scale = 1;
    small.is_dyadic = false;
    const FrozenNsa frozen = freeze(small);
    const MobaProblem moba{frozen.problem.attention, frozen.problem.block, frozen.problem.top_n, Gate::top_k};
    RC_ASSERT(frozen.blocks.rows == moba_blocks(moba, frozen.in.q, frozen.in.compressed.k).rows);
  });
}

/// Rows begin .. end - 1 of a tensor.
template <class Number>
Tensor<Number> slice(const Tensor<Number>& tensor, std::int64_t begin, std::int64_t end) {
  Tensor<Number> part(end - begin, tensor.heads, tensor.dim);
  const std::int64_t row = tensor.heads * tensor.dim;
  std::copy(tensor.values.begin() + begin * row, tensor.values.begin() + end * row, part.values.begin());
  return part;
}

/// o of a problem with its own selection.
Tensor<Sum<Real>> output(const NsaProblem& problem, const NsaTensors<Real>& in) {
  const KeyValues<Sum<Real>> rows = compress(problem, in);
  return nsa(problem, in, rows, nsa_blocks(problem, in.q, rows.k)).o;
}

TEST(NsaRules, SequencesAndTheirLastQueriesStandAlone) {
  expect_on_small_nsa(1, [](const SmallNsa& small) {
    const FrozenNsa frozen = freeze(small);
    const AttentionProblem& packed = frozen.problem.attention;
    for (std::size_t s = 0; s < small.sequences.size(); ++s) {
      const std::int64_t num_queries = (small.sequences[s].queries + 1) / 2, last = packed.q_offsets[s + 1];
      NsaProblem problem = frozen.problem;
      problem.attention.q_offsets = {0, num_queries};
      problem.attention.k_offsets = {0, small.sequences[s].keys};
      const auto keys = [&](const Tensor<Real>& x) { return slice(x, packed.k_offsets[s], packed.k_offsets[s + 1]); };
      NsaTensors<Real> in = frozen.in;
      in.q = slice(in.q, last - num_queries, last);
      in.gates = slice(in.gates, last - num_queries, last);
      for (KeyValues<Real>* branch : {&in.compressed, &in.selected, &in.window})
        *branch = {keys(branch->k), keys(branch->v)};
      RC_ASSERT(equal(output(problem, in), slice(frozen.outputs.o, last - num_queries, last)));
    }
  });
}

/// Heads begin .. end - 1 of a tensor; or sets of a parameter.
template <class Number>
Tensor<Number> heads(const Tensor<Number>& tensor, std::int64_t begin, std::int64_t end) {
  Tensor<Number> part(tensor.tokens, end - begin, tensor.dim);
  for (std::int64_t token = 0; token < tensor.tokens; ++token)
    for (std::int64_t head = begin; head < end; ++head)
      for (std::int64_t e = 0; e < tensor.dim; ++e) part(token, head - begin, e) = tensor(token, head, e);
  return part;
}

TEST(NsaRules, GroupsOfHeadsStandAlone) {
  expect_on_small_nsa(1, [](const SmallNsa& small) {
    const FrozenNsa frozen = freeze(small);
    NsaProblem problem = frozen.problem;
    problem.attention.kv_heads = 1;
    problem.attention.heads = small.group;
    for (std::int64_t g = 0; g < small.kv_heads; ++g) {
      NsaTensors<Real> in;
      for (std::size_t n = 0; n < named(in).size(); ++n) {
        const Tensor<Real>& all = *named(frozen.in)[n].second;
        const std::int64_t own = all.heads / small.kv_heads;  // group, 1, or 0 where there is only the shared set
        *named(in)[n].second = own == 0 ? all : heads(all, g * own, (g + 1) * own);
      }
      RC_ASSERT(equal(output(problem, in), heads(frozen.outputs.o, g * small.group, (g + 1) * small.group)));
    }
  });
}

TEST(NsaRules, WithoutCompressedRowsTheirBranchIsEmpty) {
  expect_on_small_nsa(1, [](SmallNsa small) {
    small.compress_stride = 1;
    small.compress_strides = kMaxCompressBlock;
    for (SequenceLengths& lengths : small.sequences) lengths.keys %= kMaxCompressBlock;
    const FrozenNsa frozen = freeze(small);
    const auto is_zero = [](const Tensor<Sum<Real>>& x) { return equal(x, {x.tokens, x.heads, x.dim}); };
    RC_ASSERT(frozen.rows.k.values.empty());
    RC_ASSERT(is_zero(frozen.outputs.compressed.o));
    for (const Sum<Real>& lse : frozen.outputs.compressed.lse.values)
      RC_ASSERT(lse.value == -std::numeric_limits<Real>::infinity());
    RC_ASSERT(is_zero(frozen.gradients.compressed.k) && is_zero(frozen.gradients.compressed.v));
    RC_ASSERT(is_zero(frozen.gradients.phi_k.position) && is_zero(frozen.gradients.phi_v.w1));
  });
}

TEST(NsaRules, GatesByHand) {
  GateLayer<Real> layer{{1, 1, 2}, {2, 1, 3}, {1, 1, 3}};
  layer.x.values = {1, 2};
  layer.w.values = {1, 0, 0, 0, 1, 0};
  layer.b.values = {-1, -2 + std::log(3.0L), 0};
  const Tensor<Sum<Real>> gates = gate(layer);
  EXPECT_EQ(gates(0, 0, 0).value, 0.5L);
  EXPECT_NEAR(gates(0, 0, 1).value, 0.75L, 1e-18L);
  EXPECT_EQ(gates(0, 0, 2).value, 0.5L);
}

}  // namespace
}  // namespace attnspec::oracle
