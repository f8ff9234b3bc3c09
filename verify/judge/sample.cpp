#include "verify/judge/sample.hpp"

#include <algorithm>
#include <cmath>
#include <cstddef>
#include <numeric>
#include <set>
#include <tuple>

#include "verify/cases/random.hpp"

namespace attnspec::verify {

using reference::AttentionProblem;
using reference::Sequence;

namespace {

/// Rows of a tile of kernels, often.
constexpr std::int64_t kTiles[] = {16, 64, 128};

/// `wanted` of the rows 0 .. length - 1, ascending; row 0 stands at `position`, and blocks begin at multiples of
/// `block` of positions. The first and the last; then by turns both sides of the edge where the block or the tile of a
/// random row begins, and a random row.
std::vector<std::int64_t> choose_rows(std::int64_t length, std::int64_t position, std::int64_t block,
                                      std::int64_t wanted, const Random& random, std::uint64_t& draws) {
  if (wanted >= length) {
    std::vector<std::int64_t> all(static_cast<std::size_t>(length));
    std::iota(all.begin(), all.end(), 0);
    return all;
  }
  std::set<std::int64_t> rows;
  const auto add = [&](std::int64_t row) {
    if (row >= 0 && std::ssize(rows) < wanted) rows.insert(row);
  };
  add(0);
  add(length - 1);
  for (bool at_edge = true; std::ssize(rows) < wanted; at_edge = !at_edge) {
    const std::int64_t row = random.below(length, draws++);
    if (!at_edge) {
      add(row);
      continue;
    }
    const std::int64_t kind = random.below(2 * std::ssize(kTiles), draws++);  // a block's edge as often as a tile's
    const std::int64_t within_block = ((row + position) % block + block) % block;
    const std::int64_t edge = row - (kind < std::ssize(kTiles) ? row % kTiles[kind] : within_block);
    add(edge - 1);
    add(edge);
  }
  return {rows.begin(), rows.end()};
}

/// begins: the position of row 0 of each sequence.
JudgedRows judged_rows(const Case& c, const char* stream, const std::vector<std::int64_t>& offsets,
                       const std::vector<std::int64_t>& begins, std::int64_t heads) {
  JudgedRows rows{offsets, heads, {}};
  const Random random(c.seed, stream);
  std::uint64_t draws = 0;
  const std::int64_t all = offsets.back() * heads, most = c.sample / (c.heads / heads);
  const double free = static_cast<double>(most - 2 * std::ssize(begins) * heads);  // beside the first and the last
  for (std::size_t s = 0; s < begins.size(); ++s) {
    const std::int64_t length = offsets[s + 1] - offsets[s];
    const double share = static_cast<double>(length) / static_cast<double>(std::max<std::int64_t>(all, 1));
    const std::int64_t wanted =
        c.sample == 0 || most >= all ? length : 2 + static_cast<std::int64_t>(std::floor(free * share));
    for (std::int64_t head = 0; head < heads; ++head)
      for (const std::int64_t row : choose_rows(length, begins[s], c.block, wanted, random, draws))
        rows.places.push_back({static_cast<std::int64_t>(s), row, head});
  }
  return rows;
}

}  // namespace

bool JudgedRows::contains(const Place& place) const {
  const auto order = [](const Place& p) { return std::tuple(p.sequence, p.head, p.token); };
  return are_all() || std::binary_search(places.begin(), places.end(), place,
                                         [&](const Place& a, const Place& b) { return order(a) < order(b); });
}

JudgedRows judged_queries(const Case& c, const AttentionProblem& problem, std::int64_t heads) {
  std::vector<std::int64_t> begins;
  for (const Sequence& sequence : sequences(problem)) begins.push_back(sequence.position(sequence.q_begin));
  return judged_rows(c, "judged queries", problem.q_offsets, begins, heads);
}

JudgedRows judged_keys(const Case& c, const AttentionProblem& problem) {
  const std::vector<std::int64_t> begins(problem.k_offsets.size() - 1, 0);
  return judged_rows(c, "judged keys", problem.k_offsets, begins, problem.kv_heads);
}

void for_each_query(const AttentionProblem& problem, const JudgedRows& rows,
                    const std::function<void(const Sequence&, std::int64_t, std::int64_t)>& visit) {
  const std::vector<Sequence> all = sequences(problem);
#pragma omp parallel for schedule(dynamic, 4)
  for (const Place& place : rows.places) {
    const Sequence& sequence = all[static_cast<std::size_t>(place.sequence)];
    visit(sequence, sequence.q_begin + place.token, place.head);
  }
}

}  // namespace attnspec::verify
