// What a kernel can do, as data: which sizes, formats and shapes. It says whether a case lies inside, and moves one
// that does not to the nearest one that does, so that a kernel is judged on as many cases as one without limits.
#pragma once

#include <cstdint>
#include <optional>
#include <string>
#include <vector>

#include "verify/cases/case.hpp"

namespace attnspec::verify {

/// The values of one size that a kernel can do. 0, empty and false: no limit.
struct SizeLimit {
  std::int64_t smallest = 0, largest = 0, multiple_of = 0;
  std::vector<std::int64_t> set;  // one of these
  bool power_of_two = false;

  bool operator==(const SizeLimit&) const = default;
};

/// Which softmax scales.
enum class ScaleLimit { any, positive, default_only };
/// Which calls need as many queries as keys in every sequence.
enum class EqualLengths { none, all, where_causal, of_backwards };
/// Which heads a given selection is of.
enum class SelectionPer { any, head, kv_head };

/// NSA's blocks that every query selects.
struct ForcedBlocks {
  std::int64_t initial = 0, local = 0;

  bool operator==(const ForcedBlocks&) const = default;
};

/// Without anything set: no limits.
struct Limits {
  SizeLimit dk, dv, group;                // group: query heads of a kv head
  SizeLimit block, top_k;                 // of `selected`: slots; of NSA: selection blocks and top_n
  SizeLimit compress_block, window_size;  // of NSA
  SizeLimit queries, keys;                // of a sequence that has some
  SizeLimit sequences;
  std::vector<Format> dtypes;  // empty: all; so are the next two
  std::vector<reference::Gate> gates;
  std::vector<reference::Phi> phis;
  ScaleLimit scale = ScaleLimit::any;
  EqualLengths equal_lengths = EqualLengths::none;
  SelectionPer selection_per = SelectionPer::any;
  SelectionOrder selection_order = SelectionOrder::any;  // that a given selection has at least
  std::optional<ForcedBlocks> forced_blocks;
  bool only_causal = false;
  bool only_equal_dims = false;       // dk = dv
  bool only_equal_blocks = false;     // compress_block = compress_stride = block
  bool no_empty_sequences = false;    // every sequence has a query and a key
  bool no_rows_without_keys = false;  // a causal sequence has no more queries than keys; none has queries without keys;
                                      // a given selection has the query's own block

  bool operator==(const Limits&) const = default;
};

/// The first limit that excludes the case, one line with field and value; nothing where none does.
std::optional<std::string> outside(const Limits& limits, const Case& c);

/// Whether the limits allow the backward of a case whose forward they allow.
bool allows_backward(const Limits& limits, const Case& c);

/// The case itself where the limits allow it, else a valid one near it that they allow. Sizes go to the nearest allowed
/// value. An excluded format, gate or phi becomes an allowed one, another one in other cases. Where the block changes,
/// lengths keep their place beside its edges: whole blocks stay whole, one token past or short of an edge stays that. A
/// case that becomes expensive loses whole blocks.
///
/// The limits must allow some case of the operator; else what is given back is outside, or InvalidProblem is thrown.
Case inside(const Limits& limits, const Case& c);

/// "dk 64 128, block 64, group 16, bf16, causal"; empty without limits.
std::string describe(const Limits& limits);

}  // namespace attnspec::verify
