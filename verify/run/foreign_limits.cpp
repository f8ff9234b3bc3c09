#include "verify/run/foreign_limits.hpp"

#include <fmt/format.h>

#include <iterator>
#include <string>

namespace attnspec::verify {

namespace {

using reference::InvalidProblem;

SizeLimit size_limit(const std::string& field, const AttnspecLimit& declared) {
  const auto number = [&](const char* part, std::int64_t value) {
    if (value < 0) throw InvalidProblem(fmt::format("limits.{}.{}", field, part), std::to_string(value), "is below 0");
    return value;
  };
  SizeLimit limit{.smallest = number("smallest", declared.smallest),
                  .largest = number("largest", declared.largest),
                  .multiple_of = number("multiple_of", declared.multiple_of),
                  .set = {},
                  .power_of_two = declared.power_of_two != 0};
  for (const std::int64_t value : declared.set)
    if (number("set", value) > 0) limit.set.push_back(value);
  if (limit.largest > 0 && limit.smallest > limit.largest)
    throw InvalidProblem(fmt::format("limits.{}.smallest", field), std::to_string(limit.smallest),
                         fmt::format("is above largest={}", limit.largest));
  return limit;
}

/// The values of those bits that are set.
template <class Value, std::size_t n>
std::vector<Value> values(const char* field, std::uint32_t bits, const Value (&all)[n]) {
  if (bits >> n != 0)
    throw InvalidProblem(fmt::format("limits.{}", field), fmt::format("{:#x}", bits), "has unknown bits");
  std::vector<Value> allowed;
  for (std::size_t i = 0; i < n; ++i)
    if ((bits >> i & 1) != 0) allowed.push_back(all[i]);
  return allowed;
}

template <class Value>
Value choice(const char* field, std::int32_t value, Value last) {
  if (value < 0 || value > static_cast<std::int32_t>(last))
    throw InvalidProblem(fmt::format("limits.{}", field), std::to_string(value),
                         fmt::format("must be in 0 .. {}", static_cast<std::int32_t>(last)));
  return static_cast<Value>(value);
}

}  // namespace

Limits limits_of(const AttnspecLimits& declared) {
  using reference::Gate, reference::Phi;
  Limits limits;
  for (const auto& [field, from, to] : {std::tuple{"dk", &AttnspecLimits::dk, &Limits::dk},
                                        {"dv", &AttnspecLimits::dv, &Limits::dv},
                                        {"group", &AttnspecLimits::group, &Limits::group},
                                        {"block", &AttnspecLimits::block, &Limits::block},
                                        {"top_k", &AttnspecLimits::top_k, &Limits::top_k},
                                        {"compress_block", &AttnspecLimits::compress_block, &Limits::compress_block},
                                        {"window_size", &AttnspecLimits::window_size, &Limits::window_size},
                                        {"queries", &AttnspecLimits::queries, &Limits::queries},
                                        {"keys", &AttnspecLimits::keys, &Limits::keys},
                                        {"sequences", &AttnspecLimits::sequences, &Limits::sequences}})
    limits.*to = size_limit(field, declared.*from);
  limits.dtypes = values("dtypes", declared.dtypes, {Format::bf16, Format::fp16, Format::fp32});
  limits.gates = values("gates", declared.gates, {Gate::top_k, Gate::window, Gate::sink});
  limits.phis = values("phis", declared.phis, {Phi::mean, Phi::linear, Phi::mlp});
  limits.scale = choice("scale", declared.scale, ScaleLimit::default_only);
  limits.equal_lengths = choice("only_equal_lengths", declared.only_equal_lengths, EqualLengths::of_backwards);
  limits.selection_per = choice("selection_per", declared.selection_per, SelectionPer::kv_head);
  limits.selection_order = choice("selection_order", declared.selection_order, SelectionOrder::own_last);
  if (declared.only_forced_blocks != 0) {
    if (declared.initial_blocks < 0)
      throw InvalidProblem("limits.initial_blocks", std::to_string(declared.initial_blocks), "is below 0");
    if (declared.local_blocks < 1)
      throw InvalidProblem("limits.local_blocks", std::to_string(declared.local_blocks), "is below 1");
    limits.forced_blocks = {declared.initial_blocks, declared.local_blocks};
  }
  limits.only_causal = declared.only_causal != 0;
  limits.only_equal_dims = declared.only_equal_dims != 0;
  limits.only_equal_blocks = declared.only_equal_blocks != 0;
  limits.no_empty_sequences = declared.no_empty_sequences != 0;
  limits.no_rows_without_keys = declared.no_rows_without_keys != 0;
  return limits;
}

}  // namespace attnspec::verify
