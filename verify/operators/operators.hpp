// The operators. What is particular to one stands on its page (NAME.hpp beside this); the questions below are answered
// from the pages' keys and tensors.
#pragma once

#include <array>
#include <cstddef>
#include <string_view>

namespace attnspec::verify {

enum class Operator {
  dense,
  selected,
  moba_select,
  moba,
  nsa_compress,
  nsa_compressed,
  window,
  nsa,
  msa_select,
  dsa_select,
  qsa_select,
};
inline constexpr auto kOperators = [] {
  std::array<Operator, static_cast<std::size_t>(Operator::qsa_select) + 1> all{};  // up to the last
  for (std::size_t i = 0; i < all.size(); ++i) all[i] = static_cast<Operator>(i);
  return all;
}();

struct OperatorPage;
const OperatorPage& page_of(Operator op);

const char* name(Operator op);
/// One line: inputs, outputs, meaning.
const char* summary(Operator op);
/// Throws std::invalid_argument that lists the operators.
Operator parse_operator(std::string_view text);

/// What the rows of a tensor belong to.
enum class RowsOf { queries, keys, compressed_rows, complete_blocks, parameters };

/// Whether cases of the operator have the key.
bool has_key(Operator op, std::string_view key);

/// Whether the operator attends (o, lse and gradients).
bool attends(Operator op);
/// Whether it has a backward.
bool has_gradients(Operator op);
/// Whether the kernel selects blocks, or tokens, by scores of queries and keys.
bool selects(Operator op);
/// Whether it does so by the queries and keys of an indexer, which are no query and key heads of an attention.
bool has_indexer(Operator op);
/// Whether all heads of a group share a selection that the kernel writes.
bool shares_selection(Operator op);
/// Whether it attends to blocks that it is given.
bool reads_selection(Operator op);
/// Whether it has an NsaProblem.
bool is_nsa(Operator op);
/// Whether it makes compressed rows out of tokens, with phi.
bool compresses(Operator op);
/// Whether it selects blocks by their importance.
bool has_importance(Operator op);
/// Whether it has branches, and gates that combine them.
bool has_branches(Operator op);
/// Whether it has queries.
bool has_queries(Operator op);
/// Whether a query has top_k slots for blocks: selected by the kernel, or given.
bool has_slots(Operator op);
/// Whether it has selection blocks.
bool has_blocks(Operator op);
/// Whether it has compression blocks.
bool has_compression(Operator op);
/// Whether it has a window.
bool has_window(Operator op);

/// What the rows of k are, and those of the gradient that its backward is given.
RowsOf key_rows(Operator op);
RowsOf gradient_rows(Operator op);

}  // namespace attnspec::verify
