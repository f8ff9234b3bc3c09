#include "verify/cases/space/space.hpp"

#include <fmt/format.h>

#include <algorithm>
#include <numeric>
#include <stdexcept>

#include "verify/cases/space/axes.hpp"

namespace attnspec::verify {

namespace {

/// Halves what a case has too much of: its groups, then its heads, then its features.
void fit(Draft& draft) {
  Case& c = draft.c;
  const auto queries = [&] { return std::accumulate(c.q_lens.begin(), c.q_lens.end(), std::int64_t{0}) * c.heads; };
  const std::int64_t max = std::max<std::int64_t>(128, 2 * draft.room);
  if (queries() > max) c.heads = c.kv_heads;
  if (queries() > max) c.heads = c.kv_heads = 1;
  while (queries() * (c.dk + c.dv) > 128 * max && c.dk + c.dv > 16)
    space::set_features(draft, (c.dk + 1) / 2, (c.dv + 1) / 2);
}

/// What depends on all of the shape, so that it is drawn after it fits.
void complete_shape(Draft& draft) {
  if (draft.c.q_lens.size() != draft.c.lens.size()) draft.c.q_lens = draft.c.lens;
  const bool is_empty = longest(draft.c) == 0;
  if (is_empty && draft.between(0, 7) > 0) draft.c.lens[0] = draft.c.q_lens[0] = draft.between(1, 20);
  fit(draft);
}

}  // namespace

const std::vector<Axis>& axes() {
  static const std::vector<Axis> all{
      space::size_axis(),        space::head_axis(),       space::feature_axis(),   space::block_axis(),
      space::compression_axis(), space::sequence_axis(),   space::length_axis(),    space::query_axis(),
      space::forced_axis(),      space::count_axis(),      space::window_axis(),    space::extreme_axis(),
      space::phi_axis(),         space::shared_phi_axis(), space::shared_kv_axis(), space::shared_selection_axis(),
      space::causal_axis(),      space::gate_axis(),       space::scale_axis(),     space::dtype_axis(),
      space::layout_axis(),      space::regime_axis(),     space::session_axis(),   space::law_axis()};
  return all;
}

std::size_t axis_of(const std::string& name) {
  for (std::size_t i = 0; i < axes().size(); ++i)
    if (axes()[i].name == name) return i;
  throw std::out_of_range("no axis '" + name + "'");
}

std::vector<std::size_t> drawn_values(const Axis& axis, Operator op) {
  std::vector<std::size_t> values;
  for (std::size_t i = 0; i < axis.values.size(); ++i)
    if (axis.values[i].weight > 0 && (!axis.values[i].has || axis.values[i].has(op))) values.push_back(i);
  return values;
}

std::size_t choose_by_weight(std::size_t axis, const std::vector<std::size_t>& values, Draft& draft) {
  std::int64_t sum = 0;
  for (const std::size_t value : values) sum += axes()[axis].values[value].weight;
  std::int64_t left = draft.between(0, sum - 1);
  for (const std::size_t value : values) {
    left -= axes()[axis].values[value].weight;
    if (left < 0) return value;
  }
  return values.back();
}

Case draw_case(Operator op, const Choose& choose, const Between& between) {
  Draft draft;
  draft.between = between;
  draft.c = parse_case(fmt::format("{}()", name(op)));
  draft.c.lens.clear();
  draft.c.q_lens.clear();
  for (std::size_t i = 0; i < axes().size(); ++i) {
    const Axis& axis = axes()[i];
    const std::vector<std::size_t> values = axis.has(op) ? drawn_values(axis, op) : std::vector<std::size_t>{};
    if (!values.empty())
      for (std::int64_t times = axis.is_per_sequence ? draft.sequences : 1; times > 0; --times)
        axis.values[choose(i, values, draft)].draw(draft);
    if (axis.name == "queries") complete_shape(draft);
  }
  if (!has_queries(op)) draft.c.heads = 1;  // the default that its kv_heads would follow
  draft.c.seed = static_cast<std::uint64_t>(between(0, 999999));
  return normalised(draft.c);
}

Case normalised(const Case& c) { return parse_case(print(c)); }

}  // namespace attnspec::verify
