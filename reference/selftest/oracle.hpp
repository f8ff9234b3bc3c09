// The second oracle: the papers' rules once more, as scalar loops, to test the reference. It shares nothing with
// reference/ but the sizes and parameters of a problem.
//
// Letters: t position of a query in its sequence, h query head, g kv head, d feature, b key block, B tokens of a block,
// K blocks of a query, c = floor(t / B) the query's own block; q k v o do as in the papers, L = lse, sigma = scale;
// P weights, dP and dS the gradients of the weights and of the scores. `key` is the packed token of a key.
//
// T is long double, or std::complex<long double> for complex-step derivatives: every decision reads real parts, and
// nothing on the way from an input to a result is conjugated or made absolute.
// Deliberately not done: tiles, vectors, threads, reuse of anything between two query rows.
#pragma once

#include <algorithm>
#include <cmath>
#include <complex>
#include <cstddef>
#include <cstdint>
#include <limits>
#include <vector>

#include "reference/problem.hpp"

namespace attnspec::oracle {

using reference::AttentionProblem;
using reference::Gate;
using reference::MobaProblem;

inline long double real_part(long double x) { return x; }
inline long double real_part(const std::complex<long double>& x) { return x.real(); }

/// A number and the sum of the absolute values of the terms that were added to make it.
///
/// Let u be the unit roundoff, and let a and b be computed with errors of at most m_a u terms(a) and m_b u terms(b).
/// Then, to first order in u and because terms(x) >= |x|, with an exp and a log accurate to 2u:
///
///     a + b   errs by at most (max(m_a, m_b) + 1) u  (terms(a) + terms(b))
///     a b                     (m_a + m_b + 1) u      (terms(a) terms(b))
///     1 / b                   (m_b + 1) u            (terms(b) / b^2)
///     exp a                   (m_a + 2) u            (exp(a) (1 + terms(a)))
///     log a                   (m_a + 2) u            (|log a| + terms(a) / a)
///
/// The brackets on the right are the terms of the result. A dot product so gets sum |a_i b_i|, a weight exp(s - L) gets
/// its sensitivity to the errors of s and L, and whatever is made of weights inherits it. Exact inputs have m = 0 and
/// terms(x) = |x|. Following m through the equations below, with n keys in a row and r rows at a key, the gradients
/// have the largest, 3 n + max(n, r) + 2 dk + dv + 28, whatever the order of the sums: where this is below 900, 1e-13
/// terms bounds the error of a computation in double. Imaginary parts are infinitesimal and leave terms alone.
template <class T>
struct Sum {
  T value{};
  long double terms = 0;

  Sum() = default;
  Sum(const T& exact) : value(exact), terms(std::abs(real_part(exact))) {}
  Sum(const T& computed, long double sum_of_terms) : value(computed), terms(sum_of_terms) {}

  friend Sum operator+(const Sum& a, const Sum& b) { return {a.value + b.value, a.terms + b.terms}; }
  friend Sum operator-(const Sum& a, const Sum& b) { return {a.value - b.value, a.terms + b.terms}; }
  friend Sum operator*(const Sum& a, const Sum& b) { return {a.value * b.value, a.terms * b.terms}; }
  friend Sum operator/(const Sum& a, const Sum& b) {
    const long double magnitude = std::abs(real_part(b.value));
    return {a.value / b.value, a.terms * b.terms / (magnitude * magnitude)};
  }
  friend Sum exp(const Sum& a) {
    const T power = std::exp(a.value);
    return {power, std::abs(real_part(power)) * (1 + a.terms)};
  }
  friend Sum log(const Sum& a) {
    const T logarithm = std::log(a.value);
    return {logarithm, std::abs(real_part(logarithm)) + a.terms / std::abs(real_part(a.value))};
  }
  Sum& operator+=(const Sum& other) { return *this = *this + other; }
};

/// A packed tensor, [tokens, heads, dim], row-major, zero when made.
template <class T>
struct Tensor {
  std::int64_t tokens = 0, heads = 0, dim = 0;
  std::vector<T> values;

  Tensor() = default;
  Tensor(std::int64_t num_tokens, std::int64_t num_heads, std::int64_t num_features)
      : tokens(num_tokens),
        heads(num_heads),
        dim(num_features),
        values(static_cast<std::size_t>(num_tokens * num_heads * num_features)) {}

  T& operator()(std::int64_t token, std::int64_t head, std::int64_t d) { return values[index(token, head, d)]; }
  const T& operator()(std::int64_t token, std::int64_t head, std::int64_t d) const {
    return values[index(token, head, d)];
  }

 private:
  std::size_t index(std::int64_t token, std::int64_t head, std::int64_t d) const {
    return static_cast<std::size_t>((token * heads + head) * dim + d);
  }
};

/// A list of integers for every query row, [tokens, heads]: the blocks it selects, counted within its sequence, or the
/// keys it sees, counted over the packed tensor. heads is Hkv where the query heads of a group share their lists.
struct Lists {
  std::int64_t heads = 1;
  std::vector<std::vector<std::int64_t>> rows;

  Lists(std::int64_t num_tokens, std::int64_t num_heads)
      : heads(num_heads), rows(static_cast<std::size_t>(num_tokens * num_heads)) {}

  std::vector<std::int64_t>& row(std::int64_t token, std::int64_t head) {
    return rows[static_cast<std::size_t>(token * heads + head)];
  }
  const std::vector<std::int64_t>& row(std::int64_t token, std::int64_t head) const {
    return rows[static_cast<std::size_t>(token * heads + head)];
  }
};

/// Where a packed query token stands: its position t, and the keys first_key .. first_key + num_keys - 1 of its
/// sequence, in packed tokens.
struct Place {
  std::int64_t t, first_key, num_keys;
};

/// t = i + T - T_q for the i-th of T_q queries before T keys: the last query stands at the last key. The first queries
/// of a sequence with more queries than keys have t < 0.
inline Place locate(const AttentionProblem& problem, std::int64_t token) {
  std::size_t s = 0;
  while (problem.q_offsets[s + 1] <= token) ++s;
  const std::int64_t num_queries = problem.q_offsets[s + 1] - problem.q_offsets[s];
  const std::int64_t num_keys = problem.k_offsets[s + 1] - problem.k_offsets[s];
  return {token - problem.q_offsets[s] + num_keys - num_queries, problem.k_offsets[s], num_keys};
}

/// g = floor(h / (H / Hkv)).
inline std::int64_t key_head(const AttentionProblem& problem, std::int64_t h) {
  return h / (problem.heads / problem.kv_heads);
}

/// Dense attention: J(t) = { j : j <= t } where causal, every key of the sequence where not. t < 0 and causal: empty.
inline Lists dense_keys(const AttentionProblem& problem) {
  Lists keys(problem.q_offsets.back(), problem.heads);
  for (std::int64_t token = 0; token < problem.q_offsets.back(); ++token) {
    const Place place = locate(problem, token);
    for (std::int64_t h = 0; h < problem.heads; ++h)
      for (std::int64_t j = 0; j < place.num_keys; ++j)
        if (!problem.causal || j <= place.t) keys.row(token, h).push_back(place.first_key + j);
  }
  return keys;
}

/// Attention over given blocks: J(t) = { j : floor(j / B) in I(t), and j <= t where causal }.
///
/// blocks: I(t) per query head or per kv head, in any order; block: B in tokens. Blocks without a visible key add
/// nothing.
inline Lists selected_keys(const AttentionProblem& problem, std::int64_t block, const Lists& blocks) {
  const std::int64_t sharing_heads = problem.heads / blocks.heads;
  Lists keys(problem.q_offsets.back(), problem.heads);
  for (std::int64_t token = 0; token < problem.q_offsets.back(); ++token) {
    const Place place = locate(problem, token);
    for (std::int64_t h = 0; h < problem.heads; ++h) {
      const std::vector<std::int64_t>& selected = blocks.row(token, h / sharing_heads);
      for (std::int64_t j = 0; j < place.num_keys; ++j) {
        const bool is_selected = std::find(selected.begin(), selected.end(), j / block) != selected.end();
        if (is_selected && (!problem.causal || j <= place.t)) keys.row(token, h).push_back(place.first_key + j);
      }
    }
  }
  return keys;
}

/// kbar = (1 / n) sum of n keys of kv head g, [dk]. MoBA report eq. 6. n >= 1.
template <class T>
std::vector<Sum<T>> mean_key(const Tensor<T>& k, std::int64_t first_key, std::int64_t num_keys, std::int64_t g) {
  std::vector<Sum<T>> mean;
  for (std::int64_t d = 0; d < k.dim; ++d) {
    Sum<T> sum;
    for (std::int64_t key = first_key; key < first_key + num_keys; ++key) sum += k(key, g, d);
    mean.push_back(sum / T(static_cast<long double>(num_keys)));
  }
  return mean;
}

/// s_b = <q, kbar_b> for every block of the query's sequence, [ceil(T / B)]: no softmax scale. MoBA report eq. 6.
///
/// Block b holds the tokens bB .. min((b + 1) B, T) - 1, and kbar_b is the mean over those it really has. No keys: no
/// scores.
template <class T>
std::vector<Sum<T>> gate_scores(const MobaProblem& problem, const Tensor<T>& q, const Tensor<T>& k, std::int64_t token,
                                std::int64_t h) {
  const Place place = locate(problem.attention, token);
  std::vector<Sum<T>> scores;
  for (std::int64_t begin = 0; begin < place.num_keys; begin += problem.block) {
    const std::int64_t end = std::min(begin + problem.block, place.num_keys);
    const std::vector<Sum<T>> mean = mean_key(k, place.first_key + begin, end - begin, key_head(problem.attention, h));
    Sum<T> score;
    for (std::int64_t d = 0; d < q.dim; ++d) score += q(token, h, d) * mean[static_cast<std::size_t>(d)];
    scores.push_back(score);
  }
  return scores;
}

/// The `count` blocks with the largest scores among the first `num_candidates`, best first; all of them if there are
/// fewer. Ties: the lower index first.
template <class T>
std::vector<std::int64_t> best_blocks(const std::vector<Sum<T>>& scores, std::int64_t num_candidates,
                                      std::int64_t count) {
  std::vector<std::int64_t> best, remaining;
  for (std::int64_t b = 0; b < num_candidates; ++b) remaining.push_back(b);
  while (!remaining.empty() && static_cast<std::int64_t>(best.size()) < count) {
    auto leader = remaining.begin();
    for (auto b = remaining.begin(); b != remaining.end(); ++b)
      if (real_part(scores[static_cast<std::size_t>(*b)].value) >
          real_part(scores[static_cast<std::size_t>(*leader)].value))
        leader = b;
    best.push_back(*leader);
    remaining.erase(leader);
  }
  return best;
}

/// The gates that do not look: window I(t) = {c - K + 1 .. c}, sink I(t) = {0} u {c - K + 2 .. c}, both within [0, c].
inline std::vector<std::int64_t> recent_blocks(Gate gate, std::int64_t c, std::int64_t top_k) {
  std::vector<std::int64_t> blocks;
  for (std::int64_t b = 0; b <= c; ++b) {
    const bool is_in_window = b >= c - top_k + 1;
    const bool is_in_sink = b == 0 || b >= c - top_k + 2;
    if (gate == Gate::window ? is_in_window : is_in_sink) blocks.push_back(b);
  }
  return blocks;
}

/// I(t) of MoBA, ascending: the own block c and the min(K - 1, c) best of the blocks 0 .. c - 1. MoBA report eq. 5 and
/// 7 and footnote 3, by which K counts the own block.
///
/// scores: gate_scores of the row. Not causal: no block is forced, and the min(K, n) best of all n are taken. t < 0 and
/// causal, or no keys: empty.
template <class T>
std::vector<std::int64_t> select_blocks(const MobaProblem& problem, const std::vector<Sum<T>>& scores, std::int64_t t) {
  std::vector<std::int64_t> blocks;
  if (!problem.attention.causal) {
    blocks = best_blocks(scores, static_cast<std::int64_t>(scores.size()), problem.top_k);
  } else if (t >= 0) {
    const std::int64_t c = t / problem.block;
    if (problem.gate != Gate::top_k) return recent_blocks(problem.gate, c, problem.top_k);
    blocks = best_blocks(scores, c, problem.top_k - 1);
    blocks.push_back(c);
  }
  std::sort(blocks.begin(), blocks.end());
  return blocks;
}

/// The blocks of every query row and query head under MoBA.
///
/// q [query tokens, H, dk]; k [key tokens, Hkv, dk].
template <class T>
Lists moba_blocks(const MobaProblem& problem, const Tensor<T>& q, const Tensor<T>& k) {
  Lists blocks(q.tokens, q.heads);
  for (std::int64_t token = 0; token < q.tokens; ++token)
    for (std::int64_t h = 0; h < q.heads; ++h)
      blocks.row(token, h) =
          select_blocks(problem, gate_scores(problem, q, k, token, h), locate(problem.attention, token).t);
  return blocks;
}

/// sum_d a_d b_d over the features of one row of each tensor, of numbers T or Sum<T>.
template <class T, class A, class B>
Sum<T> dot(const Tensor<A>& a, std::int64_t a_token, std::int64_t a_head, const Tensor<B>& b, std::int64_t b_token,
           std::int64_t b_head) {
  Sum<T> sum;
  for (std::int64_t d = 0; d < a.dim; ++d) sum += Sum<T>(a(a_token, a_head, d)) * b(b_token, b_head, d);
  return sum;
}

/// sigma <q, k>, in nats.
template <class T, class Number>
Sum<T> score(const AttentionProblem& problem, const Tensor<T>& q, const Tensor<Number>& k, std::int64_t token,
             std::int64_t h, std::int64_t key) {
  return T(static_cast<long double>(problem.scale)) * dot<T>(q, token, h, k, key, key_head(problem, h));
}

/// L = log sum_j exp(s_j) = m + log sum_j exp(s_j - m), in nats. The identity holds for any number m, so that the
/// largest score serves without an error of its own. No scores: -infinity, without terms.
template <class T>
Sum<T> log_sum_exp(const std::vector<Sum<T>>& scores) {
  if (scores.empty()) return {T(-std::numeric_limits<long double>::infinity()), 0};
  long double largest = real_part(scores.front().value);
  for (const Sum<T>& s : scores) largest = std::max(largest, real_part(s.value));
  Sum<T> sum;
  for (const Sum<T>& s : scores) sum += exp(s - T(largest));
  return T(largest) + log(sum);
}

template <class T>
struct Outputs {
  Tensor<Sum<T>> o;    // [query tokens, H, dv]
  Tensor<Sum<T>> lse;  // [query tokens, H, 1], in nats
};

/// o = sum_j exp(s_j - L) v_j over the keys a row sees, with s_j = sigma <q, k_j>.
///
/// q [query tokens, H, dk]; k [key tokens, Hkv, dk]; v [key tokens, Hkv, dv], of numbers T or Sum<T>; keys per query
/// head. A row that sees no key: o = 0, L = -infinity.
template <class T, class Number>
Outputs<T> attend(const AttentionProblem& problem, const Tensor<T>& q, const Tensor<Number>& k, const Tensor<Number>& v,
                  const Lists& keys) {
  Outputs<T> outputs{{q.tokens, q.heads, v.dim}, {q.tokens, q.heads, 1}};
  for (std::int64_t token = 0; token < q.tokens; ++token)
    for (std::int64_t h = 0; h < q.heads; ++h) {
      std::vector<Sum<T>> scores;
      for (const std::int64_t key : keys.row(token, h)) scores.push_back(score(problem, q, k, token, h, key));
      const Sum<T> lse = log_sum_exp(scores);
      outputs.lse(token, h, 0) = lse;
      for (std::size_t n = 0; n < scores.size(); ++n) {
        const Sum<T> weight = exp(scores[n] - lse);
        const std::int64_t key = keys.row(token, h)[n];
        for (std::int64_t d = 0; d < v.dim; ++d) outputs.o(token, h, d) += weight * v(key, key_head(problem, h), d);
      }
    }
  return outputs;
}

template <class T>
struct Gradients {
  Tensor<Sum<T>> dq;  // [query tokens, H, dk]
  Tensor<Sum<T>> dk;  // [key tokens, Hkv, dk], summed over the query heads of the group
  Tensor<Sum<T>> dv;  // [key tokens, Hkv, dv], summed likewise
};

/// With the keys of every row frozen, delta = <do, o> and, for the keys j a row sees, P_j = exp(s_j - L),
/// dP_j = <do, v_j>, dS_j = P_j (dP_j - delta):
///
///     dq = sigma sum_j dS_j k_j;   dk_j = sigma sum over rows of dS_j q;   dv_j = sum over rows of P_j do
///
/// d_o [query tokens, H, dv], of numbers T or Sum<T> like k and v; outputs: the o and L the backward is given. Their
/// terms are |o| and |L| where they are data, and attend's where the gradients stand for those of q, k and v alone. A
/// row that sees no key adds nothing; a key that no row sees has gradient 0.
template <class T, class Number, class OutputNumber>
Gradients<T> attend_backward(const AttentionProblem& problem, const Tensor<T>& q, const Tensor<Number>& k,
                             const Tensor<Number>& v, const Lists& keys, const Tensor<OutputNumber>& d_o,
                             const Outputs<T>& outputs) {
  const T sigma(static_cast<long double>(problem.scale));
  Gradients<T> sum{{q.tokens, q.heads, q.dim}, {k.tokens, k.heads, k.dim}, {v.tokens, v.heads, v.dim}};
  for (std::int64_t token = 0; token < q.tokens; ++token)
    for (std::int64_t h = 0; h < q.heads; ++h) {
      const std::int64_t g = key_head(problem, h);
      const Sum<T> delta = dot<T>(d_o, token, h, outputs.o, token, h);
      for (const std::int64_t key : keys.row(token, h)) {
        const Sum<T> weight = exp(score(problem, q, k, token, h, key) - outputs.lse(token, h, 0));
        const Sum<T> d_score = weight * (dot<T>(d_o, token, h, v, key, g) - delta);
        for (std::int64_t d = 0; d < q.dim; ++d) sum.dq(token, h, d) += sigma * d_score * k(key, g, d);
        for (std::int64_t d = 0; d < k.dim; ++d) sum.dk(key, g, d) += sigma * d_score * q(token, h, d);
        for (std::int64_t d = 0; d < v.dim; ++d) sum.dv(key, g, d) += weight * d_o(token, h, d);
      }
    }
  return sum;
}

}  // namespace attnspec::oracle
