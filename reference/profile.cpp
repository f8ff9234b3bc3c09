#include "reference/profile.hpp"

#include <algorithm>
#include <stdexcept>

namespace attnspec::reference {

namespace {

const Departure& find_departure(std::string_view name) {
  std::string names;
  for (const Departure& departure : departures()) {
    if (name == departure.name) return departure;
    names.append(names.empty() ? "" : ", ").append(departure.name);
  }
  throw std::invalid_argument("departure '" + std::string(name) + "': is none of " + names);
}

}  // namespace

const std::vector<Departure>& departures() {
  static const std::vector<Departure> all{
      {"fp32_weights", "P~, P, dS and what NSA's phi multiplies stay in fp32",
       [](Profile& p) { p.weights = Format::fp32; }},
      {"rounded_sum", "the normaliser sums the rounded weights",
       [](Profile& p) { p.normaliser = Normaliser::sums_rounded; }},
      {"normalise_first", "P = P~ / Z is formed and rounded before the product with v",
       [](Profile& p) { p.normaliser = Normaliser::divides_first; }},
      {"rounded_means", "mean keys are stored in the input format", [](Profile& p) { p.pooled = p.input; }},
      {"rounded_partials", "the output over each block is stored in the input format before the merge",
       [](Profile& p) { p.partial = p.input; }},
      {"fp32_out", "o and all gradients are stored in fp32", [](Profile& p) { p.output = Format::fp32; }},
      {"fused_branches", "o, g do and dq of NSA's branches pass on in fp32, not as they are stored",
       [](Profile& p) { p.fused_branches = true; }},
  };
  return all;
}

NameAndDepartures parse_departures(std::string_view text) {
  const std::size_t plus = std::min(text.find('+'), text.size());
  NameAndDepartures result{std::string(text.substr(0, plus)), {}};
  for (std::size_t begin = plus; begin < text.size();) {
    const std::size_t end = std::min(text.find('+', begin + 1), text.size());
    const std::string name = find_departure(text.substr(begin + 1, end - begin - 1)).name;
    for (const std::string& other : result.departures) {
      if (other == name) throw std::invalid_argument("departure '" + name + "': is given twice");
      if (std::min(other, name) == "normalise_first" && std::max(other, name) == "rounded_sum")
        throw std::invalid_argument("departure '" + name + "': contradicts " + other);
    }
    result.departures.push_back(name);
    begin = end;
  }
  return result;
}

Profile make_profile(Format input, const Departures& chosen) {
  Profile profile{.input = input, .weights = input, .output = input};
  for (const std::string& departure : chosen) find_departure(departure).apply(profile);
  return profile;
}

std::string describe(const Profile& profile) {
  const char* normaliser = profile.normaliser == Normaliser::sums_rounded     ? "normaliser sums rounded weights"
                           : profile.normaliser == Normaliser::sums_unrounded ? "normaliser sums unrounded weights"
                                                                              : "normalised before rounding";
  return std::string(name(profile.input)) + " in; P~, P, dS " + name(profile.weights) + "; " + normaliser +
         "; mean keys " + name(profile.pooled) + "; partial outputs " + name(profile.partial) + "; out " +
         name(profile.output) + (profile.fused_branches ? "; branches fused" : "");
}

}  // namespace attnspec::reference
