// The inputs of a case that is small enough to be computed by hand.
#pragma once

#include <optional>
#include <string>
#include <vector>

#include "verify/cases/case.hpp"

namespace attnspec::fuzz {

/// One row of an input: of a token and head of the packed tensor; of parameters a row and set.
struct InputRow {
  std::int64_t token, head;
  std::vector<double> values;
};

struct InputTensor {
  std::string name;  // as in kernel_abi.h
  std::vector<InputRow> rows;
};

/// Every tensor that the kernel is called with, a given selection too; nothing where they hold more than 128 numbers.
std::optional<std::vector<InputTensor>> few_numbers(const verify::Case& c);

}  // namespace attnspec::fuzz
