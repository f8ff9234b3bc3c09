// Plain numbers in place of those of the input pattern, tensor by tensor: what a person can compute with.
#pragma once

#include <cstdint>
#include <optional>
#include <string>
#include <vector>

#include "verify/cases/case.hpp"
#include "verify/cases/regimes.hpp"

namespace attnspec::verify {

inline constexpr std::int64_t kPlainNumbers = static_cast<std::int64_t>(PlainNumbers::whole) + 1;

/// The key of a case and its text: "q:zeros+v:positions"; "zeros+v:ones" has zeros in all but v. The parser throws
/// reference::InvalidProblem for names that are not known.
std::vector<TensorNumbers> parse_numbers(const std::string& text);
std::string print_numbers(const std::vector<TensorNumbers>& numbers);

/// The names of tensors of the case's operator that may hold plain numbers, and those of them that have elements.
std::vector<std::string> tensors_with_numbers(const Case& c);
std::vector<std::string> filled_tensors_with_numbers(const Case& c);

/// What a tensor holds; nothing: the numbers of the input pattern.
std::optional<PlainNumbers> numbers_of(const Case& c, const std::string& tensor);

/// The case with these numbers in that tensor, written as short as they can be.
Case with_numbers(Case c, const std::string& tensor, PlainNumbers numbers);

/// Throws reference::InvalidProblem for a tensor that has none or comes twice, beside a law, and in fp16, which does
/// not hold the sums.
void validate_numbers(const Case& c);

/// Fills the tensors that the case names.
void fill_plain_numbers(const Case& c, Inputs& inputs);

}  // namespace attnspec::verify
