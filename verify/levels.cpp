#include "verify/levels.hpp"

#include <algorithm>
#include <cstdint>
#include <functional>
#include <set>
#include <string>
#include <tuple>

#include "verify/laws/laws.hpp"
#include "verify/random.hpp"
#include "verify/regimes.hpp"

namespace attnspec::verify {

namespace {

using reference::Gate;

/// An axis of the cases: each value is a way to change a case.
using Axis = std::vector<std::function<void(Case&)>>;

void set_lengths(Case& c, std::int64_t block, std::vector<std::int64_t> lens, std::vector<std::int64_t> q_lens = {}) {
  c.block = block;
  c.q_lens = q_lens.empty() ? lens : std::move(q_lens);
  c.lens = std::move(lens);
}

template <class... Arguments>
std::function<void(Case&)> lengths(Arguments... arguments) {
  return [=](Case& c) { set_lengths(c, arguments...); };
}

using Lens = std::vector<std::int64_t>;

Axis shape_axis(Operator op) {
  if (op == Operator::nsa)  // thirty tensors: fewer and shorter sequences; its blocks come with its other rules
    return {lengths(64, Lens{1}),
            lengths(64, Lens{15, 16, 17}),
            lengths(64, Lens{64, 0, 1, 93}),
            lengths(64, Lens{1, 1, 1, 0, 1, 40, 0}),
            lengths(64, Lens{130}),
            lengths(64, Lens{93, 64}, Lens{1, 33}),
            lengths(64, Lens{60, 40, 0}, Lens{80, 41, 3})};
  return {
      lengths(16, Lens{1}),                             // one token
      lengths(16, Lens{15, 16, 17}),                    // around one block
      lengths(32, Lens{64, 0, 1, 193}),                 // an empty sequence in the middle
      lengths(8, Lens{1, 1, 1, 0, 1, 40, 0}),           // many single tokens, an empty sequence last
      lengths(1, Lens{100}),                            // blocks of one token
      lengths(2, Lens{260}),                            // more than 128 blocks
      lengths(100, Lens{201}),                          // blocks that are no power of two
      lengths(512, Lens{50}),                           // a block larger than the sequence
      lengths(32, Lens{193, 64}, Lens{1, 33}),          // fewer queries than keys: decode, chunked prefill
      lengths(32, Lens{100, 40, 0}, Lens{120, 41, 3}),  // more queries than keys: rows that see nothing
  };
}

Axis head_axis() {
  Axis axis;
  for (const auto& [heads, kv_heads] : {std::pair{1, 1}, {2, 2}, {2, 1}, {3, 1}, {4, 2}})
    axis.push_back([heads = heads, kv_heads = kv_heads](Case& c) { c.heads = heads, c.kv_heads = kv_heads; });
  return axis;
}

/// phi has features squared parameters, of which every row is judged: where it is judged there are fewer.
Axis feature_axis(Operator op) {
  using Sizes = std::vector<std::pair<int, int>>;
  const Sizes sizes = compresses(op) ? Sizes{{64, 64}, {16, 16}, {40, 24}, {48, 32}, {72, 56}, {1, 3}}
                                     : Sizes{{64, 64}, {16, 16}, {40, 24}, {128, 128}, {192, 128}, {1, 3}};
  Axis axis;
  for (const auto& [dk, dv] : sizes) axis.push_back([dk = dk, dv = dv](Case& c) { c.dk = dk, c.dv = dv; });
  return axis;
}

Axis moba_axis() {
  Axis axis;
  using Rule = std::tuple<Gate, int, bool>;
  for (const auto& [gate, top_k, causal] : {Rule{Gate::top_k, 1, true},
                                            {Gate::top_k, 2, true},
                                            {Gate::top_k, 3, true},
                                            {Gate::top_k, 8, true},
                                            {Gate::top_k, 65, true},
                                            {Gate::window, 1, true},
                                            {Gate::window, 3, true},
                                            {Gate::sink, 2, true},
                                            {Gate::sink, 4, true},
                                            {Gate::top_k, 1, false},
                                            {Gate::top_k, 3, false}})
    axis.push_back(
        [gate = gate, top_k = top_k, causal = causal](Case& c) { c.gate = gate, c.top_k = top_k, c.causal = causal; });
  return axis;
}

Axis selected_axis() {
  Axis axis;
  using Rule = std::tuple<int, bool, bool>;
  for (const auto& [slots, shared, causal] :
       {Rule{1, false, true}, {3, false, true}, {3, true, true}, {8, true, true}, {20, false, true}, {4, true, false}})
    axis.push_back([slots = slots, shared = shared, causal = causal](Case& c) {
      c.top_k = slots, c.shared_selection = shared, c.causal = causal;
    });
  return axis;
}

Axis dense_axis() {
  return {[](Case& c) { c.causal = true; }, [](Case& c) { c.causal = false; }};
}

Axis compressed_axis() {
  Axis axis;
  struct Rule {
    int l, d, block, n, initial, local;
  };
  for (const Rule& r : {Rule{8, 4, 16, 3, 1, 2},
                        {4, 4, 4, 4, 1, 2},
                        {8, 8, 8, 5, 0, 1},
                        {16, 4, 16, 12, 2, 3},
                        {8, 4, 8, 3, 0, 2},
                        {1, 1, 1, 7, 1, 1},
                        {32, 16, 64, 16, 1, 2}})
    axis.push_back([r](Case& c) {
      c.compress_block = r.l, c.compress_stride = r.d, c.block = r.block, c.top_n = r.n;
      c.initial = r.initial, c.local = r.local;
    });
  return axis;
}

/// phi, with blocks for NSA's other parts.
Axis compress_axis() {
  Axis axis;
  struct Rule {
    int l, d;
    reference::Phi phi;
    reference::Activation activation;
    int hidden;
    bool shared;
  };
  using reference::Activation, reference::Phi;
  for (const Rule& r : {Rule{8, 4, Phi::mean, Activation::silu, 64, false},
                        {16, 2, Phi::mean, Activation::silu, 64, false},
                        {8, 4, Phi::linear, Activation::silu, 64, false},
                        {16, 8, Phi::linear, Activation::silu, 64, true},
                        {8, 4, Phi::mlp, Activation::silu, 24, true},
                        {4, 4, Phi::mlp, Activation::gelu, 64, false},
                        {8, 2, Phi::mlp, Activation::relu, 7, false},
                        {1, 1, Phi::mlp, Activation::gelu, 16, true}})
    axis.push_back([r](Case& c) {
      c.compress_block = r.l, c.compress_stride = r.d;
      c.phi = r.phi, c.activation = r.activation, c.hidden = r.hidden, c.shared_phi = r.shared;
    });
  return axis;
}

/// The whole of NSA: the rules of its compression, with selections and windows that are small and large beside them.
Axis nsa_axis() {
  Axis axis;
  struct Rule {
    int blocks, n, initial, local, window;  // a selection block is `blocks` compression blocks long
    bool shared_kv;
  };
  const std::vector<Rule> rules{{2, 3, 1, 2, 20, false}, {1, 5, 0, 1, 1, true}, {4, 12, 2, 3, 64, false}};
  const Axis compressions = compress_axis();
  for (std::size_t i = 0; i < compressions.size(); ++i)
    axis.push_back([compress = compressions[i], r = rules[i % rules.size()]](Case& c) {
      compress(c);
      c.block = r.blocks * c.compress_block;
      c.top_n = r.n, c.initial = r.initial, c.local = r.local, c.window = r.window, c.shared_kv = r.shared_kv;
    });
  return axis;
}

Axis window_axis() {
  Axis axis;
  for (const int window : {1, 2, 16, 31, 64, 1000}) axis.push_back([window](Case& c) { c.window = window; });
  return axis;
}

Axis rule_axis(Operator op) {
  switch (op) {
    case Operator::dense: return dense_axis();
    case Operator::selected: return selected_axis();
    case Operator::nsa_compressed: return compressed_axis();
    case Operator::window: return window_axis();
    case Operator::nsa_compress: return compress_axis();
    case Operator::nsa: return nsa_axis();
    default: return moba_axis();
  }
}

Axis scale_axis() {
  return {[](Case& c) { c.scale = default_scale(c.dk); }, [](Case& c) { c.scale = 1; }, [](Case& c) { c.scale = 0; },
          [](Case& c) { c.scale = -0.1; }};
}

Axis dtype_axis() {
  Axis axis;
  for (const Format dtype : {Format::bf16, Format::fp16, Format::fp32})
    axis.push_back([dtype](Case& c) { c.dtype = dtype; });
  return axis;
}

Axis layout_axis() {
  return {[](Case& c) { c.layout = Layout::strided; }, [](Case& c) { c.layout = Layout::contiguous; }};
}

/// The regimes that can tell something of the operator. Those of NSA's parts are not all gone through again with the
/// whole of it.
Axis regime_axis(Operator op) {
  const std::set<std::string> of_nsa{"normal",      "diffuse",         "spiky",      "large",
                                     "head_tagged", "repeated_tokens", "edge_spike", "disagreeing_heads",
                                     "underflow",   "subnormal"};
  const bool chooses = selects(op) || has_importance(op);
  Axis axis;
  for (const Regime& regime : regimes())
    if (std::string(regime.name) != "captured" && (chooses || !regime.for_selection) &&
        (op != Operator::nsa || of_nsa.count(regime.name) > 0))
      axis.push_back([name = regime.name](Case& c) { c.regime = name; });
  return axis;
}

/// Keys that an operator does not have go back to their defaults, so that a case prints as it is.
Case normalised(const Case& c) { return parse_case(print(c)); }

/// Slices of one captured file: all of it in its own shape; packed pieces with fewer features and every head a kv head;
/// few queries against many keys, all heads of one group.
std::vector<Case> captured_cases(Operator op, const std::string& file) {
  const CapturedSizes sizes = captured_sizes(file);
  Case whole;
  whole.op = op;
  whole.regime = "captured:" + file;
  whole.heads = sizes.heads, whole.kv_heads = sizes.kv_heads, whole.dk = sizes.dk, whole.dv = sizes.dv;
  whole.scale = default_scale(whole.dk);
  set_lengths(whole, 64, {sizes.tokens});
  Case packed = whole;
  set_lengths(packed, 48, {sizes.tokens / 10, 0, sizes.tokens / 4, 31 % (sizes.tokens + 1)});
  packed.kv_heads = packed.heads, packed.dk = (sizes.dk + 1) / 2, packed.dv = (sizes.dv + 2) / 3, packed.seed = 1;
  packed.scale = default_scale(packed.dk);
  packed.dtype = Format::fp16;
  Case decode = whole;
  set_lengths(decode, 32, {sizes.tokens * 2 / 3, sizes.tokens / 3}, {sizes.tokens / 200, sizes.tokens / 16});
  decode.kv_heads = 1, decode.top_k = 5, decode.seed = 2;
  decode.dtype = Format::fp32;
  return {normalised(whole), normalised(packed), normalised(decode)};
}

/// NSA with more than 128 selection blocks of several tokens, in every format.
std::vector<Case> many_block_cases(Operator op) {
  std::vector<Case> cases;
  if (op != Operator::nsa_compressed && op != Operator::nsa) return cases;
  for (const Format dtype : {Format::bf16, Format::fp16, Format::fp32}) {
    Case c;
    c.op = op;
    set_lengths(c, 8, {1100}, {300});
    c.heads = 2, c.compress_block = 4, c.compress_stride = 2, c.top_n = 9, c.dtype = dtype;
    cases.push_back(normalised(c));
  }
  return cases;
}

/// Every law of the operator in every format, with some rule and regime each.
std::vector<Case> law_cases(Operator op) {
  const Axis rules = rule_axis(op), regimes_of_operator = regime_axis(op), layouts = layout_axis();
  std::vector<Case> cases;
  for (const Law law : kLaws) {
    for (const Format dtype : {Format::bf16, Format::fp16, Format::fp32}) {
      if (!has_law(op, law)) continue;
      Case c;
      c.op = op;
      set_lengths(c, 8, {37, 0, 16, 50}, {37, 0, 9, 50});
      c.heads = 4, c.kv_heads = 2, c.dk = 24, c.dv = 16, c.dtype = dtype;
      c.scale = default_scale(c.dk);
      c.seed = cases.size();
      for (const Axis* axis : {&rules, &regimes_of_operator, &layouts}) (*axis)[cases.size() % axis->size()](c);
      c.law = law, c.causal = true, c.shared_kv = false;
      if (law == Law::power) c.phi = reference::Phi::mean;  // the one that is linear in values
      cases.push_back(normalised(c));
    }
  }
  return cases;
}

/// Every step of a session, after one call and after several.
std::vector<Case> session_cases(Operator op) {
  using enum SessionStep;
  Case c;
  c.op = op;
  set_lengths(c, 16, {40, 23, 0});
  c.heads = 2, c.kv_heads = op == Operator::nsa_compress ? 2 : 1, c.dk = c.dv = 16, c.scale = default_scale(c.dk);
  c.compress_block = 8, c.compress_stride = 4, c.top_n = 4, c.window = 9, c.hidden = 8;
  std::vector<Case> cases;
  for (const auto& steps :
       {std::vector{contents, shape, contents, offsets, again}, {offsets, moved, contents, again}}) {
    c.session = steps;
    cases.push_back(normalised(c));
  }
  return cases;
}

}  // namespace

std::vector<std::vector<int>> pairwise(const std::vector<int>& sizes) {
  using Pair = std::tuple<std::size_t, int, std::size_t, int>;
  std::set<Pair> missing;
  for (std::size_t a = 0; a < sizes.size(); ++a)
    for (std::size_t b = a + 1; b < sizes.size(); ++b)
      for (int x = 0; x < sizes[a]; ++x)
        for (int y = 0; y < sizes[b]; ++y) missing.insert({a, x, b, y});
  std::vector<std::vector<int>> rows;
  const Random random(0, "pairwise");
  std::uint64_t draws = 0;
  while (!missing.empty()) {
    std::vector<int> row(sizes.size(), -1);
    const auto [first, x, second, y] = *missing.begin();
    row[first] = x;
    row[second] = y;
    for (std::size_t axis = 0; axis < sizes.size(); ++axis) {
      if (row[axis] != -1) continue;
      const auto covers = [&](int value) {  // how many missing pairs it makes with what is chosen already
        std::size_t pairs = 0;
        for (std::size_t other = 0; other < sizes.size(); ++other)
          if (row[other] != -1)
            pairs += other < axis ? missing.count({other, row[other], axis, value})
                                  : missing.count({axis, value, other, row[other]});
        return pairs;
      };
      const auto shift = static_cast<int>(random.below(sizes[axis], draws++));  // so that ties are spread evenly
      int best = shift;
      for (int i = 1; i < sizes[axis]; ++i)
        if (const int value = (i + shift) % sizes[axis]; covers(value) > covers(best)) best = value;
      row[axis] = best;
    }
    for (std::size_t a = 0; a < row.size(); ++a)
      for (std::size_t b = a + 1; b < row.size(); ++b) missing.erase({a, row[a], b, row[b]});
    rows.push_back(std::move(row));
  }
  return rows;
}

std::vector<Case> level_cases(Operator op, int level) {
  const std::vector<Axis> axes{shape_axis(op), head_axis(),  feature_axis(op), rule_axis(op),
                               scale_axis(),   dtype_axis(), layout_axis(),    regime_axis(op)};
  std::vector<int> sizes;
  for (const Axis& axis : axes) sizes.push_back(static_cast<int>(axis.size()));
  std::vector<Case> cases;
  for (std::uint64_t seed = 0; seed < (level == 1 ? 1 : 8); ++seed) {
    for (const auto& row : pairwise(sizes)) {
      Case c;
      c.op = op;
      c.seed = seed;
      for (std::size_t axis = 0; axis < axes.size(); ++axis) axes[axis][static_cast<std::size_t>(row[axis])](c);
      if (seed % 2 == 1)  // longer, and off the block boundaries
        for (auto* lens : {&c.lens, &c.q_lens})
          for (std::int64_t& length : *lens) length += length / 2;
      cases.push_back(normalised(c));
    }
  }
  for (const Case& c : many_block_cases(op)) cases.push_back(c);
  for (const Case& c : session_cases(op)) cases.push_back(c);
  for (const std::string& file : captured_names())
    for (const Case& c : captured_cases(op, file)) cases.push_back(c);
  for (const Case& c : law_cases(op)) cases.push_back(c);
  return cases;
}

}  // namespace attnspec::verify
