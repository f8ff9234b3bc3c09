// The rows of failing cases as patterns look at them: where each is, and whether it is wrong.
#pragma once

#include <chrono>
#include <cstdint>
#include <map>
#include <string>
#include <vector>

#include "verify/judge/result.hpp"
#include "verify/run/kernel.hpp"

namespace attnspec::verify {

/// One row of an output. Positions and blocks are those among the tokens or compressed rows of its sequence, so that
/// the first of fewer queries than keys is not at 0.
struct RowFacts {
  std::int64_t sequence = 0, sequences = 1;
  std::int64_t row = 0, rows = 1;  // of its output in its sequence
  std::int64_t position = 0;
  std::int64_t head = 0, heads = 1;
  std::int64_t kv_head = 0, head_in_group = 0, group = 1;
  std::int64_t block = 0, in_block = 0, blocks = 1;  // of selection; 1 where there are none
  bool is_in_short_block = false;
  std::int64_t window = 0, compress_block = 0, compress_stride = 0, block_size = 0;  // 0: there is none
  std::int64_t seen_ranges = -1, seen_keys = -1;  // of a query row whose keys are known; -1: not
  std::int64_t dim = 1;
  std::vector<std::int64_t> wrong_features{};  // of a wrong row
  bool is_wrong = false;
};

/// The rows of every output that has wrong ones, by its name, and the kind of each output.
struct WrongRows {
  std::map<std::string, std::vector<RowFacts>> rows;
  std::map<std::string, std::string> kinds;
  bool took_too_long = false;
};

/// Judges these cases again, and keeps the rows of their outputs. Of a session the rows of its last call that is
/// judged.
WrongRows wrong_rows(const Kernel& kernel, const std::vector<Case>& cases, std::chrono::steady_clock::time_point end);

}  // namespace attnspec::verify
