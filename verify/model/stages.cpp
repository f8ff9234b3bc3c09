#include "verify/model/stages.hpp"

#include <algorithm>
#include <cmath>
#include <limits>
#include <numbers>
#include <numeric>

#include "verify/model/compression_stages.hpp"
#include "verify/model/index_stages.hpp"

namespace attnspec::verify::model {

namespace {

constexpr float kNegativeInfinity = -std::numeric_limits<float>::infinity();

/// Rows begin .. end - 1 of x as tiles [dim, kTile], the last one padded with zeros.
std::vector<float> transposed_tiles(const Rows& x, std::int64_t begin, std::int64_t end) {
  const std::int64_t tiles = (end - begin + kTile - 1) / kTile;
  std::vector<float> result(static_cast<std::size_t>(tiles * x.dim * kTile));
  for (std::int64_t j = begin; j < end; ++j)
    for (std::int64_t d = 0; d < x.dim; ++d)
      result[static_cast<std::size_t>(((j - begin) / kTile * x.dim + d) * kTile + (j - begin) % kTile)] = x.row(j)[d];
  return result;
}

/// products[j] = <x, row j of the tile>, accumulated feature by feature in fp32.
void multiply_tile(const Arithmetic& arithmetic, const float* x, const float* tile, std::int64_t dim, float* products) {
  std::fill(products, products + kTile, 0.0f);
  for (std::int64_t d = 0; d < dim; ++d) add_products(arithmetic.products, x[d], tile + d * kTile, kTile, products);
}

std::int64_t kv_head(const MobaProblem& problem, std::int64_t h) {
  return h / (problem.attention.heads / problem.attention.kv_heads);
}

Rows load(const TensorView& from, std::int64_t begin, std::int64_t end, std::int64_t head) {
  Rows rows(end - begin, from.dim);
  for (std::int64_t i = 0; i < rows.count; ++i)
    for (std::int64_t d = 0; d < rows.dim; ++d) rows.row(i)[d] = static_cast<float>(from.load(begin + i, head, d));
  return rows;
}

Blocks load_blocks(const SelectionView& from, std::int64_t token, std::int64_t head) {
  const std::int32_t* row = from.row(token, head);
  return {row, row + from.slots};
}

void store(const Rows& rows, const TensorView& to, std::int64_t begin, std::int64_t head, float factor) {
  for (std::int64_t i = 0; i < rows.count; ++i)
    for (std::int64_t d = 0; d < rows.dim; ++d) to.store(begin + i, head, d, factor * rows.row(i)[d]);
}

float exp_of(float x) { return std::exp(x); }

double scale_of(const Work& work) { return work.problem.attention.scale; }

Rows pool(const Work& work, const Rows& k) {
  Rows means(work.num_blocks(), k.dim);
  for (std::int64_t b = 0; b < means.count; ++b) {
    for (std::int64_t j = work.block_begin(b); j < work.block_end(b); ++j)
      for (std::int64_t d = 0; d < k.dim; ++d) means.row(b)[d] += k.row(j)[d];
    const auto tokens = static_cast<float>(work.block_end(b) - work.block_begin(b));
    for (std::int64_t d = 0; d < k.dim; ++d)
      means.row(b)[d] = rounded(means.row(b)[d] / tokens, work.arithmetic.pooled);
  }
  return means;
}

float score(const Work& work, const float* q, const float* mean) {
  return dot(work.arithmetic.products, q, mean, work.problem.attention.dk);
}

Blocks select(const Work& work, const std::vector<float>& scores, std::int64_t t) {
  const MobaProblem& problem = work.problem;
  const bool causal = problem.attention.causal;
  if (work.num_keys == 0 || (causal && t < 0)) return {};
  const std::int64_t last = causal ? t / problem.block : work.num_blocks() - 1;
  std::vector<float> priority(scores.begin(), scores.begin() + last + 1);
  if (problem.gate != reference::Gate::top_k) std::iota(priority.begin(), priority.end(), 0.0f);
  if (problem.gate == reference::Gate::sink) priority[0] = std::numeric_limits<float>::infinity();
  if (causal) priority[static_cast<std::size_t>(last)] = std::numeric_limits<float>::infinity();
  Blocks blocks(static_cast<std::size_t>(last + 1));
  std::iota(blocks.begin(), blocks.end(), 0);
  const auto kept = blocks.begin() + std::min(problem.top_k, last + 1);
  std::partial_sort(blocks.begin(), kept, blocks.end(), [&](std::int32_t a, std::int32_t b) {
    const float pa = priority[static_cast<std::size_t>(a)], pb = priority[static_cast<std::size_t>(b)];
    return pa > pb || (pa == pb && a > b);  // the more recent block wins a tie
  });
  blocks.erase(kept, blocks.end());
  return blocks;
}

std::vector<BlockQueries> order(const Work& work, const std::vector<Blocks>& selected) {
  std::vector<BlockQueries> result;
  for (std::int64_t b = 0; b < work.num_blocks(); ++b) result.push_back({b, {}});
  for (std::size_t i = 0; i < selected.size(); ++i)
    for (const std::int32_t b : selected[i])
      if (b >= 0 && b < work.num_blocks())  // a defect may read others
        result[static_cast<std::size_t>(b)].queries.push_back(static_cast<std::int64_t>(i));
  return result;
}

bool is_visible(const Work& work, std::int64_t t, std::int64_t j) {
  if (work.op == Operator::nsa_compressed)
    return j * work.nsa.compress_stride + work.nsa.compress_block - 1 <= t;  // its last token
  if (work.op == Operator::window) return j <= t && t - j < work.nsa.window;
  return !work.problem.attention.causal || j <= t;
}

void add_importance(const Work& work, const std::vector<float>& scores, float lse, std::vector<float>& importance) {
  const std::int64_t l = work.nsa.compress_block, d = work.nsa.compress_stride, block = work.nsa.block;
  for (std::int64_t i = 0; i < std::ssize(scores); ++i) {
    const float p = std::exp(scores[static_cast<std::size_t>(i)] - lse);
    for (std::int64_t part = i * d; part < i * d + l; part += d)  // each stride of tokens lies in one block
      importance[static_cast<std::size_t>(part / block)] += p;
  }
}

Blocks select_important(const Work& work, const std::vector<float>& importance) {
  const std::int64_t c = std::ssize(importance) - 1;
  std::vector<bool> taken(importance.size());
  Blocks blocks;
  const auto take = [&](std::int64_t j) {
    if (j < 0 || j > c || taken[static_cast<std::size_t>(j)]) return;
    taken[static_cast<std::size_t>(j)] = true;
    blocks.push_back(static_cast<std::int32_t>(j));
  };
  for (std::int64_t j = 0; j < work.nsa.local_blocks; ++j) take(c - j);
  for (std::int64_t j = 0; j < work.nsa.initial_blocks; ++j) take(j);
  while (std::ssize(blocks) < std::min(work.nsa.top_n, c + 1)) {
    std::int64_t best = -1;
    for (std::int64_t j = 0; j <= c; ++j)
      if (!taken[static_cast<std::size_t>(j)] &&
          (best < 0 || importance[static_cast<std::size_t>(j)] > importance[static_cast<std::size_t>(best)]))
        best = j;
    take(best);
  }
  return blocks;
}

/// Running maximum of the scores of a query, and the sum of exp(score - largest).
struct Statistics {
  float largest = kNegativeInfinity, normaliser = 0;
};

/// One query against one block, tile by tile.
class BlockAttention {
 public:
  BlockAttention(const Stages& stages, const Work& work, std::int64_t block, const Rows& q, const Rows& k,
                 const Rows& v)
      : stages_(stages),
        work_(work),
        begin_(work.block_begin(block)),
        end_(work.block_end(block)),
        factor_(score_factor(stages, work)),
        q_(q),
        v_(v),
        k_tiles_(transposed_tiles(k, begin_, end_)) {}

  /// The partial output of query i; lse = -infinity where it sees no key.
  Partial operator()(std::int64_t i) const {
    const bool divides_first = work_.arithmetic.normaliser == reference::Normaliser::divides_first;
    Partial partial{i, std::vector<float>(static_cast<std::size_t>(v_.dim)), kNegativeInfinity};
    const Statistics all = divides_first ? add(i, {}, 1, nullptr) : Statistics{};
    const float divisor = divides_first ? all.normaliser : 1;
    if (divides_first && all.largest == kNegativeInfinity) return partial;
    const Statistics sums = add(i, {all.largest, 0}, divisor, partial.o.data());
    if (sums.largest == kNegativeInfinity) return partial;
    for (float& x : partial.o) x = rounded(divides_first ? x : x / sums.normaliser, work_.arithmetic.partial);
    partial.lse = sums.largest + std::log(divides_first ? all.normaliser : sums.normaliser);
    return partial;
  }

 private:
  /// Adds every tile's weights, and where `o` [dv] is given their products with v, to statistics that the running
  /// maximum rescales.
  Statistics add(std::int64_t i, Statistics sums, float divisor, float* o) const {
    const std::int64_t t = work_.position(i);
    float scores[kTile];
    for (std::int64_t tile = begin_; tile < end_; tile += kTile) {
      multiply_tile(work_.arithmetic, q_.row(i), k_tiles_.data() + (tile - begin_) * q_.dim, q_.dim, scores);
      const std::int64_t keys = std::min(kTile, end_ - tile);
      float tile_largest = kNegativeInfinity;
      for (std::int64_t j = 0; j < keys; ++j) {
        scores[j] = stages_.is_visible(work_, t, tile + j) ? factor_ * scores[j] : kNegativeInfinity;
        tile_largest = std::max(tile_largest, scores[j]);
      }
      if (tile_largest == kNegativeInfinity) continue;
      const float before = sums.largest;
      sums.largest = std::max(before, tile_largest);
      const float rescale = stages_.exp(before - sums.largest);
      sums.normaliser *= rescale;
      for (std::int64_t d = 0; o != nullptr && d < v_.dim; ++d) o[d] *= rescale;
      for (std::int64_t j = 0; j < keys; ++j) {
        if (scores[j] == kNegativeInfinity) continue;
        const float weight = stages_.exp(scores[j] - sums.largest) / divisor;
        const float stored = as_weight(weight, work_.arithmetic);
        sums.normaliser += work_.arithmetic.normaliser == reference::Normaliser::sums_rounded ? stored : weight;
        if (o != nullptr) add_products(work_.arithmetic.products, stored, v_.row(tile + j), v_.dim, o);
      }
    }
    return sums;
  }

  const Stages& stages_;
  const Work& work_;
  std::int64_t begin_, end_;
  float factor_;
  const Rows &q_, &v_;
  std::vector<float> k_tiles_;
};

std::vector<Partial> attend(const Stages& stages, const Work& work, const BlockQueries& list, const Rows& q,
                            const Rows& k, const Rows& v) {
  const BlockAttention attention(stages, work, list.block, q, k, v);
  std::vector<Partial> partials;
  for (const std::int64_t i : list.queries)
    if (Partial partial = attention(i); partial.lse != kNegativeInfinity) partials.push_back(std::move(partial));
  return partials;
}

std::vector<std::vector<Partial>> restore(const Work& work, std::vector<Partial> partials) {
  std::vector<std::vector<Partial>> by_query(static_cast<std::size_t>(work.num_queries));
  for (Partial& partial : partials) by_query[static_cast<std::size_t>(partial.query)].push_back(std::move(partial));
  return by_query;
}

Partial merge(const Work& work, const std::vector<Partial>& partials) {
  Partial merged{0, std::vector<float>(static_cast<std::size_t>(work.problem.attention.dv)), kNegativeInfinity};
  float normaliser = 0;
  for (const Partial& partial : partials) {
    const float before = merged.lse;
    merged.lse = std::max(before, partial.lse);
    const float rescale = std::exp(before - merged.lse), weight = std::exp(partial.lse - merged.lse);
    normaliser = normaliser * rescale + weight;
    for (std::size_t d = 0; d < merged.o.size(); ++d) merged.o[d] = merged.o[d] * rescale + weight * partial.o[d];
  }
  if (partials.empty()) return merged;
  for (float& x : merged.o) x /= normaliser;
  merged.lse += std::log(normaliser);
  return merged;
}

void store_output(const Work&, const Partial& merged, const TensorView& o, const TensorView& lse, std::int64_t token,
                  std::int64_t head) {
  for (std::int64_t d = 0; d < o.dim; ++d) o.store(token, head, d, merged.o[static_cast<std::size_t>(d)]);
  lse.store(token, head, 0, merged.lse);
}

/// visit(i, j, P, dP) for every key j of a block that its query i sees.
template <class Visit>
void for_each_weight(const Stages& stages, const Work& work, const BlockQueries& list, const BackwardRows& rows,
                     const Visit& visit) {
  const std::int64_t begin = work.block_begin(list.block), end = work.block_end(list.block);
  const float factor = score_factor(stages, work);
  const std::vector<float> k_tiles = transposed_tiles(rows.k, begin, end),
                           v_tiles = transposed_tiles(rows.v, begin, end);
  float scores[kTile], d_weights[kTile];
  for (const std::int64_t i : list.queries) {
    const std::int64_t t = work.position(i);
    const float lse = rows.lse[static_cast<std::size_t>(i)];
    if (lse == kNegativeInfinity) continue;
    for (std::int64_t tile = begin; tile < end; tile += kTile) {
      const std::int64_t first = tile - begin;
      multiply_tile(work.arithmetic, rows.q.row(i), k_tiles.data() + first * rows.q.dim, rows.q.dim, scores);
      multiply_tile(work.arithmetic, rows.d_o.row(i), v_tiles.data() + first * rows.v.dim, rows.v.dim, d_weights);
      for (std::int64_t j = 0; j < std::min(kTile, end - tile); ++j)
        if (stages.is_visible(work, t, tile + j))
          visit(i, tile + j, stages.exp(factor * scores[j] - lse), d_weights[j]);
    }
  }
}

std::vector<float> delta(const Stages& stages, const Work& work, const std::vector<BlockQueries>& lists,
                         const BackwardRows& rows, const Rows& o) {
  std::vector<float> result(static_cast<std::size_t>(work.num_queries));
  if (!work.arithmetic.softmax_delta) {
    for (std::int64_t i = 0; i < work.num_queries; ++i)
      result[static_cast<std::size_t>(i)] = dot(Fp32Products::exact, rows.d_o.row(i), o.row(i), o.dim);
    return result;
  }
  for (const BlockQueries& list : lists)
    for_each_weight(stages, work, list, rows, [&](std::int64_t i, std::int64_t, float weight, float d_weight) {
      result[static_cast<std::size_t>(i)] += weight * d_weight;
    });
  return result;
}

void attend_backward(const Stages& stages, const Work& work, const BlockQueries& list, const BackwardRows& rows,
                     Gradients& sums) {
  const Arithmetic& arithmetic = work.arithmetic;
  const auto scale = static_cast<float>(work.problem.attention.scale);
  for_each_weight(stages, work, list, rows, [&](std::int64_t i, std::int64_t j, float weight, float d_weight) {
    const float stored = as_weight(weight, arithmetic);
    const float centred = d_weight - rows.delta[static_cast<std::size_t>(i)];
    const float d_score = (arithmetic.rounded_p_in_ds ? stored : weight) * centred;
    const float d_score_stored = as_weight(arithmetic.scaled_ds ? scale * d_score : d_score, arithmetic);
    add_products(arithmetic.products, stored, rows.d_o.row(i), rows.v.dim, sums.dv.row(j));
    add_products(arithmetic.products, d_score_stored, rows.k.row(j), rows.q.dim, sums.dq.row(i));
    add_products(arithmetic.products, d_score_stored, rows.q.row(i), rows.q.dim, sums.dk.row(j));
  });
}

void store_keys(const Stages& stages, const Work&, const Rows& rows, const TensorView& to, std::int64_t begin,
                std::int64_t g) {
  stages.store(rows, to, begin, g, 1);
}

BranchCall branch_of(const NsaCall& call, Branch branch) {
  if (branch == Branch::selected) return call.selected;
  if (branch == Branch::window) return call.window;
  return {call.k_compressed, call.v_compressed, call.compressed.o, call.compressed.lse};
}

Rows combine(const Rows& gates, const PerBranch<Rows>& o) {
  Rows sums(o[0].count, o[0].dim);
  for (std::int64_t i = 0; i < sums.count; ++i)
    for (std::size_t b = 0; b < o.size(); ++b)
      for (std::int64_t d = 0; d < sums.dim; ++d) sums.row(i)[d] += gates.row(i)[b] * o[b].row(i)[d];
  return sums;
}

Rows branch_gradient(const Rows& gates, const Rows& d_o, Branch branch) {
  Rows result = d_o;
  for (std::int64_t i = 0; i < result.count; ++i)
    for (std::int64_t d = 0; d < result.dim; ++d) result.row(i)[d] *= gates.row(i)[static_cast<std::size_t>(branch)];
  return result;
}

Rows gate_gradients(const Rows& gates, const Rows& d_o, const PerBranch<Rows>& o) {
  Rows result(gates.count, gates.dim);
  for (std::int64_t i = 0; i < result.count; ++i)
    for (std::size_t b = 0; b < o.size(); ++b)
      result.row(i)[b] = dot(Fp32Products::exact, d_o.row(i), o[b].row(i), d_o.dim);
  return result;
}

Rows add_queries(const Arithmetic& arithmetic, const PerBranch<Rows>& dq) {
  Rows sums = dq[0];
  for (const std::size_t b : {1, 2}) {
    for (std::size_t n = 0; n < sums.values.size(); ++n) {
      float& sum = sums.values[n];
      sum += dq[b].values[n];
      if (arithmetic.rounded_gradient_sums && !arithmetic.fused_branches) sum = rounded(sum, arithmetic.output);
    }
  }
  return sums;
}

}  // namespace

void write_row(const SelectionView& selection, std::int64_t token, std::int64_t head, const Blocks& blocks) {
  std::int32_t* row = selection.row(token, head);
  std::fill(row, row + selection.slots, -1);
  std::copy_n(blocks.begin(), std::min<std::int64_t>(selection.slots, std::ssize(blocks)), row);
}

Rows operand_rows(const Stages& stages, const Work& work, ScaledOperand which, Rows rows) {
  if (work.scaled_operand() != which) return rows;
  const auto factor =
      static_cast<float>(work.arithmetic.scaled_log2 ? stages.scale(work) * std::numbers::log2e : stages.scale(work));
  for (float& x : rows.values) x = rounded(x * factor, work.arithmetic.input);
  return rows;
}

float score_factor(const Stages& stages, const Work& work) {
  if (work.scaled_operand() == ScaledOperand::none) return static_cast<float>(stages.scale(work));
  return work.arithmetic.scaled_log2 ? std::numbers::ln2_v<float> : 1;
}

float gradient_factor(const Work& work, ScaledOperand which) {
  if (work.arithmetic.scaled_ds) return 1;
  if (work.scaled_operand() != which) return static_cast<float>(work.problem.attention.scale);
  return work.arithmetic.scaled_log2 ? std::numbers::ln2_v<float> : 1;
}

const Stages& correct_stages() {
  static const Stages stages{.kv_head = kv_head,
                             .load = load,
                             .load_blocks = load_blocks,
                             .pool = pool,
                             .score = score,
                             .select = select,
                             .order = order,
                             .scale = scale_of,
                             .exp = exp_of,
                             .is_visible = is_visible,
                             .attend = attend,
                             .add_importance = add_importance,
                             .select_important = select_important,
                             .num_index_keys = num_index_keys,
                             .block_worth = block_worth,
                             .add_index_heads = add_index_heads,
                             .select_tokens = select_tokens,
                             .select_complete = select_complete,
                             .restore = restore,
                             .merge = merge,
                             .store_output = store_output,
                             .delta = delta,
                             .attend_backward = attend_backward,
                             .store = store,
                             .store_keys = store_keys,
                             .block_start = block_start,
                             .load_block = load_block,
                             .load_parameters = load_parameters,
                             .activation = activation,
                             .compress = compress,
                             .slope = slope,
                             .compress_backward = compress_backward,
                             .add_to_tokens = add_to_tokens,
                             .add_to_parameters = add_to_parameters,
                             .finish_parameters = finish_parameters,
                             .branch = branch_of,
                             .branch_backward = branch_of,
                             .combine = combine,
                             .branch_gradient = branch_gradient,
                             .gate_gradients = gate_gradients,
                             .add_queries = add_queries};
  return stages;
}

}  // namespace attnspec::verify::model
