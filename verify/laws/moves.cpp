#include "verify/laws/moves.hpp"

#include <algorithm>
#include <numeric>

#include "verify/cases/random.hpp"

namespace attnspec::verify {

namespace {

/// Calls of `repeat` beside the first. Each is launched twice.
constexpr int kRepeats = 9;
/// Sequences of `packing` that are called alone.
constexpr std::size_t kMaxAlone = 3;

bool always(const std::string&, const RowPlace&) { return true; }

FollowUp moved_follow_up(const SourceCall& source, const Case& to, const Move& move,
                         std::function<bool(const std::string&, const RowPlace&)> speaks_of) {
  return {to, moved(source.c, source.inputs, to, move), move, std::move(speaks_of)};
}

/// Whether rows of parameters are those of one kv head.
bool has_phi_per_head(const Case& c) { return c.kv_heads == 1 || !c.shared_phi; }

/// Everything but what is summed over what moved.
bool is_of_one_head(const Case& c, const RowPlace& row) { return row.of != RowsOf::parameters || has_phi_per_head(c); }

/// The sequences of `order`, in that order.
FollowUp packed(const SourceCall& source, const std::vector<std::size_t>& order) {
  Case to = source.c;
  to.lens.clear();
  to.q_lens.clear();
  std::vector<std::optional<std::int64_t>> places(source.c.lens.size());
  for (const std::size_t s : order) {
    places[s] = std::ssize(to.lens);
    to.lens.push_back(source.c.lens[s]);
    to.q_lens.push_back(source.c.q_lens[s]);
  }
  const Move move = [places](const RowPlace& row) -> std::optional<RowPlace> {
    RowPlace place = row;
    if (row.of == RowsOf::parameters) return place;
    const auto sequence = places[static_cast<std::size_t>(row.sequence)];
    if (!sequence) return {};
    place.sequence = *sequence;
    return place;
  };
  return moved_follow_up(source, to, move,
                         [](const std::string&, const RowPlace& row) { return row.of != RowsOf::parameters; });
}

/// The rows that a decoding step asks for: queries, or compressed rows where there are none.
RowsOf decoded_rows(const Case& c) { return has_queries(c.op) ? RowsOf::queries : RowsOf::compressed_rows; }

/// The last of these rows of each sequence, at most so many; compressed rows with their tokens and those behind alone.
FollowUp decoded(const SourceCall& source, std::int64_t rows) {
  Case to = source.c;
  const RowsOf of = decoded_rows(to);
  const bool is_compress = of == RowsOf::compressed_rows;
  const std::int64_t tokens = is_compress ? to.compress_stride : 0;  // that are left out with a row
  std::vector<std::int64_t> left_out = row_counts(to, of);
  for (std::size_t s = 0; s < left_out.size(); ++s) {
    left_out[s] = std::max<std::int64_t>(0, left_out[s] - rows);
    to.lens[s] -= left_out[s] * tokens;
    to.q_lens[s] = is_compress ? to.lens[s] : to.q_lens[s] - left_out[s];
  }
  const Move move = [of, tokens, left_out](const RowPlace& row) -> std::optional<RowPlace> {
    const std::int64_t step = row.of == of ? 1 : row.of == RowsOf::keys ? tokens : 0;
    if (step == 0) return row;
    RowPlace place = row;
    place.token -= left_out[static_cast<std::size_t>(row.sequence)] * step;
    if (place.token < 0) return {};
    return place;
  };
  return moved_follow_up(source, to, move, [of](const std::string&, const RowPlace& row) { return row.of == of; });
}

}  // namespace

std::vector<FollowUp> repeat_follow_ups(const SourceCall& source) {
  return {{.c = source.c, .inputs = source.inputs, .move = stay, .speaks_of = always, .times = kRepeats}};
}

std::vector<FollowUp> heads_follow_ups(const SourceCall& source) {
  const Case& c = source.c;
  const std::int64_t heads = has_queries(c.op) ? c.heads : c.kv_heads, group = heads / c.kv_heads;
  std::vector<FollowUp> follow_ups;
  if (c.kv_heads > 1) {
    const Move move = [&c, heads, group](const RowPlace& row) -> std::optional<RowPlace> {
      RowPlace place = row;
      if (row.heads == c.kv_heads) place.head = c.kv_heads - 1 - row.head;
      if (row.heads == heads) place.head = (c.kv_heads - 1 - row.head / group) * group + row.head % group;
      return place;
    };
    follow_ups.push_back(moved_follow_up(
        source, c, move, [&c](const std::string&, const RowPlace& row) { return is_of_one_head(c, row); }));
  }
  if (group == 1 || shares_selection(c.op)) return follow_ups;  // made of a sum over the group
  const Move rotate = [&c, group](const RowPlace& row) -> std::optional<RowPlace> {
    RowPlace place = row;
    if (row.of == RowsOf::queries && row.heads == c.heads)
      place.head = row.head / group * group + (row.head + 1) % group;
    return place;
  };
  follow_ups.push_back(moved_follow_up(
      source, c, rotate, [](const std::string&, const RowPlace& row) { return row.of == RowsOf::queries; }));
  return follow_ups;
}

std::vector<FollowUp> strides_follow_ups(const SourceCall& source) {
  Case to = source.c;
  to.layout = source.c.layout == Layout::strided ? Layout::contiguous : Layout::strided;
  return {moved_follow_up(source, to, stay, always)};
}

std::vector<FollowUp> packing_follow_ups(const SourceCall& source) {
  std::vector<std::size_t> all(source.c.lens.size()), alone;
  std::iota(all.begin(), all.end(), std::size_t{0});
  std::vector<FollowUp> follow_ups;
  if (all.size() < 2) return follow_ups;
  std::copy_if(all.begin(), all.end(), std::back_inserter(alone), [&](std::size_t s) { return source.c.lens[s] > 0; });
  const Random random(source.c.seed, "alone");
  for (std::uint64_t draw = 0; alone.size() > kMaxAlone; ++draw)
    alone.erase(alone.begin() + random.below(std::ssize(alone), draw));
  std::reverse(all.begin(), all.end());
  follow_ups.push_back(packed(source, all));
  for (const std::size_t s : alone) follow_ups.push_back(packed(source, {s}));
  return follow_ups;
}

std::vector<FollowUp> decode_follow_ups(const SourceCall& source) {
  const std::vector<std::int64_t> rows = row_counts(source.c, decoded_rows(source.c));
  const std::int64_t most = rows.empty() ? 0 : *std::max_element(rows.begin(), rows.end());
  std::vector<FollowUp> follow_ups;
  if (most > 1) follow_ups.push_back(decoded(source, 1));
  if (most > 2) follow_ups.push_back(decoded(source, 2 + Random(source.c.seed, "chunk").below(most - 2, 0)));
  return follow_ups;
}

}  // namespace attnspec::verify
