#include "fuzz/search/swarm.hpp"

#include <fmt/format.h>
#include <fmt/ranges.h>

#include <algorithm>
#include <utility>

#include "verify/cases/space/space.hpp"

namespace attnspec::fuzz {

namespace {

using namespace verify;

std::int64_t between(std::int64_t min, std::int64_t max) {
  return *rc::gen::inRange<std::int64_t>(min, std::max(min, max) + 1);
}

/// By weight, out of the values that the swarm has; out of all where it has none of the operator's.
std::size_t choose(const Swarm& swarm, std::size_t axis, const std::vector<std::size_t>& values, Draft& draft) {
  std::vector<std::size_t> kept = values;
  std::erase_if(kept, [&](std::size_t value) { return !swarm.enabled[axis][value]; });
  return choose_by_weight(axis, kept.empty() ? values : kept, draft);
}

/// Whether any case can be drawn with it.
bool is_drawn(const Value& value) { return value.weight > 0; }

Swarm draw_swarm() {
  Swarm swarm = whole_swarm();
  for (std::size_t axis = 0; axis < axes().size(); ++axis) {
    std::vector<bool>& enabled = swarm.enabled[axis];
    const std::vector<Value>& values = axes()[axis].values;
    const bool is_whole = between(0, 1) == 0 || axes()[axis].is_always_whole;
    for (std::size_t i = 0; !is_whole && i < enabled.size(); ++i) enabled[i] = is_drawn(values[i]) && between(0, 2) > 0;
    const auto drawn = std::count_if(values.begin(), values.end(), is_drawn);
    std::int64_t kept = between(0, drawn - 1);
    for (std::size_t i = 0; i < enabled.size(); ++i)
      if (is_drawn(values[i]) && kept-- == 0) enabled[i] = true;
  }
  return swarm;
}

}  // namespace

Swarm whole_swarm() {
  Swarm swarm;
  for (const Axis& axis : axes()) {
    swarm.enabled.emplace_back();
    for (const Value& value : axis.values) swarm.enabled.back().push_back(is_drawn(value));
  }
  return swarm;
}

rc::Gen<Swarm> any_swarm() { return rc::gen::exec(draw_swarm); }

void keep_laws(const std::vector<Law>& laws, Swarm& swarm) {
  const std::size_t law = axis_of("law"), extreme = axis_of("extreme");
  for (std::size_t i = 0; i < swarm.enabled[law].size(); ++i)
    swarm.enabled[law][i] =
        std::any_of(laws.begin(), laws.end(), [&](Law kept) { return axes()[law].values[i].name == name(kept); });
  for (std::size_t i = 0; i < swarm.enabled[extreme].size(); ++i)  // which have no laws
    swarm.enabled[extreme][i] = axes()[extreme].values[i].name == "none";
}

std::string describe(const Swarm& swarm, const std::vector<Operator>& operators) {
  const Swarm whole = whole_swarm();
  std::vector<std::string> parts;
  for (std::size_t i = 0; i < axes().size(); ++i) {
    std::vector<std::string> names;
    for (std::size_t k = 0; k < swarm.enabled[i].size(); ++k)
      if (swarm.enabled[i][k]) names.push_back(axes()[i].values[k].name);
    const bool is_used = std::any_of(operators.begin(), operators.end(), axes()[i].has);
    if (is_used && swarm.enabled[i] != whole.enabled[i])
      parts.push_back(fmt::format("{}: {}", axes()[i].name, fmt::join(names, ", ")));
  }
  return parts.empty() ? "everything" : fmt::format("{}", fmt::join(parts, "; "));
}

rc::Gen<Case> any_case(Operator op, const Swarm& swarm) {
  return rc::gen::exec([=] {
    return draw_case(
        op, [&](std::size_t axis, const auto& values, Draft& draft) { return choose(swarm, axis, values, draft); },
        between);
  });
}

}  // namespace attnspec::fuzz
