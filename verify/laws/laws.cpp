#include "verify/laws/laws.hpp"

#include <fmt/format.h>
#include <fmt/ranges.h>

#include <algorithm>
#include <iterator>

#include "verify/laws/calls.hpp"
#include "verify/laws/changes.hpp"
#include "verify/laws/collapses.hpp"
#include "verify/laws/gradients.hpp"
#include "verify/laws/mass.hpp"
#include "verify/laws/moves.hpp"
#include "verify/laws/near_moves.hpp"
#include "verify/laws/power.hpp"
#include "verify/laws/symmetries.hpp"
#include "verify/run/placed_memory.hpp"

namespace attnspec::verify {

namespace {

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
      {Law::repeat, "the same call gives the same bits, however often it is launched", EqualBits::same_call, nullptr,
       repeat_follow_ups},
      {Law::future, "a row keeps its bits when everything after its position changes", EqualBits::same_shape, nullptr,
       future_follow_ups},
      {Law::unselected,
       "a row keeps its bits when values change in blocks that it has not selected, or outside its window",
       EqualBits::same_shape, nullptr, unselected_follow_ups},
      {Law::heads, "heads in another order give the same rows in that order", EqualBits::same_shape, nullptr,
       heads_follow_ups},
      {Law::strides, "a row's bits do not depend on where its tensors have gaps", EqualBits::same_shape, nullptr,
       strides_follow_ups},
      {Law::packing, "a sequence has the same bits packed with others, in another order and alone",
       EqualBits::any_batch, nullptr, packing_follow_ups},
      {Law::decode, "the last queries, or compressed rows, alone have the bits that they have among all of them",
       EqualBits::any_batch, nullptr, decode_follow_ups},
      {Law::power, "values, or gradients, times a power of two give the same digits times that power",
       EqualBits::same_call, prepare_power, power_follow_ups},
      {Law::negation, "-q and -k give the same bits as q and k, and gradients with the other sign",
       EqualBits::same_call, nullptr, negation_follow_ups},
      {Law::reciprocal, "q over a power of two and k times that power give the same bits", EqualBits::same_call,
       prepare_power, reciprocal_follow_ups},
      {Law::slots, "a given selection in another order of its slots gives the same rows", EqualBits::none, nullptr,
       nullptr, slots_follow_ups},
      {Law::groups, "a group gives the rows of heads that have equal k and v of their own", EqualBits::none, nullptr,
       nullptr, groups_follow_ups},
      {Law::prefix, "the first tokens of a sequence alone have the rows that they have among all", EqualBits::none,
       nullptr, nullptr, prefix_follow_ups},
      {Law::all_blocks, "MoBA with every block selected is dense attention", EqualBits::none, nullptr, nullptr,
       all_blocks_follow_ups},
      {Law::own_block, "MoBA with top_k = 1 is causal attention within each block", EqualBits::none, nullptr, nullptr,
       own_block_follow_ups},
      {Law::whole_window, "a window as long as the sequence is causal dense attention", EqualBits::none, nullptr,
       nullptr, whole_window_follow_ups},
      {Law::as_moba, "NSA with groups of one head and compression blocks that are its blocks selects as MoBA does",
       EqualBits::none, nullptr, nullptr, as_moba_follow_ups},
      {Law::one_hot, "with one gate of 1 and two of 0, o is that of the branch", EqualBits::none, prepare_one_hot,
       nullptr, nullptr, check_one_hot},
      {Law::mass, "overlap weights as values give importances: they sum to l / d, and the selected blocks have most",
       EqualBits::none, prepare_mass, nullptr, nullptr, check_mass},
      {Law::dk_sum, "dk of all keys of a sequence sums to 0", EqualBits::none, prepare_sums, nullptr, nullptr,
       check_dk_sum},
      {Law::dv_sum, "dv of all keys of a sequence sums to the sum of do", EqualBits::none, prepare_sums, nullptr,
       nullptr, check_dv_sum},
      {Law::one_row, "do in one row leaves exact zeros in all gradients that it does not enter", EqualBits::none,
       prepare_one_row, nullptr, nullptr, check_one_row},
  };
  return *std::find_if(std::begin(all), std::end(all), [&](const LawInfo& one) { return one.law == law; });
}

std::string promise_missing(Law law) {
  return fmt::format("law {}: the kernel does not promise to be {}", name(law), name(info(law).promise));
}

namespace {

void says_nothing(std::string why, CaseResult& result) {
  result.verdict = Verdict::not_supported;
  result.reason = std::move(why);
}

/// The law on calls that must have equal bits.
void judge_bits(const Kernel& kernel, const Case& c, const LawInfo& law, const Inputs& inputs, CaseResult& result) {
  const bool is_longer = c.law == Law::decode && kernel.limits.equal_lengths == EqualLengths::of_backwards;
  const bool with_backward = kernel.equal_bits_backward >= law.promise && !is_longer;
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
}

/// The law on numbers that must be equal within rounding.
void judge_rounded(const Kernel& kernel, const Case& c, const LawInfo& law, const Inputs& inputs, CaseResult& result) {
  const JudgedCall source = judged_call(kernel, c, inputs, result);
  if (is_finding(result.verdict)) return;
  RoundedComparison comparison(name(c.law), result);
  if (law.check != nullptr) return law.check(source, comparison);
  for (const NearFollowUp& follow_up : law.near(source)) {
    if (kernel.unsupported(follow_up.c)) continue;
    const JudgedCall other = judged_call(kernel, follow_up.c, follow_up.inputs, result);
    if (is_finding(result.verdict)) return;
    compare(source, follow_up, other, comparison);
  }
}

}  // namespace

void judge_law(const Kernel& kernel, const Case& c, CaseResult& result) {
  const LawInfo& law = info(c.law);
  if (kernel.equal_bits < law.promise) return says_nothing(promise_missing(c.law), result);
  Inputs inputs = make_inputs(c);
  if (law.prepare != nullptr) law.prepare(c, inputs);
  if (law.follow_ups != nullptr)
    judge_bits(kernel, c, law, inputs, result);
  else
    judge_rounded(kernel, c, law, inputs, result);
  if (result.rows() > 0 || is_finding(result.verdict)) return;
  says_nothing(c.law == Law::as_moba && !implements(kernel, Operator::moba)
                   ? fmt::format("law {}: the kernel does not implement {}", name(c.law), name(Operator::moba))
                   : fmt::format("law {}: nothing of the case is compared by it", name(c.law)),
               result);
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
  const bool has_any_backward = std::any_of(kernel.operators.begin(), kernel.operators.end(),
                                            [&](Operator op) { return has_backward(kernel, op); });
  if (has_any_backward && kernel.equal_bits_backward < kernel.equal_bits)
    lines += not_held_line("the backward of " + kernel.name, kernel, kernel.equal_bits_backward);
  return lines;
}

}  // namespace attnspec::verify
