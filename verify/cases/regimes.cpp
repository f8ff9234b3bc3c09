#include "verify/cases/regimes.hpp"

#include <fmt/format.h>
#include <fmt/ranges.h>

#include <algorithm>
#include <cmath>
#include <numeric>
#include <span>

#include "verify/cases/inputs/captured.hpp"
#include "verify/cases/inputs/filling.hpp"
#include "verify/cases/inputs/magnitudes.hpp"
#include "verify/cases/inputs/plain_numbers.hpp"
#include "verify/cases/random.hpp"
#include "verify/operators/operator.hpp"

namespace attnspec::verify {

namespace {

using reference::InvalidProblem;
using reference::Selection;
using reference::Sequence;
using reference::Tensor;

/// Position of each row of k within its sequence.
std::vector<std::int64_t> key_positions(const Case& c) {
  std::vector<std::int64_t> positions;
  for (const std::int64_t length : key_rows(c))
    for (std::int64_t j = 0; j < length; ++j) positions.push_back(j);
  return positions;
}

/// The block length, in rows of k, that the regimes which shape blocks use; also of operators that have none of their
/// own.
std::int64_t block_of(const Case& c) {
  if (key_rows(c.op) == RowsOf::compressed_rows) return c.block / c.compress_stride;
  if (key_rows(c.op) == RowsOf::complete_blocks) return 1;
  if (!has_queries(c.op)) return c.compress_block;
  return has_blocks(c.op) ? c.block : 16;
}

void fill_tie(const Case& c, Inputs& in) {
  fill_scaled(c, in, 1, 1, 1, 1);
  const Random choice(c.seed, "tie"), grid(c.seed, "grid"), query(c.seed, "tie query");
  const auto positions = key_positions(c);
  fill(c, in.k, [&](std::int64_t token, std::int64_t head, std::int64_t d) {  // one of three keys for a whole block
    const std::int64_t b = positions[static_cast<std::size_t>(token)] / block_of(c);
    const std::int64_t prototype = choice.below(3, static_cast<std::uint64_t>(b));
    return 0.5 * static_cast<double>(
                     grid.below(5, static_cast<std::uint64_t>((prototype * c.kv_heads + head) * c.dk + d)) - 2);
  });
  fill(c, in.q, [&](std::int64_t token, std::int64_t head, std::int64_t d) {
    return 0.5 *
           static_cast<double>(query.below(5, static_cast<std::uint64_t>((token * c.heads + head) * c.dk + d)) - 2);
  });
}

void fill_near_tie(const Case& c, Inputs& in) {
  fill_scaled(c, in, 1, 1, 1, 1);
  const Random common(c.seed, "common"), pair(c.seed, "pair"), nudge(c.seed, "nudge");
  const auto positions = key_positions(c);
  const double ulp = 2 * reference::unit_roundoff(c.dtype);
  fill(c, in.k, [&](std::int64_t token, std::int64_t head, std::int64_t d) {
    const std::int64_t j = positions[static_cast<std::size_t>(token)], b = j / block_of(c), within = j % block_of(c);
    // Neighbours differ by +-1/4 around 1 or 1.25, which cancels in the mean; 2^-4 ... 2^4 of a block's keys are one
    // unit in the last place larger in one feature, so that means differ by less and by more than their rounding.
    const double base = 1 + 0.25 * static_cast<double>(common.below(2, static_cast<std::uint64_t>(head * c.dk + d)));
    const bool sign = pair.bits(static_cast<std::uint64_t>((b * 4096 + within / 2) * c.dk + d)) & 1;
    const double paired = within / 2 * 2 + 1 < block_of(c) ? (sign == (within % 2 == 0) ? 0.25 : -0.25) : 0;
    const std::int64_t nudged = std::int64_t{1} << nudge.below(5, static_cast<std::uint64_t>(b));
    const bool is_nudged = within < nudged && d == nudge.below(c.dk, static_cast<std::uint64_t>(b) + (1u << 20));
    return base + paired + (is_nudged ? ulp : 0);
  });
}

void fill_very_negative(const Case& c, Inputs& in) {
  fill_scaled(c, in, 1, 1, 1, 1);
  const Random q(c.seed, "q"), k(c.seed, "k"), base(c.seed, "base");
  const auto sign = [&](std::int64_t g, std::int64_t d) {
    return base.bits(static_cast<std::uint64_t>(g * c.dk + d)) & 1 ? 1.0 : -1.0;
  };
  fill(c, in.q, [&](std::int64_t token, std::int64_t head, std::int64_t d) {
    return 16 * sign(head / (c.heads / c.kv_heads), d) +
           q.normal(static_cast<std::uint64_t>((token * c.heads + head) * c.dk + d));
  });
  fill(c, in.k, [&](std::int64_t token, std::int64_t head, std::int64_t d) {
    return -64 * sign(head, d) + k.normal(static_cast<std::uint64_t>((token * c.kv_heads + head) * c.dk + d));
  });
}

void fill_token_tagged(const Case& c, Inputs& in) {
  fill_scaled(c, in, 1, 1, 1, 1);
  const auto positions = key_positions(c);
  fill(c, in.v, [&](std::int64_t token, std::int64_t, std::int64_t d) {
    return 1.0 + static_cast<double>(positions[static_cast<std::size_t>(token)] >> (d % 12) & 1);
  });
  fill(c, in.d_o, [](std::int64_t, std::int64_t, std::int64_t) { return 1.0; });
}

void fill_cancelling_means(const Case& c, Inputs& in) {
  fill_scaled(c, in, 1, 1, 1, 1);
  const Random common(c.seed, "common"), rest(c.seed, "rest");
  const auto positions = key_positions(c);
  fill(c, in.k, [&](std::int64_t token, std::int64_t head, std::int64_t d) {
    const std::int64_t j = positions[static_cast<std::size_t>(token)], b = j / block_of(c), within = j % block_of(c);
    const auto at = [&](std::int64_t row) { return static_cast<std::uint64_t>((row * c.kv_heads + head) * c.dk + d); };
    return (within % 2 == 0 ? 4 : -4) * common.normal(at(b)) + 0.0625 * rest.normal(at(token));
  });
}

void fill_descending_magnitude(const Case& c, Inputs& in) {
  fill_scaled(c, in, 1, 1, 1, 1);
  const auto positions = key_positions(c);
  const auto factor = [&](std::int64_t token) {
    return reference::power_of_two(3 - static_cast<int>(positions[static_cast<std::size_t>(token)] / block_of(c) % 12));
  };
  fill_normal_times(c, in.k, "k", factor);
  fill_normal_times(c, in.v, "v", factor);
}

void fill_head_tagged(const Case& c, Inputs& in) {
  fill_scaled(c, in, 1, 1, 1, 1);
  fill(c, in.v, [](std::int64_t, std::int64_t head, std::int64_t d) { return 1.0 + head % 7 + 0.5 * (d % 2); });
  fill(c, in.d_o, [](std::int64_t, std::int64_t head, std::int64_t d) { return 1.0 + head % 5 - 4.0 * (d % 2); });
}

void fill_constant_keys(const Case& c, Inputs& in) {
  fill_scaled(c, in, 1, 1, 1, 1);
  const Random key(c.seed, "key");
  fill(c, in.k, [&](std::int64_t, std::int64_t head, std::int64_t d) {
    return key.normal(static_cast<std::uint64_t>(head * c.dk + d));
  });
}

void fill_repeated_tokens(const Case& c, Inputs& in) {
  const Random prototype(c.seed, "prototype");
  const auto repeat = [&](Tensor& tensor, const char* stream) {
    const Random random(c.seed, stream);
    fill(c, tensor, [&](std::int64_t token, std::int64_t head, std::int64_t d) {
      const std::int64_t row = prototype.below(3, static_cast<std::uint64_t>(token));
      return random.normal(static_cast<std::uint64_t>((row * tensor.heads + head) * tensor.dim + d));
    });
  };
  repeat(in.q, "q");
  repeat(in.k, "k");
  repeat(in.v, "v");
  repeat(in.d_o, "do");
}

bool selects_blocks(Operator op) { return selects(op) || has_importance(op); }
bool has_block_means(Operator op) { return selects_blocks(op) && !has_indexer(op); }

/// The size of all of a key's features that adds `score` to its scores with a query of ones, as far as the dtype and
/// products in fp32 hold it.
double for_score(const Case& c, double score) {
  const double largest = reference::power_of_two(c.dtype == Format::fp16 ? 14 : 96);
  return std::clamp(score / (c.scale * static_cast<double>(c.dk)), -largest, largest);
}

void fill_levers(const Case& c, Inputs& in) {
  fill_scaled(c, in, 1, 1, 1, 1);
  constexpr double kLightness = 7, kLever = 0x1p10;  // e^-7 2^10 = 0.93: a light block matters as much as another
  const Random base(c.seed, "base"), q(c.seed, "q"), k(c.seed, "k"), v(c.seed, "v");
  const auto positions = key_positions(c);
  const auto sign = [&](std::int64_t g, std::int64_t d) {
    return base.bits(static_cast<std::uint64_t>(g * c.dk + d)) & 1 ? 1.0 : -1.0;
  };
  const auto is_light = [&](std::int64_t token) {
    return positions[static_cast<std::size_t>(token)] / block_of(c) % 3 == 1;
  };
  const double shift = c.scale == 0 ? 0 : -for_score(c, kLightness);
  fill(c, in.q, [&](std::int64_t token, std::int64_t head, std::int64_t d) {
    return sign(head / (c.heads / c.kv_heads), d) +
           q.normal(static_cast<std::uint64_t>((token * c.heads + head) * c.dk + d));
  });
  fill(c, in.k, [&](std::int64_t token, std::int64_t head, std::int64_t d) {
    return (is_light(token) ? shift * sign(head, d) : 0) +
           k.normal(static_cast<std::uint64_t>((token * c.kv_heads + head) * c.dk + d));
  });
  fill(c, in.v, [&](std::int64_t token, std::int64_t head, std::int64_t d) {
    return (is_light(token) ? kLever : 1) *
           v.normal(static_cast<std::uint64_t>((token * c.kv_heads + head) * c.dv + d));
  });
}

/// One sign for every feature of a kv head, or of one of several directions it has.
double sign_of(const Random& random, std::int64_t kv_head, std::int64_t direction, std::int64_t d) {
  return random.bits(static_cast<std::uint64_t>((kv_head * 64 + direction) * 4096 + d)) & 1 ? 1 : -1;
}

void fill_edge_spike(const Case& c, Inputs& in) {
  fill_scaled(c, in, 1, 1, 1, 1);
  constexpr double kScore = 12;  // of the spike: e^12 times the weight of a key of score 0
  const Random base(c.seed, "base"), q(c.seed, "q"), k(c.seed, "k"), choice(c.seed, "edge");
  const auto positions = key_positions(c);
  // From the start of the compression block that reaches over the edge, or the last key before it.
  const std::int64_t edge = block_of(c) * (1 + choice.below(3, 0));
  const std::int64_t first = edge - (compresses(c.op) ? c.compress_stride : 1);
  const std::int64_t end = first + (compresses(c.op) ? c.compress_block : 1);
  const double shift = c.scale == 0 ? 1 : for_score(c, kScore);
  fill(c, in.q, [&](std::int64_t token, std::int64_t head, std::int64_t d) {
    return sign_of(base, head / (c.heads / c.kv_heads), 0, d) +
           0.25 * q.normal(static_cast<std::uint64_t>((token * c.heads + head) * c.dk + d));
  });
  fill(c, in.k, [&](std::int64_t token, std::int64_t head, std::int64_t d) {
    const std::int64_t j = positions[static_cast<std::size_t>(token)];
    return (first <= j && j < end ? shift * sign_of(base, head, 0, d) : 0) +
           k.normal(static_cast<std::uint64_t>((token * c.kv_heads + head) * c.dk + d));
  });
}

void fill_disagreeing_heads(const Case& c, Inputs& in) {
  fill_scaled(c, in, 1, 1, 1, 1);
  const Random base(c.seed, "base"), q(c.seed, "q"), k(c.seed, "k");
  const auto positions = key_positions(c);
  const std::int64_t group = c.heads / c.kv_heads, directions = std::max<std::int64_t>(2, group);
  fill(c, in.q, [&](std::int64_t token, std::int64_t head, std::int64_t d) {
    return sign_of(base, head / group, head % group, d) +
           0.5 * q.normal(static_cast<std::uint64_t>((token * c.heads + head) * c.dk + d));
  });
  fill(c, in.k, [&](std::int64_t token, std::int64_t head, std::int64_t d) {
    const std::int64_t b = positions[static_cast<std::size_t>(token)] / block_of(c);
    return sign_of(base, head, b % directions, d) +
           0.5 * k.normal(static_cast<std::uint64_t>((token * c.kv_heads + head) * c.dk + d));
  });
}

bool has_head_weights(Operator op) { return find_tensor(op, "w") != nullptr; }

/// Two heads have the same query, and weights that add up to between 2^-11 and 2^-8 of either. Without weights: normal.
void fill_cancelling_weights(const Case& c, Inputs& in) {
  fill_scaled(c, in, 1, 1, 1, 1);
  if (!has_head_weights(c.op)) return;
  const Random rest(c.seed, "rest");
  for (std::int64_t token = 0; token < in.q.tokens; ++token)
    for (std::int64_t head = 1; head < in.q.heads; head += 2) {
      in.q.row(token, head) = in.q.row(token, head - 1);
      const auto bits = static_cast<int>(rest.below(4, static_cast<std::uint64_t>(token * in.q.heads + head)));
      double* w = in.w.at(token, 0);
      w[head] = reference::round_to(-w[head - 1] * (1 - reference::power_of_two(bits - 11)), Format::fp32);
    }
}

/// Puts the blocks of a row in the order that the case has.
void arrange(SelectionOrder order, std::int64_t own_block, std::span<std::int32_t> row) {
  if (order == SelectionOrder::any) return;
  const auto end = std::stable_partition(row.begin(), row.end(), [](std::int32_t block) { return block != -1; });
  if (order == SelectionOrder::packed) return;
  std::sort(row.begin(), end);
  if (order == SelectionOrder::own_last)
    std::stable_partition(row.begin(), end, [&](std::int32_t block) { return block != own_block; });
}

/// Random blocks in random slots: the query's own block in most rows, any number of others from none to all that fit,
/// empty slots anywhere, some rows empty; or in the order that the case has.
Selection make_selection(const Case& c) {
  const reference::MobaProblem problem = problem_of(c);
  const Random random(c.seed, "selection");
  Selection selection(problem.attention.q_offsets.back(), c.shared_selection ? c.kv_heads : c.heads, c.top_k);
  std::uint64_t index = 0;
  for (const Sequence& sequence : reference::sequences(problem.attention)) {
    const std::int64_t blocks = reference::num_blocks(sequence.num_keys(), c.block);
    for (std::int64_t token = sequence.q_begin; token < sequence.q_end; ++token) {
      for (std::int64_t head = 0; head < selection.heads; ++head) {
        const std::int64_t t = sequence.position(token);
        const std::int64_t candidates = !c.causal ? blocks : t < 0 ? 0 : t / c.block + 1;
        const auto row = selection.row(token, head);
        const std::int64_t most = std::min(candidates, c.top_k);
        std::int64_t wanted = random.below(8, index++) == 0 ? random.below(most + 1, index++) : most;
        const std::int64_t own_block = t / c.block;
        const bool needs_own = c.selection_order == SelectionOrder::own_last && t >= 0 && own_block < candidates;
        if (needs_own) row[0] = static_cast<std::int32_t>(own_block), wanted = std::max<std::int64_t>(0, wanted - 1);
        for (std::int64_t b = candidates - 1; b >= 0 && wanted > 0; --b) {
          if (needs_own && b == own_block) continue;
          if (b < candidates - 1 && random.below(b + 1, index++) >= wanted) continue;  // the rest must still fit
          auto slot = static_cast<std::size_t>(random.below(c.top_k, index++));
          while (row[slot] != -1) slot = (slot + 1) % row.size();
          row[slot] = static_cast<std::int32_t>(b);
          --wanted;
        }
        arrange(c.selection_order, own_block, row);
      }
    }
  }
  return selection;
}

}  // namespace

const std::vector<Regime>& regimes() {
  static const std::vector<Regime> all{
      {.name = "normal",
       .mistake = "independent normal numbers: the plain case; a wrong key shows in every output",
       .fill = [](const Case& c, Inputs& in) { fill_scaled(c, in, 1, 1, 1, 1); },
       .zero_mean_values = true},
      {.name = "diffuse",
       .mistake =
           "queries eight times smaller, all weights nearly equal: a missing key shows, one block too many shows",
       .fill = [](const Case& c, Inputs& in) { fill_scaled(c, in, 0.125, 1, 1, 1); },
       .zero_mean_values = true},
      {.name = "spiky",
       .mistake = "queries four times larger, a few keys carry each row: a leaked key and a lost maximum show",
       .fill = [](const Case& c, Inputs& in) { fill_scaled(c, in, 4, 1, 1, 1); },
       .zero_mean_values = true},
      {.name = "tie",
       .mistake = "keys equal within a block and between blocks, on a dyadic grid: top-k must keep its count, no "
                  "margin hides it",
       .fill = fill_tie,
       .exact_scores = true},
      {.name = "near_tie",
       .mistake = "mean keys that differ by less and by more than their rounding: selection by scores of too little "
                  "precision",
       .fill = fill_near_tie,
       .has = selects_blocks},
      {.name = "large",
       .mistake = "large magnitudes, one-hot weights: overflow in scores, in exp and in sums",
       .fill = [](const Case& c, Inputs& in) { fill_scaled(c, in, 4, 4, 16, 8); }},
      {.name = "very_negative",
       .mistake = "all scores around -8000: a finite mask value, a running maximum that starts at 0",
       .fill = fill_very_negative},
      {.name = "token_tagged",
       .mistake = "values spell the key's position over a mean of 1, do = 1: keys swapped or counted twice, rows "
                  "normalised wrongly",
       .fill = fill_token_tagged,
       .has = has_gradients},
      {.name = "head_tagged",
       .mistake = "values and do are the same for every token of a head and name it: heads swapped, weights that do "
                  "not sum to 1",
       .fill = fill_head_tagged,
       .has = has_gradients},
      {.name = "constant_keys",
       .mistake = "all keys of a head are equal: weights are 1 / n, so that lse and o count the keys",
       .fill = fill_constant_keys},
      {.name = "repeated_tokens",
       .mistake = "three different tokens only, again and again: sums of equal terms, keys that are told apart by "
                  "their value",
       .fill = fill_repeated_tokens},
      {.name = "cancelling_means",
       .mistake = "large keys that cancel in their block's mean: means summed in too little precision",
       .fill = fill_cancelling_means,
       .has = has_block_means},
      {.name = "descending_magnitude",
       .mistake = "keys and values that halve from block to block: a maximum taken from the last block, merges "
                  "without rescaling",
       .fill = fill_descending_magnitude},
      {.name = "levers",
       .mistake = "blocks of little weight with values 2^10 times larger: light blocks skipped",
       .fill = fill_levers},
      {.name = "edge_spike",
       .mistake = "nearly all weight lies on one key, or one compression block, at a block's edge: edges off by one, "
                  "importance credited to one of two blocks",
       .fill = fill_edge_spike},
      {.name = "disagreeing_heads",
       .mistake = "every head of a group wants other blocks: one head that decides for all",
       .fill = fill_disagreeing_heads,
       .has = selects_blocks},
      {.name = "underflow",
       .mistake = "scores spread over hundreds: all weights but one vanish, most importances are 0 in fp32",
       .fill = [](const Case& c, Inputs& in) { fill_scaled(c, in, 16, 16, 1, 1); }},
      {.name = "subnormal",
       .mistake = "values at the smallest normal number: results flushed to zero, gradients that vanish",
       .fill = fill_subnormal,
       .has = has_gradients},
      {.name = "smallest",
       .mistake = "every tensor around the smallest normal number: products flushed to zero, scores that seem to tie",
       .fill = fill_smallest},
      {.name = "largest_values",
       .mistake = "values as large as the format and the sums of a correct kernel hold: outputs and sums in fp16",
       .fill = fill_largest_values,
       .has = has_gradients},
      {.name = "largest_gradients",
       .mistake = "a row of do as large as the format and the sums hold: gradients in fp16",
       .fill = fill_largest_gradients,
       .has = has_gradients},
      {.name = "largest_keys",
       .mistake = "keys or queries as large as the format and the sums hold, with scores about 1: means, scaled keys "
                  "and products that overflow before they are scaled",
       .fill = fill_largest_keys,
       .has = has_queries},
      {.name = "wide_gates",
       .mistake = "gates that no sigmoid makes, negative or up to 100: gates clamped, or taken for weights",
       .fill = [](const Case& c, Inputs& in) { fill_scaled(c, in, 1, 1, 1, 1); },
       .has = has_branches,
       .any_gates = true},
      {.name = "cancelling_weights",
       .mistake = "index heads in pairs whose weights nearly cancel: weights in 16 bits, heads added in 16 bits",
       .fill = fill_cancelling_weights,
       .has = has_head_weights},
      {.name = kCaptured,
       .mistake = "captured:NAME, activations of a trained model: what random numbers never look like",
       .fill = fill_captured},
  };
  return all;
}

const Regime& regime_of(const Case& c) {
  const std::string stem = c.regime.substr(0, c.regime.find(':'));
  std::vector<std::string> names;
  for (const Regime& regime : regimes()) {
    const bool is_captured = regime.name == std::string(kCaptured);
    if (stem == regime.name && is_captured == (stem.size() < c.regime.size())) return regime;
    names.push_back(fmt::format("{}{}", regime.name, is_captured ? ":NAME" : ""));
  }
  throw InvalidProblem("regime", c.regime, fmt::format("is none of {}", fmt::join(names, ", ")));
}

bool has_exact_scores(const Case& c) { return regime_of(c).exact_scores && c.numbers.empty(); }
bool has_zero_mean_values(const Case& c) { return regime_of(c).zero_mean_values && c.numbers.empty(); }

void validate_regime(const Case& c) {
  if (regime_of(c).name != std::string(kCaptured)) return;
  validate_captured(c);
}

namespace {

/// Weights of index heads, of any sign; one in eight is 0.
Tensor make_weights(const Case& c, std::int64_t tokens) {
  Tensor w(tokens, 1, c.heads);
  const Random random(c.seed, "w"), kind(c.seed, "w kind");
  for (std::size_t i = 0; i < w.values.size(); ++i)
    w.values[i] = kind.below(8, i) == 0 ? 0 : reference::round_to(random.normal(i), Format::fp32);
  return w;
}

/// q, k, v, do and w as the regime has them.
Inputs make_attention_inputs(const Case& c) {
  const auto sum = [](const std::vector<std::int64_t>& rows) {
    return std::accumulate(rows.begin(), rows.end(), std::int64_t{0});
  };
  const bool compresses_only = !has_queries(c.op);
  Inputs inputs;
  inputs.q = Tensor(sum(row_counts(c, RowsOf::queries)), c.heads, c.dk);
  inputs.k = Tensor(sum(key_rows(c)), c.kv_heads, c.dk);
  inputs.v = Tensor(compresses_only ? 0 : inputs.k.tokens, c.kv_heads, c.dv);
  inputs.d_o = Tensor(sum(gradient_rows(c)), compresses_only ? c.kv_heads : c.heads, compresses_only ? c.dk : c.dv);
  if (has_head_weights(c.op)) inputs.w = make_weights(c, inputs.q.tokens);
  regime_of(c).fill(c, inputs);
  return inputs;
}

/// Weights that keep the magnitude of what they map; biases and position encodings smaller than that.
PhiTensors<Tensor> make_phi(const Case& c, const char* stream, std::int64_t features) {
  PhiTensors<Tensor> phi = zero_parameters(nsa_problem_of(c), features);
  for (const auto& [name, tensor] : kPhiParts<Tensor>) {
    Tensor& parameters = phi.*tensor;
    const bool is_weight = name[0] == 'w';
    fill_normal(c, parameters, fmt::format("{} {}", stream, name).c_str(),
                is_weight ? 1 / std::sqrt(static_cast<double>(std::max<std::int64_t>(1, parameters.tokens))) : 0.25);
  }
  return phi;
}

/// Gates after their sigmoid; one in eight is closed, one in eight wide open. Or any: most are then of a size that no
/// sigmoid has.
Tensor make_gates(const Case& c, std::int64_t tokens) {
  Tensor gates(tokens, c.heads, 3);
  const Random random(c.seed, "gates"), kind(c.seed, "gate kind");
  constexpr double kAny[] = {0, 1, -1, -0.25, 3, 100};
  const bool any = regime_of(c).any_gates;
  fill(c, gates, [&](std::int64_t token, std::int64_t head, std::int64_t branch) {
    const auto index = static_cast<std::uint64_t>((token * c.heads + head) * 3 + branch);
    const std::int64_t drawn = kind.below(8, index);
    if (any) return drawn < std::ssize(kAny) ? kAny[drawn] : 2 * random.normal(index);
    return drawn < 2 ? static_cast<double>(drawn) : 1 / (1 + std::exp(-random.normal(index)));
  });
  return gates;
}

/// All tensors, as the regime has them.
Inputs make_pattern_inputs(const Case& c) {
  Inputs inputs = make_attention_inputs(c);
  if (reads_selection(c.op)) inputs.selection = make_selection(c);
  if (compresses(c.op)) inputs.phi_k = make_phi(c, "phi_k", c.dk);
  if (!has_branches(c.op)) return inputs;
  inputs.phi_v = make_phi(c, "phi_v", c.dv);
  inputs.gates = make_gates(c, inputs.q.tokens);
  const auto fill_branch = [&](std::uint64_t offset, Tensor& k, Tensor& v) {
    Case branch = c;
    if (!c.shared_kv) branch.seed += offset * kSeedsOfABranch;
    Inputs of_branch = make_attention_inputs(branch);
    k = std::move(of_branch.k);
    v = std::move(of_branch.v);
  };
  fill_branch(1, inputs.k_selected, inputs.v_selected);
  fill_branch(2, inputs.k_window, inputs.v_window);
  return inputs;
}

}  // namespace

Inputs make_inputs(const Case& c) {
  Inputs inputs = make_pattern_inputs(c);
  fill_plain_numbers(c, inputs);
  return inputs;
}

}  // namespace attnspec::verify
