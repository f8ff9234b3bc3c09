#include "verify/cases/space/work.hpp"

#include <algorithm>

namespace attnspec::verify {

namespace {

/// What a call costs that has nothing to do.
constexpr double kCall = 1e5;
/// Calls of a law, but for `repeat`.
constexpr double kCallsOfLaw = 4, kCallsOfRepeat = 20;

/// Keys that a query of a sequence sees, or is compared with, about.
double keys_of_query(const Case& c, double keys) {
  const double blocks = std::min(static_cast<double>((is_nsa(c.op) ? c.top_n : c.top_k) * c.block), keys);
  if (!has_queries(c.op)) return 0;
  if (!has_blocks(c.op) && !has_window(c.op)) return keys;
  double seen = 0;
  if (selects(c.op)) seen += keys / static_cast<double>(c.block);
  if (has_importance(c.op)) seen += keys / static_cast<double>(c.compress_stride);
  if (attends(c.op) && (has_slots(c.op) || has_branches(c.op))) seen += blocks;
  if (has_window(c.op)) seen += std::min(static_cast<double>(c.window), keys);
  return seen;
}

double calls(const Case& c) {
  if (c.law == Law::none) return 1 + static_cast<double>(c.session.size());
  return c.law == Law::repeat ? kCallsOfRepeat : kCallsOfLaw;
}

}  // namespace

double work(const Case& c) {
  double products = kCall;
  const double dims = static_cast<double>(c.dk + c.dv),
               width = c.phi == reference::Phi::mean ? 1 : static_cast<double>(c.dk);
  for (std::size_t s = 0; s < c.lens.size(); ++s) {
    const auto keys = static_cast<double>(c.lens[s]), queries = static_cast<double>(c.q_lens[s] * c.heads);
    products += queries * (1 + keys_of_query(c, keys)) * dims + keys * static_cast<double>(c.kv_heads) * dims;
    if (!compresses(c.op)) continue;
    const std::int64_t rows_of_key = c.kv_heads * c.compress_block / c.compress_stride;  // about, of all heads
    products += keys * static_cast<double>(rows_of_key) * dims * width;
  }
  return products * calls(c);
}

}  // namespace attnspec::verify
