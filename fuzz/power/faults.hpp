// What the table of power is made of: faults of known size, which are the model kernel with one mistake, in steps from
// gross to subtle; and right kernels.
#pragma once

#include <string>
#include <vector>

#include "verify/run/kernel.hpp"

namespace attnspec::fuzz {

/// A kernel, and the case that it is judged on.
struct Subject {
  std::string name;  // of a fault, "one key of 1024 dropped"
  verify::Case c;
  verify::Kernel kernel;
};

/// By kind, the gross ones first.
std::vector<Subject> faults();

/// The model kernel in every input pattern that is made of random numbers, in every format.
std::vector<Subject> right_kernels();

}  // namespace attnspec::fuzz
