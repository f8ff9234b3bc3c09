#include "verify/cases/levels.hpp"

#include <algorithm>
#include <cstdint>
#include <iterator>
#include <optional>
#include <string>
#include <string_view>
#include <utility>

#include "verify/cases/inputs/captured.hpp"
#include "verify/cases/random.hpp"
#include "verify/cases/space/coverage.hpp"
#include "verify/cases/space/pairwise.hpp"
#include "verify/cases/space/space.hpp"

namespace attnspec::verify {

namespace {

/// The values of a case, by axis. Where an axis has one for each sequence, that of the first.
using Row = std::vector<std::optional<std::size_t>>;

std::size_t value_of(std::size_t axis, std::string_view name) {
  const std::vector<Value>& values = axes()[axis].values;
  return static_cast<std::size_t>(
      std::find_if(values.begin(), values.end(), [&](const Value& value) { return value.name == name; }) -
      values.begin());
}

void set(Row& row, const char* axis, std::string_view value) { row[axis_of(axis)] = value_of(axis_of(axis), value); }

/// Of a case of the level's usual size, that is called once and judged by the specification. All else is drawn.
Row plain_row() {
  Row row(axes().size());
  set(row, "size", "tens"), set(row, "extreme", "none"), set(row, "calls", "one"), set(row, "law", "none");
  return row;
}

/// A case with the row's values; number: of the draw, in its stream.
Case case_of(Operator op, Row row, std::string_view stream, std::uint64_t number) {
  const Random random(number, stream);
  std::uint64_t draws = 0;
  const auto between = [&](std::int64_t min, std::int64_t max) {
    return min + random.below(std::max(min, max) - min + 1, draws++);
  };
  const auto choose = [&](std::size_t axis, const std::vector<std::size_t>& values, Draft& draft) {
    const std::optional<std::size_t> value = std::exchange(row[axis], {});
    return value ? *value : choose_by_weight(axis, values, draft);
  };
  return draw_case(op, choose, between);
}

/// The values of an axis that the pairs are made of. Captured activations have cases of their own; those input patterns
/// that show mistakes of NSA's parts are not all gone through again with the whole of it, which has thirty tensors.
std::vector<std::size_t> paired_values(const Axis& axis, Operator op) {
  static constexpr std::string_view of_nsa[] = {
      "normal",       "diffuse",           "spiky",     "large",    "head_tagged",    "repeated_tokens",
      "edge_spike",   "disagreeing_heads", "underflow", "smallest", "largest_values", "largest_gradients",
      "largest_keys", "wide_gates"};
  std::vector<std::size_t> values = drawn_values(axis, op);
  if (axis.name != "regime") return values;
  std::erase_if(values, [&](std::size_t i) {
    const std::string& name = axis.values[i].name;
    return name.starts_with("captured:") ||
           (has_branches(op) && std::find(std::begin(of_nsa), std::end(of_nsa), name) == std::end(of_nsa));
  });
  return values;
}

/// Every pair of values of two axes, with numbers of its own for each seed.
std::vector<Case> paired_cases(Operator op, std::uint64_t seed) {
  const Row base = plain_row();
  std::vector<std::size_t> paired;
  std::vector<int> sizes;
  for (std::size_t axis = 0; axis < axes().size(); ++axis) {
    if (base[axis] || !axes()[axis].has(op) || paired_values(axes()[axis], op).empty()) continue;
    paired.push_back(axis);
    sizes.push_back(static_cast<int>(paired_values(axes()[axis], op).size()));
  }
  std::vector<Case> cases;
  for (const std::vector<int>& values : pairwise(sizes)) {
    Row row = base;
    if (seed % 2 == 1 || cases.size() % 3 == 0) set(row, "size", "hundreds");
    for (std::size_t i = 0; i < paired.size(); ++i)
      row[paired[i]] = paired_values(axes()[paired[i]], op)[static_cast<std::size_t>(values[i])];
    cases.push_back(case_of(op, row, "pairs", 1000 * seed + cases.size()));
  }
  return cases;
}

/// So many cases of every extreme.
std::vector<Case> extreme_cases(Operator op, std::uint64_t each) {
  const std::size_t axis = axis_of("extreme");
  std::vector<Case> cases;
  for (const std::size_t value : drawn_values(axes()[axis], op)) {
    Row row = plain_row();
    if (row[axis] == value) continue;
    row[axis] = value;
    for (std::uint64_t i = 0; i < each; ++i) cases.push_back(case_of(op, row, "extremes", cases.size()));
  }
  return cases;
}

/// So many cases of every law of the operator in every format, with sequences, heads and blocks to tell apart.
std::vector<Case> law_cases(Operator op, std::uint64_t each) {
  const std::size_t law_axis = axis_of("law"), dtype_axis = axis_of("dtype");
  std::vector<Case> cases;
  for (const std::size_t law : drawn_values(axes()[law_axis], op)) {
    for (const std::size_t dtype : drawn_values(axes()[dtype_axis], op)) {
      Row row = plain_row();
      if (row[law_axis] == law) continue;
      row[law_axis] = law;
      row[dtype_axis] = dtype;
      set(row, "heads", has_queries(op) ? "groups" : "several");
      set(row, "size", "hundreds"), set(row, "sequences", "few"), set(row, "queries", "as keys");
      set(row, "block", "few tokens"), set(row, "blocks per query", "some");
      for (std::uint64_t i = 0; i < each; ++i) cases.push_back(case_of(op, row, "laws", cases.size()));
    }
  }
  return cases;
}

/// Cases with the classes that none of those given has, out of so many that are drawn.
std::vector<Case> cases_of_other_classes(Operator op, const std::vector<Case>& given) {
  constexpr std::uint64_t kDraws = 3000;
  Coverage seen;
  for (const Case& c : given) seen.add(c);
  std::vector<Case> cases;
  for (std::uint64_t i = 0; i < kDraws && !seen.never_seen(op).empty(); ++i) {
    Row row = plain_row();
    row[axis_of("size")] = {};
    const Case c = case_of(op, row, "classes", i);
    const std::size_t missing = seen.never_seen(op).size();
    seen.add(c);
    if (seen.never_seen(op).size() < missing) cases.push_back(c);
  }
  return cases;
}

void set_lengths(Case& c, std::int64_t block, std::vector<std::int64_t> lens, std::vector<std::int64_t> q_lens = {}) {
  c.block = block;
  c.q_lens = q_lens.empty() ? lens : std::move(q_lens);
  c.lens = std::move(lens);
}

/// Slices of one captured file: all of it in its own shape, a sample of whose rows is judged; packed pieces with fewer
/// features and every head a kv head; few queries against many keys, all heads of one group.
std::vector<Case> captured_cases(Operator op, const std::string& file) {
  const CapturedSizes sizes = captured_sizes(file);
  Case whole;
  whole.op = op;
  whole.regime = "captured:" + file;
  whole.heads = sizes.heads, whole.kv_heads = sizes.kv_heads, whole.dk = sizes.dk, whole.dv = sizes.dv;
  whole.scale = default_scale(whole.dk);
  set_lengths(whole, 64, {sizes.tokens});
  whole.sample = has_queries(op) ? 400 : 0;
  Case packed = whole;
  packed.sample = 0;
  set_lengths(packed, 48, {sizes.tokens / 10, 0, sizes.tokens / 4, 31 % (sizes.tokens + 1)});
  packed.kv_heads = packed.heads, packed.dk = (sizes.dk + 1) / 2, packed.dv = (sizes.dv + 2) / 3, packed.seed = 1;
  packed.scale = default_scale(packed.dk);
  packed.dtype = Format::fp16;
  Case decode = whole;
  decode.sample = 0;
  set_lengths(decode, 32, {sizes.tokens * 2 / 3, sizes.tokens / 3}, {sizes.tokens / 200, sizes.tokens / 16});
  decode.kv_heads = 1, decode.top_k = 5, decode.seed = 2;
  decode.dtype = Format::fp32;
  return {normalised(whole), normalised(packed), normalised(decode)};
}

/// Every step of a session, after one call and after several.
std::vector<Case> session_cases(Operator op) {
  using enum SessionStep;
  Case c;
  c.op = op;
  set_lengths(c, 16, {40, 23, 0});
  c.heads = 2, c.kv_heads = has_queries(op) ? 1 : 2, c.dk = c.dv = 16, c.scale = default_scale(c.dk);
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

std::vector<Case> level_cases(Operator op, int level) {
  std::vector<Case> cases;
  const auto append = [&](const std::vector<Case>& more) { cases.insert(cases.end(), more.begin(), more.end()); };
  for (std::uint64_t seed = 0; seed < (level == 1 ? 1 : 8); ++seed) append(paired_cases(op, seed));
  append(session_cases(op));
  for (const std::string& file : captured_names()) append(captured_cases(op, file));
  append(law_cases(op, level == 1 ? 1 : 4));
  append(extreme_cases(op, level == 1 ? 1 : 4));
  append(cases_of_other_classes(op, cases));
  return cases;
}

}  // namespace attnspec::verify
