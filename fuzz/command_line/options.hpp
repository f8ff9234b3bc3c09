// What the options of several commands have in common: ranges of numbers, kinds of values, examples.
#pragma once

#include <fmt/format.h>

#include <CLI/CLI.hpp>
#include <charconv>
#include <concepts>
#include <limits>
#include <string>
#include <vector>

#include "verify/run/kernel.hpp"

namespace attnspec::fuzz {

/// Kinds of values, as --help names them. The options of all commands that take the same kind have the same values.
inline constexpr const char* kKernelValue = "KERNEL";
inline constexpr const char* kOperatorValue = "OPERATOR";
inline constexpr const char* kLawValue = "LAW";
inline constexpr const char* kRegimeValue = "REGIME";
inline constexpr const char* kDefectValue = "DEFECT";
inline constexpr const char* kArithmeticValue = "ARITHMETIC";
inline constexpr const char* kDirectionValue = "DIRECTION";
inline constexpr const char* kCaseValue = "CASE";
inline constexpr const char* kFileValue = "FILE";
inline constexpr const char* kDirectoryValue = "DIRECTORY";

/// All values of a kind, for completion; none where they cannot be listed.
std::vector<std::string> values_of(const std::string& kind);

/// A number from min to max. The error says in one line what is wrong: "0 is below 1", "9 is not from 1 to 2".
template <class Number>
CLI::Validator in_range(Number min, Number max = std::numeric_limits<Number>::max()) {
  const auto fault = [min, max](const std::string& text) -> std::string {
    Number value{};
    const bool is_negative = text.starts_with('-');
    const char* begin = text.data() + (std::unsigned_integral<Number> && is_negative ? 1 : 0);
    const auto [end, error] = std::from_chars(begin, text.data() + text.size(), value);
    if (error == std::errc::invalid_argument || end != text.data() + text.size() || value != value)
      return fmt::format("{} is not a {}number", text, std::integral<Number> ? "whole " : "");
    const bool is_beyond = error != std::errc();  // what Number holds
    const bool is_below = is_beyond || begin != text.data() ? is_negative : value < min;
    if (!is_below && !is_beyond && value <= max) return "";
    if (max != std::numeric_limits<Number>::max()) return fmt::format("{} is not from {} to {}", text, min, max);
    return is_below ? fmt::format("{} is below {}", text, min) : fmt::format("{} is too large", text);
  };
  return {fault, ""};
}

/// A number above 0. The error says in one line what is wrong: "-1 is not above 0".
CLI::Validator above_zero();

/// An option for a number of cases, rows, runs or jobs: at least 1.
template <std::integral Number>
CLI::Validator positive() {
  return in_range<Number>(1);
}

/// --timeout, of the commands that judge kernels of others.
void add_timeout(CLI::App& command, verify::Seconds& timeout);

/// The end of a command's help: a command to try, which ends in seconds.
void add_example(CLI::App& command, const std::string& example);

}  // namespace attnspec::fuzz
