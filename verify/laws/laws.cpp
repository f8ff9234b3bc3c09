#include "verify/laws/laws.hpp"

#include <fmt/format.h>
#include <fmt/ranges.h>

#include <algorithm>
#include <iterator>

#include "verify/laws/calls.hpp"
#include "verify/laws/changes.hpp"
#include "verify/laws/moves.hpp"
#include "verify/laws/power.hpp"
#include "verify/placed_memory.hpp"

namespace attnspec::verify {

namespace {

constexpr unsigned bit(Operator op) { return 1u << static_cast<unsigned>(op); }
constexpr unsigned kAll = (1u << std::size(kOperators)) - 1;
constexpr unsigned kHaveUnread = bit(Operator::selected) | bit(Operator::moba) | bit(Operator::window) |
                                 bit(Operator::nsa);  // values that some rows do not read

/// Launches of each call of a run under guard.
constexpr std::int64_t kLaunches = 2;

/// Where the calls of `repeat` lie.
constexpr std::size_t kPlaces = 2;

/// The names of the laws with a property, "future, heads"; empty where there is none.
template <class Predicate>
std::string names_where(const Predicate& holds) {
  std::vector<const char*> names;
  for (const Law law : kLaws)
    if (holds(law)) names.push_back(name(law));
  return fmt::format("{}", fmt::join(names, ", "));
}

}  // namespace

const LawInfo& info(Law law) {
  static const LawInfo all[] = {
      {Law::repeat, "the same call gives the same bits, however often it is launched", kAll, EqualBits::same_call,
       repeat_follow_ups, nullptr},
      {Law::future, "a row keeps its bits when everything after its position changes", kAll, EqualBits::same_shape,
       future_follow_ups, nullptr},
      {Law::unselected,
       "a row keeps its bits when values change in blocks that it has not selected, or outside its window", kHaveUnread,
       EqualBits::same_shape, unselected_follow_ups, nullptr},
      {Law::heads, "heads in another order give the same rows in that order", kAll, EqualBits::same_shape,
       heads_follow_ups, nullptr},
      {Law::strides, "a row's bits do not depend on where its tensors have gaps", kAll, EqualBits::same_shape,
       strides_follow_ups, nullptr},
      {Law::packing, "a sequence has the same bits packed with others, in another order and alone", kAll,
       EqualBits::any_batch, packing_follow_ups, nullptr},
      {Law::decode, "the last queries, or compressed rows, alone have the bits that they have among all of them", kAll,
       EqualBits::any_batch, decode_follow_ups, nullptr},
      {Law::power, "values, or gradients, times a power of two give the same digits times that power",
       kAll & ~bit(Operator::moba_select), EqualBits::same_call, power_follow_ups, prepare_power},
  };
  return *std::find_if(std::begin(all), std::end(all), [&](const LawInfo& one) { return one.law == law; });
}

bool has_law(Operator op, Law law) { return (info(law).operators & bit(op)) != 0; }

void validate_law(const Case& c) {
  if (c.law == Law::none) return;
  if (!has_law(c.op, c.law)) {
    const auto names = names_where([&](Law law) { return has_law(c.op, law); });
    throw reference::InvalidProblem("law", name(c.law), fmt::format("{} has the laws {}", name(c.op), names));
  }
  if (!c.session.empty())
    throw reference::InvalidProblem("law", name(c.law), "has calls of its own, beside which there is no session");
  if (c.law == Law::future && !c.causal)
    throw reference::InvalidProblem("law", name(c.law), "needs causal=1, else every query sees the future");
}

std::string promise_missing(Law law) {
  return fmt::format("law {}: the kernel does not promise to be {}", name(law), name(info(law).promise));
}

void judge_law(const Kernel& kernel, const Case& c, CaseResult& result) {
  const LawInfo& law = info(c.law);
  const auto says_nothing = [&](std::string why) {
    result.verdict = Verdict::not_supported;
    result.reason = std::move(why);
  };
  if (kernel.equal_bits < law.promise) return says_nothing(promise_missing(c.law));
  const bool is_longer = c.law == Law::decode && kernel.limits.equal_lengths == EqualLengths::of_backwards;
  const bool with_backward = kernel.equal_bits_backward >= law.promise && !is_longer;
  Inputs inputs = make_inputs(c);
  if (law.prepare != nullptr) law.prepare(c, inputs);
  // The calls of `repeat` lie in places in turn, and none finds anything where another was.
  const bool moves = c.law == Law::repeat;
  PlacedMemory memory(kernel.memory);
  Kernel caller = kernel;
  if (moves) caller.memory = &memory;
  if (moves) memory.visit(0);
  const Outputs outputs = call_once(caller, c, inputs, with_backward, result);
  if (is_finding(result.verdict)) return;
  result.launches = c.law == Law::repeat ? kLaunches : 0;
  const SourceCall source{kernel, c, inputs, outputs};
  for (const FollowUp& follow_up : law.follow_ups(source)) {
    if (kernel.unsupported(follow_up.c)) continue;
    for (int time = 0; time < follow_up.times; ++time) {
      if (moves) memory.visit(static_cast<std::size_t>(time + 1) % kPlaces);
      const Outputs others = call_once(caller, follow_up.c, follow_up.inputs, with_backward, result);
      if (is_finding(result.verdict)) return;
      if (c.law == Law::repeat) result.launches += kLaunches;
      compare(source, follow_up, others, name(c.law), result);
      if (is_finding(result.verdict)) return;
    }
  }
  if (result.rows() == 0) says_nothing(fmt::format("law {}: nothing of the case is compared by it", name(c.law)));
}

namespace {

/// The line of those laws that calls with this promise are not held to.
std::string not_held_line(const std::string& calls, const Kernel& kernel, EqualBits promise) {
  const std::string names = names_where([&](Law law) {
    const auto has = [&](Operator op) { return has_law(op, law); };
    return promise < info(law).promise && std::any_of(kernel.operators.begin(), kernel.operators.end(), has);
  });
  if (names.empty()) return "";
  const auto next = static_cast<EqualBits>(static_cast<int>(promise) + 1);
  return fmt::format("{} not held to the laws {}: it does not promise to be {}\n", calls, names, name(next));
}

}  // namespace

std::string laws_not_held(const Kernel& kernel) {
  std::string lines = not_held_line(kernel.name, kernel, kernel.equal_bits);
  const bool has_backward = (kernel.backward || kernel.compress_backward || kernel.nsa_backward) &&
                            kernel.forward_only.size() < kernel.operators.size();
  if (has_backward && kernel.equal_bits_backward < kernel.equal_bits)
    lines += not_held_line("the backward of " + kernel.name, kernel, kernel.equal_bits_backward);
  return lines;
}

}  // namespace attnspec::verify
