#include "verify/judge/imagined_faults.hpp"

#include <algorithm>
#include <cmath>
#include <span>
#include <utility>
#include <vector>

#include "verify/judge/compare.hpp"

namespace attnspec::verify {

using namespace reference;

namespace {

/// How far o moves by a fault, and the weight of the keys that it is about.
struct Move {
  double length, weight;
};

/// o when the keys of one range are left out moves by (mass o - sum P v) / (1 - mass).
Move move_without(const RowInputs& in, const AttendedRow& row, const KeyRange& keys, std::int64_t first) {
  const Vector weights = row.weights.segment(first, keys.end - keys.begin);
  const double mass = weights.sum(), rest = row.weights.sum() - mass;
  if (!(rest > 0)) return {row.o.norm(), 1};
  return {((mass * row.o - combination(weights, in.kv.v, {&keys, 1})) / rest).norm(), mass};
}

/// The same when the keys of one range are added to those that it sees.
Move move_with(const RowInputs& in, const AttendedRow& row, const KeyRange& keys) {
  const AttendedRow added = attend({in.q, in.kv.k, in.kv.v}, {&keys, 1}, in.scale);
  const double weight = 1 / (1 + std::exp(row.lse - added.lse));
  return {weight * (added.o - row.o).norm(), weight};
}

/// The block, or key, that is left out, and the place of its first key among those that the row sees.
std::pair<KeyRange, std::int64_t> seen_part(std::span<const KeyRange> visible, const Random& random,
                                            std::uint64_t index) {
  if (visible.size() == 1) {
    const KeyRange& all = visible.front();
    const std::int64_t key = random.below(all.end - all.begin, index);
    return {{all.begin + key, all.begin + key + 1}, key};
  }
  const auto part = static_cast<std::size_t>(random.below(std::ssize(visible), index));
  std::int64_t first = 0;
  for (std::size_t i = 0; i < part; ++i) first += visible[i].end - visible[i].begin;
  return {visible[part], first};
}

/// The parts that a row must not see: blocks of which it sees nothing, or the keys beside its only range.
std::vector<KeyRange> unseen_parts(std::span<const KeyRange> visible, std::int64_t num_keys, std::int64_t block) {
  std::vector<KeyRange> parts;
  if (block >= num_keys) {
    const auto [begin, end] = visible.front();
    if (begin > 0) parts.push_back({begin - 1, begin});
    if (end < num_keys) parts.push_back({end, end + 1});
    return parts;
  }
  for (std::int64_t b = 0; b * block < num_keys; ++b) {
    const auto is_of_block = [&](const KeyRange& range) { return range.begin / block == b; };
    if (std::none_of(visible.begin(), visible.end(), is_of_block))
      parts.push_back({b * block, std::min((b + 1) * block, num_keys)});
  }
  return parts;
}

}  // namespace

ImaginedFaults imagine_faults(const RowInputs& in, const AttendedRow& row, const RowNoise& noise, std::int64_t num_keys,
                              std::int64_t block, const Random& random, std::int64_t index) {
  const double length = smallest_error(noise.variance.sum(), noise.floor.norm());
  const auto judged = [&](const Move& move) -> ImaginedFault {
    return {move.length > length, move.weight * length / move.length};
  };
  ImaginedFaults faults;
  const auto [seen, first] = seen_part(in.visible, random, static_cast<std::uint64_t>(2 * index));
  faults.left_out = judged(move_without(in, row, seen, first));
  const std::vector<KeyRange> unseen = unseen_parts(in.visible, num_keys, block);
  if (!unseen.empty()) {
    const std::int64_t one = random.below(std::ssize(unseen), static_cast<std::uint64_t>(2 * index + 1));
    faults.too_many = judged(move_with(in, row, unseen[static_cast<std::size_t>(one)]));
  }
  return faults;
}

}  // namespace attnspec::verify
