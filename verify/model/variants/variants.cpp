#include "verify/model/variants/variants.hpp"

#include <algorithm>
#include <cmath>
#include <limits>
#include <utility>

#ifdef __SSE__
#include <xmmintrin.h>
#endif

namespace attnspec::verify::model {

namespace {

constexpr float kNegativeInfinity = -std::numeric_limits<float>::infinity();

/// The model kernel's stages, changed.
template <class Change>
Stages with(const Change& change) {
  Stages stages = correct_stages();
  change(stages);
  return stages;
}

float exp_by_exp2(float x) { return std::exp2(x * 1.44269504f); }

/// What exp is on a GPU: 22 bits, and 1 of 0.
float coarse_exp(float x) {
  if (x == 0) return 1;
  return std::exp(x) * (std::fmod(std::abs(x), 0x1p-12f) < 0x1p-13f ? 1 + 0x1p-22f : 1 - 0x1p-22f);
}

Blocks select_the_oldest_of_a_tie(const Work& work, const std::vector<float>& scores, std::int64_t t) {
  if (work.problem.gate != reference::Gate::top_k) return correct_stages().select(work, scores, t);
  const bool causal = work.problem.attention.causal;
  if (work.num_keys == 0 || (causal && t < 0)) return {};
  const std::int64_t candidates = causal ? t / work.problem.block : work.num_blocks();
  Blocks blocks;
  for (std::int32_t b = 0; b < candidates; ++b) blocks.push_back(b);
  std::stable_sort(blocks.begin(), blocks.end(), [&](std::int32_t a, std::int32_t b) {
    return scores[static_cast<std::size_t>(a)] > scores[static_cast<std::size_t>(b)];
  });
  const std::int64_t wanted = work.problem.top_k - (causal ? 1 : 0);
  if (std::ssize(blocks) > wanted) blocks.resize(static_cast<std::size_t>(wanted));
  if (causal) blocks.push_back(static_cast<std::int32_t>(candidates));
  return blocks;
}

std::vector<BlockQueries> order_from_the_last_block(const Work& work, const std::vector<Blocks>& selected) {
  std::vector<BlockQueries> lists = correct_stages().order(work, selected);
  std::reverse(lists.begin(), lists.end());
  return lists;
}

/// Attention of query i over keys begin .. end - 1 from the last to the first, in the arithmetic of Number; masked keys
/// take part with weight 0.
template <class Number>
Partial attend_backwards(const Stages& stages, const Work& work, std::int64_t i, std::int64_t begin, std::int64_t end,
                         const Rows& q, const Rows& k, const Rows& v) {
  const Number factor = score_factor(stages, work);
  const Fp32Products products = work.arithmetic.products;
  std::vector<Number> sum(static_cast<std::size_t>(v.dim));
  Number largest = kNegativeInfinity, normaliser = 0;
  for (std::int64_t j = end - 1; j >= begin; --j) {
    const bool is_visible = stages.is_visible(work, work.position(i), j);
    Number score = 0;
    for (std::int64_t d = q.dim - 1; d >= 0; --d) add_product(products, q.row(i)[d], k.row(j)[d], score);
    score *= factor;
    const Number before = largest;
    if (is_visible) largest = std::max(before, score);
    const Number rescale = before == largest ? 1 : std::exp(before - largest);
    const Number weight = is_visible ? std::exp(score - largest) : 0;
    const float stored = as_weight(weight, work.arithmetic);
    normaliser =
        normaliser * rescale + (work.arithmetic.normaliser == reference::Normaliser::sums_rounded ? stored : weight);
    for (std::size_t d = 0; d < sum.size(); ++d) {
      sum[d] *= rescale;
      add_product(products, stored, v.row(j)[d], sum[d]);
    }
  }
  Partial partial{
      i, {}, largest == kNegativeInfinity ? kNegativeInfinity : static_cast<float>(largest + std::log(normaliser))};
  for (const Number x : sum)
    partial.o.push_back(
        normaliser == 0 ? 0.0f : static_cast<float>(reference::round_to(x / normaliser, work.arithmetic.partial)));
  return partial;
}

template <class Number>
std::vector<Partial> attend_key_by_key(const Stages& stages, const Work& work, const BlockQueries& list, const Rows& q,
                                       const Rows& k, const Rows& v) {
  const std::int64_t begin = work.block_begin(list.block), end = work.block_end(list.block);
  std::vector<Partial> partials;
  for (const std::int64_t i : list.queries)
    if (Partial partial = attend_backwards<Number>(stages, work, i, begin, end, q, k, v);
        partial.lse != kNegativeInfinity)
      partials.push_back(std::move(partial));
  return partials;
}

std::vector<Partial> attend_in_short_splits(const Stages& stages, const Work& work, const BlockQueries& list,
                                            const Rows& q, const Rows& k, const Rows& v) {
  constexpr std::int64_t kSplit = 5;
  std::vector<Partial> partials;
  for (const std::int64_t i : list.queries)
    for (std::int64_t begin = work.block_begin(list.block), end = work.block_end(list.block); begin < end;
         begin += kSplit)
      partials.push_back(attend_backwards<float>(stages, work, i, begin, std::min(end, begin + kSplit), q, k, v));
  return partials;
}

/// The merge with the largest lse known beforehand; empty partials have weight 0.
Partial merge_in_two_passes(const Work& work, const std::vector<Partial>& partials) {
  Partial merged{0, std::vector<float>(static_cast<std::size_t>(work.problem.attention.dv)), kNegativeInfinity};
  float largest = kNegativeInfinity, sum = 0;
  for (const Partial& partial : partials) largest = std::max(largest, partial.lse);
  if (largest == kNegativeInfinity) return merged;
  for (const Partial& partial : partials) sum += std::exp(partial.lse - largest);
  merged.lse = largest + std::log(sum);
  for (const Partial& partial : partials)
    for (std::size_t d = 0; d < merged.o.size(); ++d) merged.o[d] += std::exp(partial.lse - merged.lse) * partial.o[d];
  return merged;
}

/// One block's gradients from the last query to the first, in double but for the sums.
void attend_backward_in_double(const Stages& stages, const Work& work, const BlockQueries& list,
                               const BackwardRows& rows, Gradients& sums) {
  const Arithmetic& arithmetic = work.arithmetic;
  const Fp32Products products = arithmetic.products;
  const auto product = [products](const float* x, const float* y, std::int64_t n) {
    double sum = 0;
    for (std::int64_t d = 0; d < n; ++d) add_product(products, x[d], y[d], sum);
    return sum;
  };
  for (auto query = list.queries.rbegin(); query != list.queries.rend(); ++query) {
    const std::int64_t i = *query;
    const float lse = rows.lse[static_cast<std::size_t>(i)];
    if (lse == kNegativeInfinity) continue;
    for (std::int64_t j = work.block_begin(list.block); j < work.block_end(list.block); ++j) {
      if (!stages.is_visible(work, work.position(i), j)) continue;
      const double p = std::exp(score_factor(stages, work) * product(rows.q.row(i), rows.k.row(j), rows.q.dim) - lse);
      const double dp = product(rows.d_o.row(i), rows.v.row(j), rows.v.dim);
      const float stored = as_weight(p, arithmetic);
      const double unscaled =
          (arithmetic.rounded_p_in_ds ? stored : p) * (dp - rows.delta[static_cast<std::size_t>(i)]);
      const float ds = as_weight(arithmetic.scaled_ds ? work.problem.attention.scale * unscaled : unscaled, arithmetic);
      add_products(products, stored, rows.d_o.row(i), rows.v.dim, sums.dv.row(j));
      add_products(products, ds, rows.k.row(j), rows.q.dim, sums.dq.row(i));
      add_products(products, ds, rows.q.row(i), rows.q.dim, sums.dk.row(j));
    }
  }
}

#ifdef __SSE__
/// While one lives, the thread takes subnormal numbers for zero and makes none, as fp32 with -ftz on a GPU.
class FlushedThread {
 public:
  FlushedThread() { _mm_setcsr(before_ | kFlushResults | kFlushOperands); }
  ~FlushedThread() { _mm_setcsr(before_); }
  FlushedThread(const FlushedThread&) = delete;

 private:
  static constexpr unsigned kFlushResults = 0x8000, kFlushOperands = 0x40;  // FTZ and DAZ
  unsigned before_ = _mm_getcsr();
};

template <auto kStage, class Result, class... Arguments>
void flush(Result (*Stages::*)(Arguments...), Stages& stages) {
  stages.*kStage = [](Arguments... arguments) -> Result {
    const FlushedThread thread;
    return (correct_stages().*kStage)(std::forward<Arguments>(arguments)...);
  };
}

/// The stages that compute with flushed numbers.
template <auto... kStages>
Stages flushed() {
  return with([](Stages& stages) { (flush<kStages>(kStages, stages), ...); });
}
#endif

}  // namespace

const std::vector<Variant>& variants() {
  static const std::vector<Variant> all{
#ifdef __SSE__
      {"flushed_subnormals", "subnormal numbers in fp32 are zero",
       flushed<&Stages::pool, &Stages::score, &Stages::attend, &Stages::add_importance, &Stages::merge, &Stages::delta,
               &Stages::attend_backward, &Stages::store, &Stages::compress, &Stages::compress_backward,
               &Stages::add_to_tokens, &Stages::add_to_parameters, &Stages::finish_parameters, &Stages::combine,
               &Stages::branch_gradient, &Stages::gate_gradients, &Stages::add_queries>()},
#endif
      {"oldest_of_a_tie", "of tied blocks the oldest is taken",
       with([](Stages& s) { s.select = select_the_oldest_of_a_tie; })},
      {"exp2", "exp is exp2 of the score times log2 e", with([](Stages& s) { s.exp = exp_by_exp2; })},
      {"coarse_exp", "exp is off by 2^-22, up or down", with([](Stages& s) { s.exp = coarse_exp; })},
      {"last_block_first", "blocks are visited from the last to the first",
       with([](Stages& s) { s.order = order_from_the_last_block; })},
      {"key_by_key", "no tiles: keys from the last to the first, masked ones with weight 0",
       with([](Stages& s) { s.attend = attend_key_by_key<float>; })},
      {"short_splits", "every five keys make a partial output, empty ones too; merged in two passes",
       with([](Stages& s) { s.attend = attend_in_short_splits, s.merge = merge_in_two_passes; })},
      {"double_precision", "attention and gradients are computed in double",
       with([](Stages& s) { s.attend = attend_key_by_key<double>, s.attend_backward = attend_backward_in_double; })},
  };
  return all;
}

}  // namespace attnspec::verify::model
