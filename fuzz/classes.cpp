#include "fuzz/classes.hpp"

#include <fmt/format.h>

#include <algorithm>
#include <iterator>
#include <utility>

#include "verify/regimes.hpp"

namespace attnspec::fuzz {

namespace {

using namespace verify;
using reference::Gate;
using reference::Phi;

bool has_blocks(const Case& c) { return selects(c.op) || c.op == Operator::selected || has_importance(c.op); }
bool compresses_tokens(const Case& c) { return c.op == Operator::nsa_compressed || compresses(c.op); }
std::int64_t blocks(const Case& c) { return (longest(c) + c.block - 1) / c.block; }
/// Blocks per query: slots, top_k or n.
std::int64_t count(const Case& c) { return is_nsa(c.op) ? c.top_n : c.top_k; }
/// Blocks of a query that it has in any case.
std::int64_t forced(const Case& c) { return has_importance(c.op) ? c.initial + c.local : selects(c.op) ? 1 : 0; }
std::int64_t group(const Case& c) { return c.heads / c.kv_heads; }

template <class Predicate>
bool any_length(const Case& c, const Predicate& holds) {
  return std::any_of(c.lens.begin(), c.lens.end(), holds);
}

/// Whether some sequence has keys and queries with queries - keys in the relation to 0.
template <class Relation>
bool any_queries(const Case& c, const Relation& relation) {
  for (std::size_t s = 0; s < c.lens.size(); ++s)
    if (relation(c.q_lens[s], c.lens[s])) return true;
  return false;
}

/// Whether some length leaves that many tokens past the last edge of a tile.
bool leaves(const Case& c, std::int64_t tile, std::int64_t rest) {
  return any_length(c, [&](std::int64_t length) { return length >= tile - 1 && (length - rest) % tile == 0; });
}

void add_shapes(std::vector<ParameterClass>& all) {
  all.insert(all.end(),
             {{"one sequence", [](const Case& c) { return c.lens.size() == 1; }},
              {"several sequences", [](const Case& c) { return c.lens.size() > 1; }},
              {"an empty sequence", [](const Case& c) { return any_length(c, [](std::int64_t n) { return n == 0; }); }},
              {"one token", [](const Case& c) { return any_length(c, [](std::int64_t n) { return n == 1; }); }},
              {"over 32 tokens", [](const Case& c) { return longest(c) > 32; }},
              {"over 128 tokens", [](const Case& c) { return longest(c) > 128; }},
              {"whole tiles of 16", [](const Case& c) { return leaves(c, 16, 0); }},
              {"one past a tile of 16", [](const Case& c) { return leaves(c, 16, 1); }},
              {"one short of a tile of 16", [](const Case& c) { return leaves(c, 16, -1); }},
              {"fewer queries", [](const Case& c) { return any_queries(c, [](auto q, auto k) { return q < k; }); }},
              {"more queries", [](const Case& c) { return any_queries(c, [](auto q, auto k) { return q > k; }); }},
              {"keys without queries",
               [](const Case& c) { return any_queries(c, [](auto q, auto k) { return q == 0 && k > 0; }); }},
              {"one head", [](const Case& c) { return c.heads == 1; }},
              {"several kv heads", [](const Case& c) { return c.kv_heads > 1; }},
              {"a group of 2", [](const Case& c) { return group(c) == 2; }},
              {"a larger group", [](const Case& c) { return group(c) > 2; }},
              {"one feature", [](const Case& c) { return c.dk == 1 || c.dv == 1; }},
              {"odd features", [](const Case& c) { return c.dk % 2 == 1 || c.dv % 2 == 1; }},
              {"multiples of 16 features", [](const Case& c) { return c.dk % 16 == 0 && c.dv % 16 == 0; }},
              {"over 64 features", [](const Case& c) { return std::max(c.dk, c.dv) > 64; }},
              {"dk above dv", [](const Case& c) { return attends(c.op) && c.dk > c.dv; }},
              {"dk below dv", [](const Case& c) { return attends(c.op) && c.dk < c.dv; }}});
}

void add_blocks(std::vector<ParameterClass>& all) {
  all.insert(
      all.end(),
      {{"blocks of one token", [](const Case& c) { return has_blocks(c) && c.block == 1; }},
       {"blocks of a power of two",
        [](const Case& c) { return has_blocks(c) && c.block > 1 && (c.block & (c.block - 1)) == 0; }},
       {"blocks of no power of two", [](const Case& c) { return has_blocks(c) && (c.block & (c.block - 1)) != 0; }},
       {"one block", [](const Case& c) { return has_blocks(c) && blocks(c) == 1; }},
       {"over 16 blocks", [](const Case& c) { return has_blocks(c) && blocks(c) > 16; }},
       {"over 128 blocks", [](const Case& c) { return has_blocks(c) && blocks(c) > 128; }},
       {"a short last block",
        [](const Case& c) {
          return has_blocks(c) && any_length(c, [&](std::int64_t n) { return n > c.block && n % c.block != 0; });
        }},
       {"whole blocks", [](const Case& c) { return has_blocks(c) && leaves(c, c.block, 0); }},
       {"one past a block", [](const Case& c) { return has_blocks(c) && c.block > 1 && leaves(c, c.block, 1); }},
       {"one block per query", [](const Case& c) { return has_blocks(c) && count(c) == 1; }},
       {"a choice of blocks",
        [](const Case& c) { return has_blocks(c) && count(c) > forced(c) && count(c) < blocks(c); }},
       {"as many blocks per query as blocks", [](const Case& c) { return has_blocks(c) && count(c) == blocks(c); }},
       {"more blocks per query than blocks", [](const Case& c) { return has_blocks(c) && count(c) > blocks(c); }},
       {"gate window", [](const Case& c) { return selects(c.op) && c.gate == Gate::window; }},
       {"gate sink", [](const Case& c) { return selects(c.op) && c.gate == Gate::sink; }},
       {"selection per head", [](const Case& c) { return c.op == Operator::selected && !c.shared_selection; }},
       {"selection per kv head", [](const Case& c) { return c.op == Operator::selected && c.shared_selection; }}});
}

void add_nsa(std::vector<ParameterClass>& all) {
  all.insert(
      all.end(),
      {{"l = d", [](const Case& c) { return compresses_tokens(c) && c.compress_block == c.compress_stride; }},
       {"l above d", [](const Case& c) { return compresses_tokens(c) && c.compress_block > c.compress_stride; }},
       {"l = l'", [](const Case& c) { return has_importance(c.op) && c.compress_block == c.block; }},
       {"d = 1", [](const Case& c) { return compresses_tokens(c) && c.compress_stride == 1; }},
       {"no compressed row",
        [](const Case& c) {
          return compresses_tokens(c) && any_length(c, [&](std::int64_t n) { return n > 0 && n < c.compress_block; });
        }},
       {"over 16 compressed rows",
        [](const Case& c) { return compresses_tokens(c) && longest(c) >= c.compress_block + 16 * c.compress_stride; }},
       {"initial blocks", [](const Case& c) { return has_importance(c.op) && c.initial > 0; }},
       {"several local blocks", [](const Case& c) { return has_importance(c.op) && c.local > 1; }},
       {"forced blocks only", [](const Case& c) { return has_importance(c.op) && c.top_n == c.initial + c.local; }},
       {"phi mean", [](const Case& c) { return compresses(c.op) && c.phi == Phi::mean; }},
       {"phi linear", [](const Case& c) { return compresses(c.op) && c.phi == Phi::linear; }},
       {"phi mlp", [](const Case& c) { return compresses(c.op) && c.phi == Phi::mlp; }},
       {"shared phi", [](const Case& c) { return compresses(c.op) && c.shared_phi; }},
       {"shared k and v", [](const Case& c) { return c.op == Operator::nsa && c.shared_kv; }},
       {"a window of one key", [](const Case& c) { return has_window(c.op) && c.window == 1; }},
       {"a window within the sequence",
        [](const Case& c) { return has_window(c.op) && c.window > 1 && c.window < longest(c); }},
       {"a window of the sequence", [](const Case& c) { return has_window(c.op) && c.window == longest(c); }},
       {"a longer window", [](const Case& c) { return has_window(c.op) && c.window > longest(c); }}});
}

void add_numbers(std::vector<ParameterClass>& all) {
  all.insert(
      all.end(),
      {{"causal", [](const Case& c) { return !is_nsa(c.op) && c.causal; }},
       {"not causal", [](const Case& c) { return !c.causal; }},
       {"scale default", [](const Case& c) { return attends(c.op) && c.scale == default_scale(c.dk); }},
       {"scale 0", [](const Case& c) { return attends(c.op) && c.scale == 0; }},
       {"scale negative", [](const Case& c) { return attends(c.op) && c.scale < 0; }},
       {"scale other", [](const Case& c) { return attends(c.op) && c.scale > 0 && c.scale != default_scale(c.dk); }},
       {"dtype bf16", [](const Case& c) { return c.dtype == Format::bf16; }},
       {"dtype fp16", [](const Case& c) { return c.dtype == Format::fp16; }},
       {"dtype fp32", [](const Case& c) { return c.dtype == Format::fp32; }},
       {"strided", [](const Case& c) { return c.layout == Layout::strided; }},
       {"contiguous", [](const Case& c) { return c.layout == Layout::contiguous; }},
       {"several calls", [](const Case& c) { return !c.session.empty(); }}});
  for (const Regime& regime : regimes())
    all.push_back({fmt::format("regime {}", regime.name), [stem = std::string(regime.name)](const Case& c) {
                     return c.regime.compare(0, c.regime.find(':'), stem) == 0;
                   }});
}

void add_laws(std::vector<ParameterClass>& all) {
  for (const Law law : kLaws)
    all.push_back({fmt::format("law {}", name(law)), [=](const Case& c) { return c.law == law; }});
}

std::size_t index(Operator op, std::size_t first, std::size_t second) {
  const std::size_t n = parameter_classes().size();
  return (static_cast<std::size_t>(op) * n + first) * n + second;
}

/// Calls visit(index) for every pair of the case's classes.
template <class Visit>
void for_each_pair(const Case& c, const Visit& visit) {
  const std::vector<std::size_t> classes = classes_of(c);
  for (std::size_t i = 0; i < classes.size(); ++i)
    for (std::size_t j = i + 1; j < classes.size(); ++j) visit(index(c.op, classes[i], classes[j]));
}

}  // namespace

const std::vector<ParameterClass>& parameter_classes() {
  static const std::vector<ParameterClass> all = [] {
    std::vector<ParameterClass> classes;
    add_shapes(classes);
    add_blocks(classes);
    add_nsa(classes);
    add_numbers(classes);
    add_laws(classes);
    return classes;
  }();
  return all;
}

std::vector<std::size_t> classes_of(const Case& c) {
  std::vector<std::size_t> indices;
  for (std::size_t i = 0; i < parameter_classes().size(); ++i)
    if (parameter_classes()[i].holds(c)) indices.push_back(i);
  return indices;
}

PairCoverage::PairCoverage() : seen_(std::size(kOperators) * parameter_classes().size() * parameter_classes().size()) {}

std::int64_t PairCoverage::count_new(const Case& c) const {
  std::int64_t pairs = 0;
  for_each_pair(c, [&](std::size_t pair) { pairs += !seen_[pair]; });
  return pairs;
}

void PairCoverage::add(const Case& c) {
  for_each_pair(c, [&](std::size_t pair) {
    size_ += !seen_[pair];
    seen_[pair] = true;
  });
}

}  // namespace attnspec::fuzz
