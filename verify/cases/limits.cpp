#include "verify/cases/limits.hpp"

#include <fmt/format.h>
#include <fmt/ranges.h>

#include <algorithm>
#include <bit>
#include <limits>
#include <numeric>

#include "verify/cases/inputs/captured.hpp"
#include "verify/cases/random.hpp"
#include "verify/cases/regimes.hpp"
#include "verify/cases/space/work.hpp"

namespace attnspec::verify {

namespace {

using reference::Gate;
using reference::Phi;

template <class T>
bool is_allowed(const std::vector<T>& allowed, const T& value) {
  return allowed.empty() || std::find(allowed.begin(), allowed.end(), value) != allowed.end();
}

/// Why a size is outside a limit; empty when it is not.
std::string outside(const char* size, std::int64_t value, const SizeLimit& limit) {
  if (limit.smallest > 0 && value < limit.smallest)
    return fmt::format("{} {} is below its limit {}", size, value, limit.smallest);
  if (limit.largest > 0 && value > limit.largest)
    return fmt::format("{} {} is above its limit {}", size, value, limit.largest);
  if (limit.multiple_of > 0 && value % limit.multiple_of != 0)
    return fmt::format("{} {} is not a multiple of {}", size, value, limit.multiple_of);
  if (!is_allowed(limit.set, value)) return fmt::format("{} {} is none of {}", size, value, fmt::join(limit.set, ", "));
  if (limit.power_of_two && !std::has_single_bit(static_cast<std::uint64_t>(value)))
    return fmt::format("{} {} is no power of two", size, value);
  return "";
}

bool allows(const SizeLimit& limit, std::int64_t value) { return outside("", value, limit).empty(); }

/// A size of a case, and the limit of it.
struct Size {
  const char* name;
  SizeLimit Limits::*limit;
  bool (*has)(Operator);
  std::int64_t (*value)(const Case&);
};
constexpr Size kSizes[] = {
    {"dk", &Limits::dk, [](Operator) { return true; }, [](const Case& c) { return c.dk; }},
    {"dv", &Limits::dv, attends, [](const Case& c) { return c.dv; }},
    {"group", &Limits::group, has_queries, [](const Case& c) { return c.heads / c.kv_heads; }},
    {"block", &Limits::block, has_blocks, [](const Case& c) { return c.block; }},
    {"top_k", &Limits::top_k, has_slots, [](const Case& c) { return c.top_k; }},
    {"top_n", &Limits::top_k, has_importance, [](const Case& c) { return c.top_n; }},
    {"compress_block", &Limits::compress_block, has_compression, [](const Case& c) { return c.compress_block; }},
    {"window", &Limits::window_size, has_window, [](const Case& c) { return c.window; }},
    {"sequences", &Limits::sequences, [](Operator) { return true; }, [](const Case& c) { return std::ssize(c.lens); }},
};

bool has_equal_lengths(const Limits& limits, const Case& c) {
  return has_queries(c.op) && (limits.equal_lengths == EqualLengths::all ||
                               (limits.equal_lengths == EqualLengths::where_causal && c.causal));
}

/// The order of a given selection. Where no row may be without a key, each has its own block.
SelectionOrder order_needed(const Limits& limits) {
  return limits.no_rows_without_keys ? SelectionOrder::own_last : limits.selection_order;
}

std::string outside_choices(const Limits& limits, const Case& c) {
  if (!is_allowed(limits.dtypes, c.dtype)) return fmt::format("dtype {} is none of its own", reference::name(c.dtype));
  if (has_key(c.op, "gate") && !is_allowed(limits.gates, c.gate))
    return fmt::format("gate {} is none of its own", name(c.gate));
  if (compresses(c.op) && !is_allowed(limits.phis, c.phi)) return fmt::format("phi {} is none of its own", name(c.phi));
  if (limits.only_causal && !c.causal) return "causal 0: it is causal only";
  if (attends(c.op) && limits.scale == ScaleLimit::positive && !(c.scale > 0))
    return fmt::format("scale {} is not above 0", c.scale);
  if (attends(c.op) && limits.scale == ScaleLimit::default_only && c.scale != default_scale(c.dk))
    return fmt::format("scale {} is not the default one", c.scale);
  if (reads_selection(c.op) && limits.selection_per != SelectionPer::any &&
      c.shared_selection != (limits.selection_per == SelectionPer::kv_head))
    return fmt::format("selection {} is none of its own", c.shared_selection ? "kv_head" : "head");
  if (reads_selection(c.op) && c.selection_order < order_needed(limits))
    return fmt::format("selection_order {} is not {}", name(c.selection_order), name(order_needed(limits)));
  if (has_importance(c.op) && limits.forced_blocks && *limits.forced_blocks != ForcedBlocks{c.initial, c.local})
    return fmt::format("forced blocks {} and {} are not {} and {}", c.initial, c.local, limits.forced_blocks->initial,
                       limits.forced_blocks->local);
  if (limits.only_equal_dims && attends(c.op) && c.dk != c.dv)
    return fmt::format("it needs dk = dv, not {} and {}", c.dk, c.dv);
  if (limits.only_equal_blocks && has_compression(c.op) &&
      (c.compress_block != c.compress_stride || (has_importance(c.op) && c.block != c.compress_block)))
    return fmt::format("it needs compress_block = compress_stride = block, not {}, {} and {}", c.compress_block,
                       c.compress_stride, has_importance(c.op) ? c.block : c.compress_block);
  return "";
}

std::string outside_lengths(const Limits& limits, const Case& c) {
  if (has_equal_lengths(limits, c) && c.q_lens != c.lens)
    return fmt::format("q_lens {}: it needs as many queries as keys", fmt::join(c.q_lens, "+"));
  for (std::size_t s = 0; s < c.lens.size(); ++s) {
    const std::int64_t keys = c.lens[s], queries = has_queries(c.op) ? c.q_lens[s] : 1;
    if (limits.no_empty_sequences && keys == 0) return "lens 0: it needs keys in every sequence";
    if (limits.no_empty_sequences && queries == 0) return "q_lens 0: it needs queries in every sequence";
    if (limits.no_rows_without_keys && has_queries(c.op) && queries > 0 && (keys == 0 || (c.causal && queries > keys)))
      return fmt::format("q_lens {}: it needs a key for every query, and there are {}", queries, keys);
    std::string why = keys > 0 ? outside("lens", keys, limits.keys) : "";
    if (why.empty() && has_queries(c.op) && queries > 0) why = outside("q_lens", queries, limits.queries);
    if (!why.empty()) return why;
  }
  return "";
}

// ---- The nearest case inside ----

/// How far from a size an allowed one is looked for.
constexpr std::int64_t kMaxDistance = std::int64_t{1} << 16;
/// Work (space/work.hpp) that a case may be; one of so many may make more, for the sake of more blocks.
constexpr double kCheap = 36e6;
constexpr double kDear = 4 * kCheap;
constexpr std::int64_t kOneDearOf = 8;
/// Tokens that lengths shrink by where an operator has no blocks.
constexpr std::int64_t kTile = 64;

/// The whole number nearest to the value, at least 1, that is right; the smaller one of two. The value itself where
/// none is.
template <class IsRight>
std::int64_t nearest(std::int64_t value, const IsRight& is_right) {
  for (std::int64_t distance = 0; distance <= kMaxDistance; ++distance)
    for (const std::int64_t candidate : {value - distance, value + distance})
      if (candidate >= 1 && is_right(candidate)) return candidate;
  return value;
}

std::int64_t nearest(std::int64_t value, const SizeLimit& limit) {
  return nearest(value, [&](std::int64_t candidate) { return allows(limit, candidate); });
}

/// One of those allowed, by the case's numbers.
template <class T>
void choose(const std::vector<T>& allowed, const Random& random, std::uint64_t index, T& value) {
  if (!is_allowed(allowed, value)) value = allowed[static_cast<std::size_t>(random.below(std::ssize(allowed), index))];
}

/// Whether the case's law has nothing to say of its phi and format.
bool is_law_silent(const Case& c) {
  const bool is_half = c.dtype == Format::fp16, is_linear = has_linear_rows(c);
  if (c.law == Law::power) return is_half && !is_linear;
  if (c.law == Law::reciprocal) return (is_half && compresses(c.op)) || !is_linear;
  return (c.law == Law::negation || c.law == Law::as_moba) && !is_linear;
}

/// What is neither a size nor a length.
void move_choices(const Limits& limits, const Random& random, Case& c) {
  choose(limits.dtypes, random, 0, c.dtype);
  if (has_key(c.op, "gate")) choose(limits.gates, random, 1, c.gate);
  if (compresses(c.op)) choose(limits.phis, random, 2, c.phi);
  if (limits.only_causal || c.gate != Gate::top_k) c.causal = true;
  if (limits.selection_per != SelectionPer::any) c.shared_selection = limits.selection_per == SelectionPer::kv_head;
  c.selection_order = std::max(c.selection_order, order_needed(limits));
  if (limits.forced_blocks) c.initial = limits.forced_blocks->initial, c.local = limits.forced_blocks->local;
  if (is_law_silent(c)) c.law = Law::none;
}

void move_dims(const Limits& limits, Case& c) {
  const bool had_default_scale = c.scale == default_scale(c.dk);
  if (limits.only_equal_dims && attends(c.op)) {
    c.dk = c.dv = nearest(c.dk, [&](std::int64_t d) { return allows(limits.dk, d) && allows(limits.dv, d); });
  } else {
    c.dk = nearest(c.dk, limits.dk);
    c.dv = nearest(c.dv, limits.dv);
  }
  if (had_default_scale || limits.scale == ScaleLimit::default_only) c.scale = default_scale(c.dk);
  if (limits.scale == ScaleLimit::positive && !(c.scale > 0)) c.scale = c.scale < 0 ? -c.scale : default_scale(c.dk);
}

/// The divisor of both sizes that is nearest to the value.
std::int64_t nearest_divisor(std::int64_t value, std::int64_t a, std::int64_t b) {
  const std::int64_t largest = std::gcd(a, b);
  return nearest(std::clamp<std::int64_t>(value, 1, largest), [&](std::int64_t d) { return largest % d == 0; });
}

void move_blocks(const Limits& limits, Case& c) {
  if (!has_compression(c.op)) {
    if (has_blocks(c.op)) c.block = nearest(c.block, limits.block);
    return;
  }
  const bool has_own = has_importance(c.op);  // a selection block beside the compression block
  const std::int64_t before = c.compress_block;
  if (limits.only_equal_blocks) {
    const auto is_right = [&](std::int64_t block) {
      return allows(limits.compress_block, block) && (!has_own || allows(limits.block, block));
    };
    c.compress_block = c.compress_stride = nearest(has_own ? c.block : c.compress_block, is_right);
    if (has_own) c.block = c.compress_block;
    return;
  }
  const auto compress_block_within = [&](std::int64_t block) {
    return nearest(std::min(before, block),
                   [&](std::int64_t l) { return l <= block && allows(limits.compress_block, l); });
  };
  if (!has_own) {
    c.compress_block = nearest(before, limits.compress_block);
    c.compress_stride = nearest_divisor(c.compress_stride * c.compress_block / before, c.compress_block, 0);
    return;
  }
  c.block = nearest(c.block, [&](std::int64_t block) {
    return allows(limits.block, block) && allows(limits.compress_block, compress_block_within(block));
  });
  c.compress_block = compress_block_within(c.block);
  c.compress_stride = nearest_divisor(c.compress_stride * c.compress_block / before, c.compress_block, c.block);
}

void move_sizes(const Limits& limits, Case& c) {
  move_dims(limits, c);
  if (has_queries(c.op)) c.heads = c.kv_heads * nearest(c.heads / c.kv_heads, limits.group);
  move_blocks(limits, c);
  const std::int64_t min_slots = c.gate == Gate::sink ? 2 : 1;
  c.top_k = nearest(c.top_k, [&](std::int64_t k) { return k >= min_slots && allows(limits.top_k, k); });
  c.top_n = nearest(c.top_n, [&](std::int64_t n) { return n >= c.initial + c.local && allows(limits.top_k, n); });
  c.window = nearest(c.window, limits.window_size);
}

/// The keys and queries of one sequence.
struct Span {
  std::int64_t keys, queries;

  bool operator==(const Span&) const = default;
};

/// A length among blocks of one size, at the same place among those of another.
std::int64_t same_place(std::int64_t length, std::int64_t from, std::int64_t to) {
  const std::int64_t blocks = length / from, past = length % from;
  if (2 * past <= from) return blocks * to + std::min(past, to / 2);
  return (blocks + 1) * to - std::min(from - past, to / 2);
}

/// The span with the keys given. Its first query keeps its place, of which the new one is given, unless there are more
/// queries than keys: then there are as many more.
Span with_keys(const Span& span, std::int64_t keys, std::int64_t first_query) {
  if (span.queries > span.keys) return {keys, keys + span.queries - span.keys};
  if (span.queries == 0) return {keys, 0};
  return {keys, std::max<std::int64_t>(1, keys - first_query)};
}

Span same_place(const Span& span, std::int64_t from, std::int64_t to) {
  if (from == to || span.keys == 0) return span;
  return with_keys(span, std::max<std::int64_t>(1, same_place(span.keys, from, to)),
                   same_place(span.keys - span.queries, from, to));
}

/// A block less; of keys before the first query, if there is one. The same span where it has no more than one.
Span shorter(const Span& span, std::int64_t block) {
  if (span.keys <= block) return {span.keys, span.queries - (span.queries > span.keys + block ? block : 0)};
  const std::int64_t first_query = span.keys - span.queries;
  return with_keys(span, span.keys - block, first_query >= block ? first_query - block : first_query);
}

/// The lengths of a sequence that the limits allow.
Span allowed_span(const Limits& limits, const Case& c, Span span) {
  if (limits.no_empty_sequences) span = {std::max<std::int64_t>(1, span.keys), std::max<std::int64_t>(1, span.queries)};
  const auto allows_keys = [&](std::int64_t n) { return allows(limits.keys, n); };
  if (!has_queries(c.op)) {
    if (span.keys > 0) span.keys = nearest(span.keys, allows_keys);
    return span;
  }
  const auto allows_queries = [&](std::int64_t n) { return allows(limits.queries, n); };
  if (has_equal_lengths(limits, c) || span.keys == span.queries) {
    if (span.keys == 0) return {0, 0};
    const auto is_right = [&](std::int64_t n) { return allows_keys(n) && allows_queries(n); };
    const std::int64_t both = nearest(span.keys, is_right);
    if (has_equal_lengths(limits, c) || is_right(both)) return {both, both};
  }
  if (span.keys > 0) span.keys = nearest(span.keys, allows_keys);
  if (span.queries > 0) span.queries = nearest(span.queries, allows_queries);
  if (!limits.no_rows_without_keys || span.queries == 0) return span;
  if (span.keys == 0) return {0, 0};
  if (!c.causal || span.queries <= span.keys) return span;
  span.queries = nearest(span.keys, [&](std::int64_t n) { return n <= span.keys && allows_queries(n); });
  if (!allows_queries(span.queries)) span.queries = nearest(span.keys, allows_queries);
  span.keys = nearest(span.keys, [&](std::int64_t n) { return n >= span.queries && allows_keys(n); });
  return span;
}

/// Tokens that a sequence of the case may have: a captured one is as long as its file.
std::int64_t max_tokens(const Case& c) {
  constexpr std::string_view kCaptured = "captured:";
  if (!c.regime.starts_with(kCaptured)) return std::numeric_limits<std::int64_t>::max();
  return captured_sizes(c.regime.substr(kCaptured.size())).tokens;
}

std::vector<Span> spans_of(const Case& c) {
  std::vector<Span> spans;
  for (std::size_t s = 0; s < c.lens.size(); ++s) spans.push_back({c.lens[s], c.q_lens[s]});
  return spans;
}

void set_spans(const std::vector<Span>& spans, const Limits& limits, Case& c) {
  c.lens.clear();
  c.q_lens.clear();
  for (const Span& span : spans) {
    const Span allowed = allowed_span(limits, c, span);
    c.lens.push_back(allowed.keys);
    c.q_lens.push_back(allowed.queries);
  }
}

/// As many sequences as the limit allows: the longest of them stay, or the last one comes again.
void move_number(const SizeLimit& limit, std::vector<Span>& spans) {
  if (allows(limit, std::ssize(spans))) return;
  const auto number = static_cast<std::size_t>(nearest(std::ssize(spans), limit));
  while (spans.size() > number)
    spans.erase(std::min_element(spans.begin(), spans.end(),
                                 [](const Span& a, const Span& b) { return a.keys * a.queries < b.keys * b.queries; }));
  spans.resize(number, spans.empty() ? Span{1, 1} : spans.back());
}

/// Tokens between the edges of which lengths have their places.
std::int64_t edge(const Case& c) {
  if (has_blocks(c.op)) return c.block;
  return has_compression(c.op) ? c.compress_block : kTile;
}

/// Of the sequences that can be shortened, the largest if there is too much work, or one that is too long; none if all
/// is well.
Span* next_to_shorten(std::vector<Span>& spans, const Case& c, bool is_dear, std::int64_t longest_allowed) {
  Span* next = nullptr;
  for (Span& span : spans) {
    if (shorter(span, edge(c)) == span) continue;
    if (std::max(span.keys, span.queries) > longest_allowed) return &span;
    if (is_dear && (next == nullptr || span.keys * span.queries > next->keys * next->queries)) next = &span;
  }
  return next;
}

void move_lengths(const Limits& limits, const Random& random, const Case& before, Case& c) {
  std::vector<Span> spans = spans_of(c);
  move_number(limits.sequences, spans);
  for (Span& span : spans) span = same_place(span, edge(before), edge(c));
  set_spans(spans, limits, c);
  const double max_work = std::max(random.below(kOneDearOf, 3) == 0 ? kDear : kCheap, work(before));
  const std::int64_t longest_allowed = max_tokens(c);
  while (Span* span = next_to_shorten(spans, c, work(c) > max_work, longest_allowed)) {
    *span = shorter(*span, edge(c));
    set_spans(spans, limits, c);
  }
}

bool fits_its_regime(const Case& c) {
  try {
    validate_regime(c);
  } catch (const reference::InvalidProblem&) {
    return false;
  }
  return true;
}

/// "dk 64 128"; empty without a limit.
std::string describe(const char* size, const SizeLimit& limit) {
  std::vector<std::string> parts;
  if (!limit.set.empty()) parts.push_back(fmt::format("{}", fmt::join(limit.set, " ")));
  if (limit.smallest > 0) parts.push_back(fmt::format(">= {}", limit.smallest));
  if (limit.largest > 0) parts.push_back(fmt::format("<= {}", limit.largest));
  if (limit.multiple_of > 0) parts.push_back(fmt::format("multiple of {}", limit.multiple_of));
  if (limit.power_of_two) parts.push_back("power of two");
  return parts.empty() ? "" : fmt::format("{} {}", size, fmt::join(parts, " and "));
}

}  // namespace

std::optional<std::string> outside(const Limits& limits, const Case& c) {
  std::string why = outside_choices(limits, c);
  for (const Size& size : kSizes)
    if (why.empty() && size.has(c.op)) why = outside(size.name, size.value(c), limits.*size.limit);
  if (why.empty()) why = outside_lengths(limits, c);
  if (why.empty()) return std::nullopt;
  return why;
}

bool allows_backward(const Limits& limits, const Case& c) {
  return limits.equal_lengths != EqualLengths::of_backwards || !has_queries(c.op) || c.lens == c.q_lens;
}

Case inside(const Limits& limits, const Case& c) {
  if (!outside(limits, c)) return c;
  const Random random(c.seed, print(c));
  Case moved = c;
  move_choices(limits, random, moved);
  move_sizes(limits, moved);
  move_lengths(limits, random, c, moved);
  if (!fits_its_regime(moved)) moved.regime = "normal";
  if (moved.sample > 0) moved.sample = std::max(moved.sample, 2 * moved.heads * std::ssize(moved.lens));
  return parse_case(print(moved));
}

std::string describe(const Limits& limits) {
  std::vector<std::string> parts;
  for (const auto& [size, limit] : {std::pair{"dk", &Limits::dk},
                                    {"dv", &Limits::dv},
                                    {"block", &Limits::block},
                                    {"group", &Limits::group},
                                    {"top_k", &Limits::top_k},
                                    {"compress_block", &Limits::compress_block},
                                    {"window", &Limits::window_size},
                                    {"queries", &Limits::queries},
                                    {"keys", &Limits::keys},
                                    {"sequences", &Limits::sequences}})
    parts.push_back(describe(size, limits.*limit));
  const auto names = [&](const auto& values) {
    std::vector<std::string> of_values;
    for (const auto value : values) of_values.emplace_back(name(value));
    parts.push_back(fmt::format("{}", fmt::join(of_values, " ")));
  };
  names(limits.dtypes);
  names(limits.gates);
  names(limits.phis);
  const auto add = [&](bool is_limit, const char* text) { parts.emplace_back(is_limit ? text : ""); };
  add(limits.only_causal, "causal");
  add(limits.scale == ScaleLimit::positive, "scale above 0");
  add(limits.scale == ScaleLimit::default_only, "default scale");
  add(limits.only_equal_dims, "dk = dv");
  add(limits.equal_lengths == EqualLengths::all, "as many queries as keys");
  add(limits.equal_lengths == EqualLengths::where_causal, "as many queries as keys where causal");
  add(limits.equal_lengths == EqualLengths::of_backwards, "as many queries as keys in the backward");
  add(limits.no_empty_sequences, "no empty sequence");
  add(limits.no_rows_without_keys, "no row without a key");
  add(limits.selection_per == SelectionPer::head, "selection per head");
  add(limits.selection_per == SelectionPer::kv_head, "selection per kv head");
  if (limits.selection_order != SelectionOrder::any)
    parts.push_back(fmt::format("selection {}", name(limits.selection_order)));
  add(limits.only_equal_blocks, "compress_block = compress_stride = block");
  if (limits.forced_blocks)
    parts.push_back(
        fmt::format("{} initial and {} local blocks", limits.forced_blocks->initial, limits.forced_blocks->local));
  std::erase(parts, "");
  return fmt::format("{}", fmt::join(parts, ", "));
}

}  // namespace attnspec::verify
