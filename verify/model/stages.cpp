#include "verify/model/stages.hpp"

#include <algorithm>
#include <cmath>
#include <limits>
#include <numbers>
#include <numeric>

namespace attnspec::verify::model {

namespace {

constexpr float kNegativeInfinity = -std::numeric_limits<float>::infinity();

float dot(const float* x, const float* y, std::int64_t n) {
  float sum = 0;
  for (std::int64_t d = 0; d < n; ++d) sum += x[d] * y[d];
  return sum;
}

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
void multiply_tile(const float* x, const float* tile, std::int64_t dim, float* products) {
  std::fill(products, products + kTile, 0.0f);
  for (std::int64_t d = 0; d < dim; ++d)
    for (std::int64_t j = 0; j < kTile; ++j) products[j] += x[d] * tile[d * kTile + j];
}

float rounded(float x, reference::Format format) {
  return format == reference::Format::fp32 ? x : static_cast<float>(reference::round_to(x, format));
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

void store(const Rows& rows, const TensorView& to, std::int64_t begin, std::int64_t head, float factor) {
  for (std::int64_t i = 0; i < rows.count; ++i)
    for (std::int64_t d = 0; d < rows.dim; ++d) to.store(begin + i, head, d, factor * rows.row(i)[d]);
}

float exp_of(float x) { return std::exp(x); }

float scale_of(const Work& work) { return static_cast<float>(work.problem.attention.scale); }

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

float score(const Work& work, const float* q, const float* mean) { return dot(q, mean, work.problem.attention.dk); }

Blocks choose(const Work& work, const std::vector<float>& scores, std::int64_t t) {
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

std::vector<BlockQueries> order(const Work& work, const std::vector<Blocks>& chosen) {
  std::vector<BlockQueries> result;
  for (std::int64_t b = 0; b < work.num_blocks(); ++b) result.push_back({b, {}});
  for (std::size_t i = 0; i < chosen.size(); ++i)
    for (const std::int32_t b : chosen[i])
      if (b >= 0) result[static_cast<std::size_t>(b)].queries.push_back(static_cast<std::int64_t>(i));
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

Blocks choose_important(const Work& work, const std::vector<float>& importance) {
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
        scale_(stages.scale(work)),
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
      multiply_tile(q_.row(i), k_tiles_.data() + (tile - begin_) * q_.dim, q_.dim, scores);
      const std::int64_t keys = std::min(kTile, end_ - tile);
      float tile_largest = kNegativeInfinity;
      for (std::int64_t j = 0; j < keys; ++j) {
        scores[j] = stages_.is_visible(work_, t, tile + j) ? scale_ * scores[j] : kNegativeInfinity;
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
        const float stored = rounded(weight, work_.arithmetic.weights);
        sums.normaliser += work_.arithmetic.normaliser == reference::Normaliser::sums_rounded ? stored : weight;
        const float* value = v_.row(tile + j);
        for (std::int64_t d = 0; o != nullptr && d < v_.dim; ++d) o[d] += stored * value[d];
      }
    }
    return sums;
  }

  const Stages& stages_;
  const Work& work_;
  std::int64_t begin_, end_;
  float scale_;
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

float delta(const Work& work, const float* d_o, const float* o) { return dot(d_o, o, work.problem.attention.dv); }

void attend_backward(const Stages& stages, const Work& work, const BlockQueries& list, const BackwardRows& rows,
                     Gradients& sums) {
  const std::int64_t begin = work.block_begin(list.block), end = work.block_end(list.block);
  const float scale = stages.scale(work);
  const std::vector<float> k_tiles = transposed_tiles(rows.k, begin, end),
                           v_tiles = transposed_tiles(rows.v, begin, end);
  float scores[kTile], d_weights[kTile];
  for (const std::int64_t i : list.queries) {
    const std::int64_t t = work.position(i);
    const float lse = rows.lse[static_cast<std::size_t>(i)], row_delta = rows.delta[static_cast<std::size_t>(i)];
    if (lse == kNegativeInfinity) continue;
    for (std::int64_t tile = begin; tile < end; tile += kTile) {
      multiply_tile(rows.q.row(i), k_tiles.data() + (tile - begin) * rows.q.dim, rows.q.dim, scores);
      multiply_tile(rows.d_o.row(i), v_tiles.data() + (tile - begin) * rows.v.dim, rows.v.dim, d_weights);
      for (std::int64_t j = 0; j < std::min(kTile, end - tile); ++j) {
        if (!stages.is_visible(work, t, tile + j)) continue;
        const float weight = stages.exp(scale * scores[j] - lse);
        const float d_score = rounded(weight * (d_weights[j] - row_delta), work.arithmetic.weights);
        const float stored = rounded(weight, work.arithmetic.weights);
        for (std::int64_t d = 0; d < rows.v.dim; ++d) sums.dv.row(tile + j)[d] += stored * rows.d_o.row(i)[d];
        for (std::int64_t d = 0; d < rows.q.dim; ++d) sums.dq.row(i)[d] += d_score * rows.k.row(tile + j)[d];
        for (std::int64_t d = 0; d < rows.q.dim; ++d) sums.dk.row(tile + j)[d] += d_score * rows.q.row(i)[d];
      }
    }
  }
}

/// sums += W^T x, row by row of W.
void add_product(const Rows& w, const std::vector<float>& x, std::vector<float>& sums) {
  for (std::int64_t r = 0; r < w.count; ++r)
    for (std::int64_t c = 0; c < w.dim; ++c)
      sums[static_cast<std::size_t>(c)] += x[static_cast<std::size_t>(r)] * w.row(r)[c];
}

/// W y.
std::vector<float> product(const Rows& w, const std::vector<float>& y) {
  std::vector<float> result;
  for (std::int64_t r = 0; r < w.count; ++r) result.push_back(dot(w.row(r), y.data(), w.dim));
  return result;
}

/// sums += x y^T.
void add_outer_product(const std::vector<float>& x, const std::vector<float>& y, Rows& sums) {
  for (std::int64_t r = 0; r < sums.count; ++r)
    for (std::int64_t c = 0; c < sums.dim; ++c)
      sums.row(r)[c] += x[static_cast<std::size_t>(r)] * y[static_cast<std::size_t>(c)];
}

void add(const std::vector<float>& x, std::vector<float>& sums) {
  for (std::size_t n = 0; n < x.size(); ++n) sums[n] += x[n];
}

void round_all(std::vector<float>& values, reference::Format format) {
  for (float& x : values) x = rounded(x, format);
}

std::int64_t block_start(const CompressWork& work, std::int64_t i) {
  return work.first_token + i * work.nsa.compress_stride;
}

Parameters load_parameters(const NsaProblem& nsa, const PhiTensors<TensorView>& phi, std::int64_t g) {
  const std::int64_t set = nsa.shared_phi ? 0 : g;
  Parameters parameters;
  for (std::size_t part = 0; part < kPhiParts<Rows>.size(); ++part) {
    const TensorView& from = phi.*kPhiParts<TensorView>[part].tensor;
    parameters.*kPhiParts<Rows>[part].tensor = load(from, 0, from.tokens, set);
  }
  return parameters;
}

float activation(reference::Activation kind, float x) {
  if (kind == reference::Activation::relu) return std::max(x, 0.0f);
  if (kind == reference::Activation::silu) return x / (1 + std::exp(-x));
  return 0.5f * x * std::erfc(-x / std::numbers::sqrt2_v<float>);
}

float slope(reference::Activation kind, float x) {
  if (kind == reference::Activation::relu) return x > 0 ? 1.0f : 0.0f;
  if (kind == reference::Activation::silu) {
    const float sigmoid = 1 / (1 + std::exp(-x));
    return sigmoid + x * sigmoid * (1 - sigmoid);
  }
  const float density = std::exp(-0.5f * x * x) * std::numbers::inv_sqrtpi_v<float> / std::numbers::sqrt2_v<float>;
  return 0.5f * std::erfc(-x / std::numbers::sqrt2_v<float>) + x * density;
}

/// The tokens of a block with their position encoding, side by side.
std::vector<float> encoded(const CompressWork& work, const Parameters& phi, const Rows& x) {
  std::vector<float> z = x.values;
  add(phi.position.values, z);
  round_all(z, work.arithmetic.weights);
  return z;
}

/// The hidden features of the MLP before their activation.
std::vector<float> hidden_of(const Parameters& phi, const std::vector<float>& z) {
  std::vector<float> hidden = phi.b1.values;
  add_product(phi.w1, z, hidden);
  return hidden;
}

/// And after it.
std::vector<float> activated(const Stages& stages, const CompressWork& work, std::vector<float> hidden) {
  for (float& x : hidden) x = stages.activation(work.nsa.activation, x);
  round_all(hidden, work.arithmetic.weights);
  return hidden;
}

std::vector<float> mean_of(const Rows& x) {
  std::vector<float> mean(static_cast<std::size_t>(x.dim));
  for (std::int64_t s = 0; s < x.count; ++s)
    for (std::int64_t f = 0; f < x.dim; ++f) mean[static_cast<std::size_t>(f)] += x.row(s)[f];
  for (float& f : mean) f /= static_cast<float>(x.count);
  return mean;
}

std::vector<float> compress(const Stages& stages, const CompressWork& work, const Parameters& phi, const Rows& x) {
  if (work.nsa.phi == reference::Phi::mean) return mean_of(x);
  const std::vector<float> z = encoded(work, phi, x);
  std::vector<float> row(static_cast<std::size_t>(x.dim));
  if (work.nsa.phi == reference::Phi::linear) {
    add_product(phi.w, z, row);
  } else {
    row = phi.b2.values;
    add_product(phi.w2, activated(stages, work, hidden_of(phi, z)), row);
  }
  return row;
}

Rows compress_backward(const Stages& stages, const CompressWork& work, const Parameters& phi, const Rows& x,
                       const std::vector<float>& d_row, Parameters& sums) {
  Rows d_x(x.count, x.dim);
  if (work.nsa.phi == reference::Phi::mean) {
    for (std::int64_t s = 0; s < x.count; ++s)
      for (std::int64_t f = 0; f < x.dim; ++f)
        d_x.row(s)[f] = d_row[static_cast<std::size_t>(f)] / static_cast<float>(x.count);
    return d_x;
  }
  const std::vector<float> z = encoded(work, phi, x);
  if (work.nsa.phi == reference::Phi::linear) {
    add_outer_product(z, d_row, sums.w);
    d_x.values = product(phi.w, d_row);
  } else {
    const std::vector<float> hidden = hidden_of(phi, z);
    add_outer_product(activated(stages, work, hidden), d_row, sums.w2);
    add(d_row, sums.b2.values);
    std::vector<float> d_hidden = product(phi.w2, d_row);
    for (std::size_t n = 0; n < hidden.size(); ++n) d_hidden[n] *= stages.slope(work.nsa.activation, hidden[n]);
    add(d_hidden, sums.b1.values);
    round_all(d_hidden, work.arithmetic.weights);
    add_outer_product(z, d_hidden, sums.w1);
    d_x.values = product(phi.w1, d_hidden);
  }
  add(d_x.values, sums.position.values);
  return d_x;
}

void add_to_tokens(const Rows& d_x, std::int64_t begin, Rows& sums) {
  for (std::int64_t s = 0; s < d_x.count; ++s)
    for (std::int64_t f = 0; f < d_x.dim; ++f) sums.row(begin + s)[f] += d_x.row(s)[f];
}

void add_to_parameters(const Parameters& of_head, Parameters& sums) {
  for (const auto& [name, part] : kPhiParts<Rows>) add((of_head.*part).values, (sums.*part).values);
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
    for (std::size_t b = 0; b < o.size(); ++b) result.row(i)[b] = dot(d_o.row(i), o[b].row(i), d_o.dim);
  return result;
}

Rows add_queries(const PerBranch<Rows>& dq) {
  Rows sums = dq[0];
  add(dq[1].values, sums.values);
  add(dq[2].values, sums.values);
  return sums;
}

}  // namespace

const Stages& correct_stages() {
  static const Stages stages{.kv_head = kv_head,
                             .load = load,
                             .pool = pool,
                             .score = score,
                             .choose = choose,
                             .order = order,
                             .scale = scale_of,
                             .exp = exp_of,
                             .is_visible = is_visible,
                             .attend = attend,
                             .add_importance = add_importance,
                             .choose_important = choose_important,
                             .restore = restore,
                             .merge = merge,
                             .delta = delta,
                             .attend_backward = attend_backward,
                             .store = store,
                             .block_start = block_start,
                             .load_parameters = load_parameters,
                             .activation = activation,
                             .compress = compress,
                             .slope = slope,
                             .compress_backward = compress_backward,
                             .add_to_tokens = add_to_tokens,
                             .add_to_parameters = add_to_parameters,
                             .branch = branch_of,
                             .branch_backward = branch_of,
                             .combine = combine,
                             .branch_gradient = branch_gradient,
                             .gate_gradients = gate_gradients,
                             .add_queries = add_queries};
  return stages;
}

}  // namespace attnspec::verify::model
