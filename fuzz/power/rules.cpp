#include "fuzz/power/rules.hpp"

#include <cmath>
#include <cstddef>

namespace attnspec::fuzz {

namespace {

using Numbers = std::span<const double>;

bool all_close(Numbers expected, Numbers observed, double tolerance) {
  for (std::size_t i = 0; i < expected.size(); ++i)
    if (expected[i] != observed[i] &&
        !(std::abs(observed[i] - expected[i]) <= tolerance + tolerance * std::abs(expected[i])))
      return false;
  return true;
}

/// sum (observed - expected)^2 / sum expected^2.
double squared_error(Numbers expected, Numbers observed) {
  double error = 0, square = 0;
  for (std::size_t i = 0; i < expected.size(); ++i) {
    if (expected[i] == observed[i] && std::isinf(expected[i])) continue;
    error += (observed[i] - expected[i]) * (observed[i] - expected[i]);
    square += expected[i] * expected[i];
  }
  return error == 0 ? 0 : error / square;
}

/// 1 - <expected, observed> / (|expected| |observed|).
double cosine_distance(Numbers expected, Numbers observed) {
  double product = 0, expected_square = 0, observed_square = 0;
  for (std::size_t i = 0; i < expected.size(); ++i) {
    if (expected[i] == observed[i] && std::isinf(expected[i])) continue;
    product += expected[i] * observed[i];
    expected_square += expected[i] * expected[i];
    observed_square += observed[i] * observed[i];
  }
  return expected_square == observed_square && product == expected_square
             ? 0
             : 1 - product / std::sqrt(expected_square * observed_square);
}

constexpr Rule kRules[] = {
    {"allclose 1e-2", [](Numbers expected, Numbers observed) { return all_close(expected, observed, 1e-2); }},
    {"allclose 2e-2", [](Numbers expected, Numbers observed) { return all_close(expected, observed, 2e-2); }},
    {"relative RMS 0.005",
     [](Numbers expected, Numbers observed) { return std::sqrt(squared_error(expected, observed)) <= 0.005; }},
    {"NMSE 5e-4", [](Numbers expected, Numbers observed) { return squared_error(expected, observed) <= 5e-4; }},
    {"cosine 1e-3", [](Numbers expected, Numbers observed) { return cosine_distance(expected, observed) <= 1e-3; }}};

}  // namespace

std::span<const Rule> usual_rules() { return kRules; }

}  // namespace attnspec::fuzz
