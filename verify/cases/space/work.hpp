// How much there is to do in a case.
#pragma once

#include "verify/cases/case.hpp"

namespace attnspec::verify {

/// Multiplications of a case's calls, about, with a constant for each call: what a search shares fairly between
/// operators without measuring, so that it draws the same cases on every machine.
double work(const Case& c);

}  // namespace attnspec::verify
