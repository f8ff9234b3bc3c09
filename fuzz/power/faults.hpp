// Faults of known size: the model kernel with one mistake, in steps from gross to subtle.
#pragma once

#include <string>
#include <vector>

#include "verify/kernel.hpp"

namespace attnspec::fuzz {

struct Fault {
  std::string name;  // "one key of 1024 dropped"
  verify::Case c;    // on which it is looked for
  verify::Kernel kernel;
};

/// By kind, the gross ones first.
std::vector<Fault> faults();

}  // namespace attnspec::fuzz
