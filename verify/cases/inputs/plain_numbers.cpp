#include "verify/cases/inputs/plain_numbers.hpp"

#include <fmt/format.h>
#include <fmt/ranges.h>

#include <algorithm>
#include <cmath>
#include <iterator>
#include <map>
#include <set>

#include "verify/cases/inputs/filling.hpp"
#include "verify/operators/operator.hpp"

namespace attnspec::verify {

using reference::InvalidProblem;

namespace {

constexpr const char* kNames[] = {"zeros", "ones", "positions", "one_hot", "whole"};

PlainNumbers parse_plain(const std::string& text, const std::string& name) {
  const auto found = std::find(std::begin(kNames), std::end(kNames), name);
  if (found == std::end(kNames))
    throw InvalidProblem("numbers", text, fmt::format("'{}' is none of {}", name, fmt::join(kNames, ", ")));
  return static_cast<PlainNumbers>(found - std::begin(kNames));
}

/// Of each row of a tensor its position in its sequence; parameters are one sequence.
std::vector<std::int64_t> positions(const Case& c, const TensorInfo& tensor, std::int64_t rows) {
  std::vector<std::int64_t> lengths{rows}, all;
  if (tensor.rows != RowsOf::parameters) lengths = row_counts(c, tensor.rows);
  for (const std::int64_t length : lengths)
    for (std::int64_t position = 0; position < length; ++position) all.push_back(position);
  return all;
}

template <class Is>
std::vector<std::string> names_where(const Case& c, const Is& is) {
  const Inputs none;
  std::vector<std::string> names;
  for (const TensorInfo& tensor : page_of(c.op).tensors)
    if ((tensor.role == Role::input || tensor.role == Role::given_gradient) && find_input(tensor, none) != nullptr &&
        !(c.shared_kv && tensor.branch) && is(tensor))
      names.push_back(tensor.name);
  return names;
}

}  // namespace

std::vector<TensorNumbers> parse_numbers(const std::string& text) {
  std::vector<TensorNumbers> all;
  for (std::size_t begin = 0; begin <= text.size();) {
    const std::size_t end = std::min(text.find('+', begin), text.size());
    const std::string part = text.substr(begin, end - begin);
    const std::size_t colon = part.find(':');
    const bool is_of_all = colon == std::string::npos;
    all.push_back(
        {is_of_all ? "" : part.substr(0, colon), parse_plain(text, is_of_all ? part : part.substr(colon + 1))});
    begin = end + 1;
  }
  return all;
}

std::string print_numbers(const std::vector<TensorNumbers>& numbers) {
  std::vector<std::string> parts;
  for (const auto& [tensor, plain] : numbers)
    parts.push_back(fmt::format("{}{}{}", tensor, tensor.empty() ? "" : ":", kNames[static_cast<std::size_t>(plain)]));
  return fmt::format("{}", fmt::join(parts, "+"));
}

std::vector<std::string> tensors_with_numbers(const Case& c) {
  return names_where(c, [](const TensorInfo&) { return true; });
}

std::vector<std::string> filled_tensors_with_numbers(const Case& c) {
  return names_where(c, [&](const TensorInfo& tensor) {
    const Shape shape = shape_of(c, tensor);
    return shape.tokens * shape.heads * shape.dim > 0;
  });
}

std::optional<PlainNumbers> numbers_of(const Case& c, const std::string& tensor) {
  for (const std::string& name : {tensor, std::string()})
    for (const TensorNumbers& numbers : c.numbers)
      if (numbers.tensor == name) return numbers.numbers;
  return std::nullopt;
}

Case with_numbers(Case c, const std::string& tensor, PlainNumbers numbers) {
  std::map<std::string, PlainNumbers> all;
  std::map<PlainNumbers, std::size_t> counts;
  const std::vector<std::string> names = filled_tensors_with_numbers(c);
  for (const std::string& name : names)
    if (const auto plain = name == tensor ? numbers : numbers_of(c, name)) ++counts[all[name] = *plain];
  c.numbers.clear();
  std::optional<PlainNumbers> of_most;
  if (all.size() == names.size() && names.size() > 1)
    of_most = std::max_element(counts.begin(), counts.end(), [](const auto& a, const auto& b) {
                return a.second < b.second;
              })->first;
  if (of_most) c.numbers.push_back({"", *of_most});
  for (const std::string& name : names)
    if (all.contains(name) && all.at(name) != of_most) c.numbers.push_back({name, all.at(name)});
  return c;
}

void validate_numbers(const Case& c) {
  if (c.numbers.empty()) return;
  if (c.law != Law::none) throw InvalidProblem("numbers", print_numbers(c.numbers), "a law has numbers of its own");
  if (c.dtype == Format::fp16)
    throw InvalidProblem("numbers", print_numbers(c.numbers), "fp16 does not hold sums of plain numbers");
  const std::vector<std::string> names = tensors_with_numbers(c);
  std::set<std::string> seen;
  for (const TensorNumbers& numbers : c.numbers) {
    if (!numbers.tensor.empty() && std::find(names.begin(), names.end(), numbers.tensor) == names.end())
      throw InvalidProblem("numbers", print_numbers(c.numbers),
                           fmt::format("'{}' is none of {}", numbers.tensor, fmt::join(names, ", ")));
    if (!seen.insert(numbers.tensor).second)
      throw InvalidProblem("numbers", print_numbers(c.numbers),
                           fmt::format("has {} twice", numbers.tensor.empty() ? "all" : numbers.tensor));
  }
}

void fill_plain_numbers(const Case& c, Inputs& inputs) {
  if (c.numbers.empty()) return;
  for (const std::string& name : filled_tensors_with_numbers(c)) {
    const std::optional<PlainNumbers> plain = numbers_of(c, name);
    if (!plain) continue;
    const TensorInfo& info = tensor_of(c.op, name);
    reference::Tensor& tensor = *find_input(info, inputs);
    const std::vector<std::int64_t> position = positions(c, info, tensor.tokens);
    fill(c, tensor, [&](std::int64_t token, std::int64_t head, std::int64_t d) -> double {
      const std::int64_t at = position[static_cast<std::size_t>(token)];
      switch (*plain) {
        case PlainNumbers::zeros: return 0;
        case PlainNumbers::ones: return 1;
        case PlainNumbers::positions: return static_cast<double>(at + 1);
        case PlainNumbers::one_hot: return at % tensor.dim == d ? 1 : 0;
        case PlainNumbers::whole: break;
      }
      return std::round(tensor.at(token, head)[d]);
    });
  }
}

}  // namespace attnspec::verify
