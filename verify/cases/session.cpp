#include "verify/cases/session.hpp"

#include <algorithm>

namespace attnspec::verify {

namespace {

/// Every sequence's neighbour's lengths.
template <class T>
void rotate(std::vector<T>& lengths) {
  if (!lengths.empty()) std::rotate(lengths.begin(), lengths.begin() + 1, lengths.end());
}

}  // namespace

const char* name(SessionStep step) { return kSessionSteps[static_cast<std::size_t>(step)]; }

std::vector<SessionCall> session_calls(const Case& c) {
  Case alone = c;
  alone.session.clear();
  std::vector<SessionCall> calls{{alone, 0}};
  std::size_t places = 1;
  for (const SessionStep step : c.session) {
    SessionCall call = calls.back();
    switch (step) {
      case SessionStep::contents: ++call.c.seed; break;
      case SessionStep::moved: call.place = places++; break;
      case SessionStep::shape:
        if (call.c.lens.empty()) break;
        call.c.lens.front() /= 2;
        call.c.q_lens.front() /= 2;
        break;
      case SessionStep::offsets:
        rotate(call.c.lens);
        rotate(call.c.q_lens);
        break;
      case SessionStep::again: call = calls.front(); break;
    }
    calls.push_back(std::move(call));
  }
  return calls;
}

}  // namespace attnspec::verify
