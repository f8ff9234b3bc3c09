// Sessions: short sequences of calls of one kernel, for mistakes that need a call before them.
#pragma once

#include <cstddef>
#include <vector>

#include "verify/cases/case.hpp"

namespace attnspec::verify {

/// One call of a session: a case without a session, and the place in memory that its tensors lie at. In the same place
/// the tensors of calls with the same shapes have the same addresses.
struct SessionCall {
  Case c;
  std::size_t place;
};

/// The calls of a case's session: first the case alone, then one for each step, which changes the call before it.
std::vector<SessionCall> session_calls(const Case& c);

/// The names of the steps, in the order of the enumeration.
inline constexpr const char* kSessionSteps[] = {"contents", "moved", "shape", "offsets", "again"};
const char* name(SessionStep step);

}  // namespace attnspec::verify
