// The second oracle of NSA: the paper's rules as scalar loops, to test the reference. Like oracle.hpp, whose numbers,
// tensors and attention it uses, it shares nothing with reference/ but the sizes and parameters of a problem.
//
// Letters as in oracle.hpp, and: l tokens of a compression block, d tokens from the start of one to the start of the
// next, l' tokens of a selection block, i compressed row, j selection block, w window; x the keys or the
// values that phi compresses, z what goes into its activation.
//
// How many roundings an error can count (m of Sum), with N = l max(dk, dv) inputs and `hidden` features of phi, n
// keys or compressed rows in a row, r rows at a key, R blocks at a parameter of phi:
//
//     a layer of phi, sigmoid, activation              N + 3;  m + 5;  2 m + 7
//     a compressed row                                 p = 2 N + hidden + 15
//     o, L, an importance                              2 p + dk + 2 n + 12, and less for the others
//     the gradient of a compressed row                 3 p + 2 dk + dv + 3 n + r + 29
//     the slope of an activation                       3 N + 23
//     the gradients of phi, which have the largest     9 N + 4 hidden + 2 dk + dv + max(dk, dv) + 3 n + r + R + 100
//
// whatever the order of the sums, and though every stage takes what the one before computed. A maximum costs nothing, a
// constant such as sqrt(1/2) or an erf as much as in the table of Sum. Where this is below 900, 1e-13 terms bounds the
// error of a computation in double.
#pragma once

#include "reference/selftest/oracle.hpp"

namespace attnspec::oracle {

using reference::Activation;
using reference::NsaProblem;
using reference::Phi;

constexpr long double kTwoOverSqrtPi = 1.12837916709551257389615890312154517L;
constexpr long double kSqrtHalf = 0.707106781186547524400844362104849039L;

inline long double erf_value(long double x) { return std::erf(x); }

/// erf(a + b epsilon) = erf(a) + b epsilon erf'(a), exact where the square of the imaginary part vanishes.
inline std::complex<long double> erf_value(const std::complex<long double>& x) {
  return {std::erf(x.real()), x.imag() * kTwoOverSqrtPi * std::exp(-x.real() * x.real())};
}

/// erf accurate to 2u errs by at most (m_a + 2) u (|erf a| + erf'(a) terms(a)).
template <class T>
Sum<T> erf(const Sum<T>& a) {
  const long double x = real_part(a.value);
  return {erf_value(a.value), std::abs(std::erf(x)) + kTwoOverSqrtPi * std::exp(-x * x) * a.terms};
}

/// max(0, a) errs by at most the error of a, on either side of 0.
template <class T>
Sum<T> relu(const Sum<T>& a) {
  return {real_part(a.value) > 0 ? a.value : T(0), a.terms};
}

/// 1 / (1 + exp(-a)).
template <class T>
Sum<T> sigmoid(const Sum<T>& a) {
  return Sum<T>(T(1)) / (T(1) + exp(Sum<T>() - a));
}

template <class T>
Sum<T> activate(Activation activation, const Sum<T>& z) {
  switch (activation) {
    case Activation::relu: return relu(z);
    case Activation::silu: return z * sigmoid(z);
    default: return z * (T(1) + erf(z * T(kSqrtHalf))) / T(2);
  }
}

/// The parameters of phi for keys or for values, in sets: one for each kv head, or one for all of them where shared.
/// Mean has none, linear the first two.
template <class Number>
struct PhiParameters {
  Tensor<Number> position;  // [l, sets, dim], added to the tokens of every block
  Tensor<Number> w1;  // [l dim, sets, dim], of mlp [l dim, sets, hidden]; row s dim + e meets feature e of token s
  Tensor<Number> b1;  // [1, sets, hidden]
  Tensor<Number> w2;  // [hidden, sets, dim]
  Tensor<Number> b2;  // [1, sets, dim]
};

/// The parameters of kv head g.
inline std::int64_t parameter_set(const NsaProblem& problem, std::int64_t g) { return problem.shared_phi ? 0 : g; }

/// The first packed token of every compression block of every sequence, in order: block i of a sequence holds its
/// tokens id .. id + l - 1, all of which it must have. NSA eq. 7. A sequence shorter than l has none.
inline std::vector<std::int64_t> compression_blocks(const NsaProblem& problem) {
  std::vector<std::int64_t> first_tokens;
  const std::vector<std::int64_t>& offsets = problem.attention.k_offsets;
  for (std::size_t s = 0; s + 1 < offsets.size(); ++s)
    for (std::int64_t first = offsets[s]; first + problem.compress_block <= offsets[s + 1];
         first += problem.compress_stride)
      first_tokens.push_back(first);
  return first_tokens;
}

/// u, [l dim]: the tokens of a block side by side, each with its position encoding added.
template <class T>
std::vector<Sum<T>> encode(const Tensor<T>& x, std::int64_t first_token, std::int64_t g, const Tensor<T>& position,
                           std::int64_t set) {
  std::vector<Sum<T>> u;
  for (std::int64_t s = 0; s < position.tokens; ++s)
    for (std::int64_t e = 0; e < position.dim; ++e) u.push_back(Sum<T>(x(first_token + s, g, e)) + position(s, set, e));
  return u;
}

/// u W, [columns of W].
template <class T>
std::vector<Sum<T>> layer(const std::vector<Sum<T>>& u, const Tensor<T>& w, std::int64_t set) {
  std::vector<Sum<T>> y;
  for (std::int64_t column = 0; column < w.dim; ++column) {
    Sum<T> sum;
    for (std::int64_t row = 0; row < w.tokens; ++row) sum += u[static_cast<std::size_t>(row)] * w(row, set, column);
    y.push_back(sum);
  }
  return y;
}

/// u W + b.
template <class T>
std::vector<Sum<T>> layer(const std::vector<Sum<T>>& u, const Tensor<T>& w, const Tensor<T>& b, std::int64_t set) {
  std::vector<Sum<T>> y = layer(u, w, set);
  for (std::int64_t column = 0; column < w.dim; ++column) y[static_cast<std::size_t>(column)] += b(0, set, column);
  return y;
}

template <class T>
std::vector<Sum<T>> activate(Activation activation, const std::vector<Sum<T>>& z) {
  std::vector<Sum<T>> a;
  for (const Sum<T>& feature : z) a.push_back(activate(activation, feature));
  return a;
}

/// phi of the l tokens from first_token on, of kv head g, [dim]: their mean; u W1; activation(u W1 + b1) W2 + b2.
template <class T>
std::vector<Sum<T>> compress_block(const NsaProblem& problem, const Tensor<T>& x, std::int64_t first_token,
                                   std::int64_t g, const PhiParameters<T>& phi) {
  if (problem.phi == Phi::mean) return mean_key(x, first_token, problem.compress_block, g);
  const std::int64_t set = parameter_set(problem, g);
  const std::vector<Sum<T>> u = encode(x, first_token, g, phi.position, set);
  if (problem.phi == Phi::linear) return layer(u, phi.w1, set);
  return layer(activate(problem.activation, layer(u, phi.w1, phi.b1, set)), phi.w2, phi.b2, set);
}

/// The compressed rows of all sequences, packed in their order, [compression blocks, Hkv, dim].
template <class T>
Tensor<Sum<T>> compress(const NsaProblem& problem, const Tensor<T>& x, const PhiParameters<T>& phi) {
  const std::vector<std::int64_t> first_tokens = oracle::compression_blocks(problem);
  Tensor<Sum<T>> rows(static_cast<std::int64_t>(first_tokens.size()), x.heads, x.dim);
  for (std::int64_t i = 0; i < rows.tokens; ++i)
    for (std::int64_t g = 0; g < x.heads; ++g) {
      const auto row = compress_block(problem, x, first_tokens[static_cast<std::size_t>(i)], g, phi);
      for (std::int64_t e = 0; e < x.dim; ++e) rows(i, g, e) = row[static_cast<std::size_t>(e)];
    }
  return rows;
}

/// Whether a query sees the compressed row of the l tokens from first_token on: they are of its sequence, and the last
/// of them is not after it, id + l - 1 <= t.
inline bool sees_block(const NsaProblem& problem, const Place& place, std::int64_t first_token) {
  const std::int64_t begin = first_token - place.first_key;
  return begin >= 0 && begin + problem.compress_block - 1 <= place.t;
}

/// The compressed rows a query sees, counted over all sequences.
inline Lists compressed_keys(const NsaProblem& problem) {
  const std::vector<std::int64_t> first_tokens = oracle::compression_blocks(problem);
  Lists rows(problem.attention.q_offsets.back(), problem.attention.heads);
  for (std::int64_t token = 0; token < problem.attention.q_offsets.back(); ++token) {
    const Place place = locate(problem.attention, token);
    for (std::int64_t h = 0; h < problem.attention.heads; ++h)
      for (std::size_t i = 0; i < first_tokens.size(); ++i)
        if (sees_block(problem, place, first_tokens[i])) rows.row(token, h).push_back(static_cast<std::int64_t>(i));
  }
  return rows;
}

/// The window: the w keys up to the query's own, J(t) = {t - w + 1 .. t}, within the sequence.
inline Lists window_keys(const NsaProblem& problem) {
  Lists keys(problem.attention.q_offsets.back(), problem.attention.heads);
  for (std::int64_t token = 0; token < problem.attention.q_offsets.back(); ++token) {
    const Place place = locate(problem.attention, token);
    for (std::int64_t h = 0; h < problem.attention.heads; ++h)
      for (std::int64_t j = 0; j <= place.t; ++j)
        if (j >= place.t - problem.window + 1) keys.row(token, h).push_back(place.first_key + j);
  }
  return keys;
}

/// The weight of the compression block of tokens begin .. begin + l - 1 in selection block j: the tokens that both
/// hold, in units of d. What NSA eq. 9 counts.
inline std::int64_t overlap(const NsaProblem& problem, std::int64_t begin, std::int64_t j) {
  std::int64_t common = 0;
  for (std::int64_t token = begin; token < begin + problem.compress_block; ++token)
    common += token / problem.block == j;
  return common / problem.compress_stride;
}

/// P'_j for the selection blocks 0 .. c, c = floor(t / l'): the sum over the heads of group g and over the compressed
/// rows i they see of overlap(i, j) exp(s_i - L). NSA eq. 8, 9 and 10.
///
/// compressed_k [compression blocks, Hkv, dk]. t < 0: none.
template <class T>
std::vector<Sum<T>> importance(const NsaProblem& problem, const Tensor<T>& q, const Tensor<Sum<T>>& compressed_k,
                               std::int64_t token, std::int64_t g) {
  const Place place = locate(problem.attention, token);
  if (place.t < 0) return {};
  const std::vector<std::int64_t> first_tokens = oracle::compression_blocks(problem);
  std::vector<Sum<T>> sums(static_cast<std::size_t>(place.t / problem.block + 1));
  for (std::int64_t h = 0; h < q.heads; ++h) {
    if (key_head(problem.attention, h) != g) continue;
    std::vector<Sum<T>> scores;
    std::vector<std::int64_t> begins;
    for (std::int64_t i = 0; i < compressed_k.tokens; ++i) {
      const std::int64_t first_token = first_tokens[static_cast<std::size_t>(i)];
      if (!sees_block(problem, place, first_token)) continue;
      scores.push_back(score(problem.attention, q, compressed_k, token, h, i));
      begins.push_back(first_token - place.first_key);
    }
    const Sum<T> lse = log_sum_exp(scores);
    for (std::size_t n = 0; n < scores.size(); ++n) {
      const Sum<T> weight = exp(scores[n] - lse);
      for (std::size_t j = 0; j < sums.size(); ++j) {
        const std::int64_t common = overlap(problem, begins[n], static_cast<std::int64_t>(j));
        if (common > 0) sums[j] += weight * T(static_cast<long double>(common));
      }
    }
  }
  return sums;
}

/// Whether block j of the blocks 0 .. c is taken whatever its importance: the first ones, and the own one c with those
/// before it.
inline bool must_take(const NsaProblem& problem, std::int64_t j, std::int64_t c) {
  return j < problem.initial_blocks || j > c - problem.local_blocks;
}

/// I(t) of NSA, ascending: the forced blocks, and of the others as many as top_n has room for, those that fewest others
/// surpass in (importance, lower index). NSA eq. 11, with exactly min(top_n, c + 1) blocks.
///
/// importances: of the blocks 0 .. c.
template <class T>
std::vector<std::int64_t> select_blocks(const NsaProblem& problem, const std::vector<Sum<T>>& importances) {
  const std::int64_t num_blocks = static_cast<std::int64_t>(importances.size()), c = num_blocks - 1;
  std::int64_t room = problem.top_n;
  for (std::int64_t j = 0; j < num_blocks; ++j) room -= must_take(problem, j, c);
  const auto value = [&](std::int64_t j) { return real_part(importances[static_cast<std::size_t>(j)].value); };
  std::vector<std::int64_t> blocks;
  for (std::int64_t j = 0; j < num_blocks; ++j) {
    std::int64_t num_better = 0;
    for (std::int64_t other = 0; other < num_blocks; ++other)
      if (!must_take(problem, other, c))
        num_better += value(other) > value(j) || (value(other) == value(j) && other < j);
    if (must_take(problem, j, c) || num_better < room) blocks.push_back(j);
  }
  return blocks;
}

/// The blocks of every query row and kv head under NSA.
template <class T>
Lists nsa_blocks(const NsaProblem& problem, const Tensor<T>& q, const Tensor<Sum<T>>& compressed_k) {
  Lists blocks(q.tokens, problem.attention.kv_heads);
  for (std::int64_t token = 0; token < q.tokens; ++token)
    for (std::int64_t g = 0; g < problem.attention.kv_heads; ++g)
      blocks.row(token, g) = select_blocks(problem, importance(problem, q, compressed_k, token, g));
  return blocks;
}

/// The keys and values of a branch, [key tokens, Hkv, dk or dv]; or its compressed rows.
template <class Number>
struct KeyValues {
  Tensor<Number> k, v;
};

/// All that goes into NSA; or the gradients of all of it.
template <class Number>
struct NsaTensors {
  Tensor<Number> q;  // [query tokens, H, dk]
  KeyValues<Number> compressed, selected, window;
  Tensor<Number> gates;  // [query tokens, H, 3], after the sigmoid, in the order of the branches
  PhiParameters<Number> phi_k, phi_v;
};

template <class T>
KeyValues<Sum<T>> compress(const NsaProblem& problem, const NsaTensors<T>& in) {
  return {compress(problem, in.compressed.k, in.phi_k), compress(problem, in.compressed.v, in.phi_v)};
}

template <class T>
struct NsaOutputs {
  Outputs<T> compressed, selected, window;
  Tensor<Sum<T>> o;  // [query tokens, H, dv]
};

/// o = g_cmp o_cmp + g_slc o_slc + g_win o_win. NSA eq. 5.
template <class T>
Tensor<Sum<T>> combine(const Tensor<T>& gates, const Tensor<Sum<T>>& compressed, const Tensor<Sum<T>>& selected,
                       const Tensor<Sum<T>>& window) {
  Tensor<Sum<T>> o(compressed.tokens, compressed.heads, compressed.dim);
  for (std::int64_t token = 0; token < o.tokens; ++token)
    for (std::int64_t h = 0; h < o.heads; ++h)
      for (std::int64_t e = 0; e < o.dim; ++e)
        o(token, h, e) = gates(token, h, 0) * compressed(token, h, e) + gates(token, h, 1) * selected(token, h, e) +
                         gates(token, h, 2) * window(token, h, e);
  return o;
}

/// NSA over given compressed rows and given blocks, which are per kv head.
template <class T>
NsaOutputs<T> nsa(const NsaProblem& problem, const NsaTensors<T>& in, const KeyValues<Sum<T>>& rows,
                  const Lists& blocks) {
  const AttentionProblem& attention = problem.attention;
  NsaOutputs<T> outputs{
      attend(attention, in.q, rows.k, rows.v, compressed_keys(problem)),
      attend(attention, in.q, in.selected.k, in.selected.v, selected_keys(attention, problem.block, blocks)),
      attend(attention, in.q, in.window.k, in.window.v, window_keys(problem)),
      {}};
  outputs.o = combine(in.gates, outputs.compressed.o, outputs.selected.o, outputs.window.o);
  return outputs;
}

/// A linear layer and a sigmoid, which make the gates of a token from its features; or the gradients of that.
template <class Number>
struct GateLayer {
  Tensor<Number> x;  // [query tokens, 1, features]
  Tensor<Number> w;  // [features, H, 3]
  Tensor<Number> b;  // [1, H, 3]
};

/// g = sigmoid(x W + b), [query tokens, H, 3].
template <class T>
Tensor<Sum<T>> gate(const GateLayer<T>& in) {
  Tensor<Sum<T>> gates(in.x.tokens, in.w.heads, in.w.dim);
  for (std::int64_t token = 0; token < in.x.tokens; ++token)
    for (std::int64_t h = 0; h < in.w.heads; ++h)
      for (std::int64_t branch = 0; branch < in.w.dim; ++branch) {
        Sum<T> z;
        for (std::int64_t e = 0; e < in.x.dim; ++e) z += Sum<T>(in.x(token, 0, e)) * in.w(e, h, branch);
        gates(token, h, branch) = sigmoid(z + in.b(0, h, branch));
      }
  return gates;
}

}  // namespace attnspec::oracle
