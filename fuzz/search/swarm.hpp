// Cases for the search: RapidCheck draws them out of the space of cases; a swarm says which values it may draw.
#pragma once

#include <rapidcheck.h>

#include <string>
#include <vector>

#include "verify/cases/case.hpp"

namespace attnspec::fuzz {

/// The values that a batch of cases is made of: those of each axis in a mask, at least one. Half of the axes keep all
/// of theirs. A rare combination becomes frequent where nothing else may be drawn.
struct Swarm {
  std::vector<std::vector<bool>> enabled;
};

/// Of all values.
Swarm whole_swarm();

rc::Gen<Swarm> any_swarm();

/// Leaves nothing but cases of these laws.
void keep_laws(const std::vector<verify::Law>& laws, Swarm& swarm);

/// The values of the axes of these operators that lack some, "regime: tie, levers; causal: no".
std::string describe(const Swarm& swarm, const std::vector<verify::Operator>& operators);

/// A case of the operator within a swarm.
rc::Gen<verify::Case> any_case(verify::Operator op, const Swarm& swarm);

}  // namespace attnspec::fuzz
