#include "verify/operators/operators.hpp"

#include <fmt/format.h>
#include <fmt/ranges.h>

#include <algorithm>
#include <array>
#include <numeric>
#include <stdexcept>
#include <string>
#include <vector>

#include "verify/operators/dense.hpp"
#include "verify/operators/dsa_select.hpp"
#include "verify/operators/moba.hpp"
#include "verify/operators/moba_select.hpp"
#include "verify/operators/msa_select.hpp"
#include "verify/operators/nsa.hpp"
#include "verify/operators/nsa_compress.hpp"
#include "verify/operators/nsa_compressed.hpp"
#include "verify/operators/qsa_select.hpp"
#include "verify/operators/selected.hpp"
#include "verify/operators/window.hpp"

namespace attnspec::verify {

namespace {

/// What follows from a page's keys and tensors.
struct Traits {
  bool attends, has_gradients, selects, has_indexer, shares_selection, reads_selection, compresses, has_importance,
      has_branches, has_queries, has_slots, has_blocks, has_compression, has_window;
  RowsOf key_rows = RowsOf::keys, gradient_rows = RowsOf::queries;
};

const TensorInfo* find(const OperatorPage& page, std::string_view tensor) {
  const auto found =
      std::find_if(page.tensors.begin(), page.tensors.end(), [&](const TensorInfo& one) { return one.name == tensor; });
  return found == page.tensors.end() ? nullptr : &*found;
}

bool has(const OperatorPage& page, std::string_view key) {
  return std::find(page.keys.begin(), page.keys.end(), key) != page.keys.end();
}

Traits traits_of(const OperatorPage& page) {
  const TensorInfo* selection = find(page, "selection");
  const bool writes_selection = selection != nullptr && selection->role == Role::output;
  Traits traits{
      .attends = find(page, "o") != nullptr,
      .has_gradients = std::any_of(page.tensors.begin(), page.tensors.end(), is_gradient),
      .selects = writes_selection && has(page, "top_k"),
      .has_indexer = find(page, "qi") != nullptr,
      .shares_selection = writes_selection && selection->heads == Heads::kv,
      .reads_selection = selection != nullptr && selection->role == Role::input,
      .compresses = has(page, "phi"),
      .has_importance = writes_selection && has(page, "top_n"),
      .has_branches = find(page, "gates") != nullptr,
      .has_queries = has(page, "q_lens"),
      .has_slots = has(page, "top_k"),
      .has_blocks = has(page, "block"),
      .has_compression = has(page, "compress_block"),
      .has_window = has(page, "window"),
  };
  for (const TensorInfo& tensor : page.tensors) {
    if (tensor.role == Role::input && tensor.input == &Inputs::k) traits.key_rows = tensor.rows;
    if (tensor.role == Role::given_gradient) traits.gradient_rows = tensor.rows;
  }
  return traits;
}

struct Entry {
  OperatorPage page;
  Traits traits;

  explicit Entry(OperatorPage of) : page(std::move(of)), traits(traits_of(page)) {}
};

const Entry& entry(Operator op) {
  static const std::vector<Entry> all{
      // in the order of the enumeration
      Entry(dense_page()),        Entry(selected_page()),       Entry(moba_select_page()), Entry(moba_page()),
      Entry(nsa_compress_page()), Entry(nsa_compressed_page()), Entry(window_page()),      Entry(nsa_page()),
      Entry(msa_select_page()),   Entry(dsa_select_page()),     Entry(qsa_select_page())};
  return all[static_cast<std::size_t>(op)];
}

const Traits& traits(Operator op) { return entry(op).traits; }

}  // namespace

const OperatorPage& page_of(Operator op) { return entry(op).page; }
const char* name(Operator op) { return page_of(op).name.c_str(); }
const char* summary(Operator op) { return page_of(op).summary.c_str(); }

Operator parse_operator(std::string_view text) {
  std::vector<std::string> names;
  for (const Operator op : kOperators) {
    if (text == name(op)) return op;
    names.push_back(name(op));
  }
  throw std::invalid_argument(fmt::format("operator '{}': is none of {}", text, fmt::join(names, ", ")));
}

bool has_key(Operator op, std::string_view key) { return has(page_of(op), key); }

bool attends(Operator op) { return traits(op).attends; }
bool has_gradients(Operator op) { return traits(op).has_gradients; }
bool selects(Operator op) { return traits(op).selects; }
bool has_indexer(Operator op) { return traits(op).has_indexer; }
bool shares_selection(Operator op) { return traits(op).shares_selection; }
bool reads_selection(Operator op) { return traits(op).reads_selection; }
bool is_nsa(Operator op) { return page_of(op).is_nsa; }
bool compresses(Operator op) { return traits(op).compresses; }
bool has_importance(Operator op) { return traits(op).has_importance; }
bool has_branches(Operator op) { return traits(op).has_branches; }
bool has_queries(Operator op) { return traits(op).has_queries; }
bool has_slots(Operator op) { return traits(op).has_slots; }
bool has_blocks(Operator op) { return traits(op).has_blocks; }
bool has_compression(Operator op) { return traits(op).has_compression; }
bool has_window(Operator op) { return traits(op).has_window; }
RowsOf key_rows(Operator op) { return traits(op).key_rows; }
RowsOf gradient_rows(Operator op) { return traits(op).gradient_rows; }

namespace {

std::int64_t heads_of(const Case& c, Heads heads) {
  if (heads == Heads::given) return c.shared_selection ? c.kv_heads : c.heads;
  return heads == Heads::query ? c.heads : c.kv_heads;
}

std::int64_t dim_of(const Case& c, Dim dim) {
  switch (dim) {
    case Dim::dk: return c.dk;
    case Dim::dv: return c.dv;
    case Dim::one: return 1;
    case Dim::branches: return 3;
    case Dim::heads: return c.heads;
    case Dim::slots: return page_of(c.op).slots(c);
  }
  return 0;
}

}  // namespace

Shape shape_of(const Case& c, const TensorInfo& tensor) {
  if (tensor.part != nullptr) {
    using Shapes = PhiTensors<std::array<std::int64_t, 3>>;
    const Shapes shapes = parameter_shapes(nsa_problem_of(c), dim_of(c, tensor.dim));
    for (std::size_t i = 0; i < kPhiParts<reference::Tensor>.size(); ++i) {
      const auto& [tokens, heads, dim] = shapes.*kPhiParts<std::array<std::int64_t, 3>>[i].tensor;
      if (tensor.part == kPhiParts<reference::Tensor>[i].tensor) return {tokens, heads, dim};
    }
  }
  const std::vector<std::int64_t> rows = row_counts(c, tensor.rows);
  return {std::accumulate(rows.begin(), rows.end(), std::int64_t{0}), heads_of(c, tensor.heads), dim_of(c, tensor.dim)};
}

const TensorInfo* find_tensor(Operator op, std::string_view tensor) { return find(page_of(op), tensor); }

const TensorInfo& tensor_of(Operator op, std::string_view tensor) {
  if (const TensorInfo* found = find_tensor(op, tensor)) return *found;
  throw std::out_of_range(fmt::format("{} has no tensor {}", name(op), tensor));
}

}  // namespace attnspec::verify
