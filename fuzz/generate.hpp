// Generated cases. What a case is made of are axes (its heads, its lengths, its regime ...), each with alternatives
// that lie on edges. RapidCheck draws the alternatives and the numbers within them; a swarm says which it may draw.
#pragma once

#include <rapidcheck.h>

#include <functional>
#include <string>
#include <vector>

#include "verify/case.hpp"

namespace attnspec::fuzz {

using verify::Case;
using verify::Operator;

/// A case that is being drawn.
struct Draft {
  Case c;
  std::int64_t room = 0;       // query tokens times heads that it may have, about
  std::int64_t sequences = 1;  // how many
};

/// One way to draw one part of a case. It may call RapidCheck's generators, one draw in one statement: the order of
/// the draws must not be the compiler's choice.
struct Alternative {
  std::string name;
  int weight;  // against the others of its axis
  std::function<void(Draft&)> draw;
  std::function<bool(Operator)> has{};  // whether the operator has it; empty: it does if it has the axis
};

struct Axis {
  std::string name;
  std::function<bool(Operator)> has;  // whether cases of the operator have such a part
  std::vector<Alternative> alternatives;
  bool is_always_whole = false;  // a swarm leaves none of its alternatives out
  bool is_per_sequence = false;  // drawn once for each sequence
};

/// In the order they are drawn; an axis may depend on those before it.
const std::vector<Axis>& axes();

/// The alternatives that a batch of cases is made of: those of each axis in a mask, at least one. Half of the axes keep
/// all of theirs. A rare combination becomes frequent where nothing else may be drawn.
struct Swarm {
  std::vector<std::vector<bool>> enabled;
};

/// Of all alternatives.
Swarm whole_swarm();

rc::Gen<Swarm> any_swarm();

/// Leaves nothing but cases of these laws.
void keep_laws(const std::vector<verify::Law>& laws, Swarm& swarm);

/// The alternatives of the axes of these operators that lack some, "regime: tie, levers; causal: no".
std::string describe(const Swarm& swarm, const std::vector<Operator>& operators);

/// A case of the operator within a swarm. Most have tens of tokens, some hundreds. Keys that the operator does not have
/// may hold anything; normalised makes a valid case of it.
rc::Gen<Case> any_case(Operator op, const Swarm& swarm);

/// The case with the keys that its operator does not have at their defaults, so that it prints as it is. Throws what
/// parse_case throws.
Case normalised(const Case& c);

}  // namespace attnspec::fuzz
