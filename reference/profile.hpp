// Declared arithmetic: the closed list of what a kernel may round, and where.
#pragma once

#include <string>
#include <string_view>
#include <vector>

#include "reference/format.hpp"

namespace attnspec::reference {

/// Which sum divides the output, and when.
enum class Normaliser {
  sums_unrounded,  // of the weights before their rounding to `weights`, after the product with v
  sums_rounded,    // of the rounded weights, so that equal rounding errors cancel
  divides_first,   // P = P~ / Z is formed and then rounded, before the product with v
};

/// The arithmetic a kernel declares. Products accumulate in fp32; statistics (lse, delta) are fp32.
struct Profile {
  Format input = Format::bf16;    // q, k, v, do
  Format weights = Format::bf16;  // P~ (or P) at the product with v; P and dS at the products of the backward
  Format pooled = Format::fp32;   // mean keys
  Format partial = Format::fp32;  // the output over one block, before blocks are merged
  Format output = Format::bf16;   // o, dq, dk, dv
  Normaliser normaliser = Normaliser::sums_unrounded;
  bool fused_branches = false;  // NSA: o, g do and dq of a branch pass to what follows in fp32, not as they are stored
};

/// Ways to depart from the plain arithmetic of an input format, in which weights and outputs have that format and all
/// else is fp32. A kernel declares any set of them, and the same for every format.
struct Departure {
  const char* name;
  const char* meaning;
  void (*apply)(Profile& profile);
};
const std::vector<Departure>& departures();

/// Names of departures, in the order of the list. A profile is an input format and such a set.
using Departures = std::vector<std::string>;

/// "moba+rounded_sum+fp32_out" is "moba" and two departures. Throws std::invalid_argument naming a departure that is
/// unknown, given twice, or that contradicts another (rounded_sum, normalise_first).
struct NameAndDepartures {
  std::string name;
  Departures departures;
};
NameAndDepartures parse_departures(std::string_view text);

/// The profile of an input format with departures, which parse_departures accepts.
Profile make_profile(Format input, const Departures& departures = {});

/// One line: "bf16 in; P~, P, dS bf16; normaliser sums unrounded weights; mean keys fp32; partial outputs fp32;
/// out bf16", and "; branches fused" where they are.
std::string describe(const Profile& profile);

}  // namespace attnspec::reference
