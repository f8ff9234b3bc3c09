#include "verify/laws/moves.hpp"

#include <algorithm>
#include <numeric>

#include "verify/random.hpp"

namespace attnspec::verify {

namespace {

/// Calls of `repeat` beside the first. Each is launched twice.
constexpr int kRepeats = 9;
/// Sequences of `packing` that are called alone.
constexpr std::size_t kMostAlone = 3;

std::optional<RowPlace> stay(const RowPlace& row) { return row; }

bool always(const std::string&, const RowPlace&) { return true; }

Twin moved_twin(const FirstCall& first, const Case& to, const Move& move,
                std::function<bool(const std::string&, const RowPlace&)> speaks_of) {
  return {to, moved(first.c, first.inputs, to, move), move, std::move(speaks_of)};
}

/// Whether rows of parameters are those of one kv head.
bool has_phi_per_head(const Case& c) { return c.kv_heads == 1 || !c.shared_phi; }

/// Everything but what is summed over what moved.
bool is_of_one_head(const Case& c, const RowPlace& row) { return row.of != RowsOf::parameters || has_phi_per_head(c); }

/// The sequences of `order`, in that order.
Twin packed(const FirstCall& first, const std::vector<std::size_t>& order) {
  Case to = first.c;
  to.lens.clear();
  to.q_lens.clear();
  std::vector<std::optional<std::int64_t>> places(first.c.lens.size());
  for (const std::size_t s : order) {
    places[s] = std::ssize(to.lens);
    to.lens.push_back(first.c.lens[s]);
    to.q_lens.push_back(first.c.q_lens[s]);
  }
  const Move move = [places](const RowPlace& row) -> std::optional<RowPlace> {
    RowPlace place = row;
    if (row.of == RowsOf::parameters) return place;
    const auto sequence = places[static_cast<std::size_t>(row.sequence)];
    if (!sequence) return {};
    place.sequence = *sequence;
    return place;
  };
  return moved_twin(first, to, move,
                    [](const std::string&, const RowPlace& row) { return row.of != RowsOf::parameters; });
}

/// The rows that a decoding step asks for: queries; of `nsa_compress` compressed rows.
RowsOf decoded_rows(const Case& c) {
  return c.op == Operator::nsa_compress ? RowsOf::compressed_rows : RowsOf::queries;
}

/// How many of them each sequence has.
std::vector<std::int64_t> num_decoded_rows(const Case& c) {
  return c.op == Operator::nsa_compress ? compressed_rows(c) : c.q_lens;
}

/// The last of these rows of each sequence, at most so many; compressed rows with their tokens and those behind alone.
Twin decoded(const FirstCall& first, std::int64_t rows) {
  Case to = first.c;
  const RowsOf of = decoded_rows(to);
  const bool is_compress = of == RowsOf::compressed_rows;
  const std::int64_t tokens = is_compress ? to.compress_stride : 0;  // that are left out with a row
  std::vector<std::int64_t> left_out = num_decoded_rows(to);
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
  return moved_twin(first, to, move, [of](const std::string&, const RowPlace& row) { return row.of == of; });
}

}  // namespace

std::vector<Twin> repeat_twins(const FirstCall& first) {
  return {{.c = first.c, .inputs = first.inputs, .move = stay, .speaks_of = always, .times = kRepeats}};
}

std::vector<Twin> heads_twins(const FirstCall& first) {
  const Case& c = first.c;
  const std::int64_t heads = c.op == Operator::nsa_compress ? c.kv_heads : c.heads, group = heads / c.kv_heads;
  std::vector<Twin> twins;
  if (c.kv_heads > 1) {
    const Move move = [&c, heads, group](const RowPlace& row) -> std::optional<RowPlace> {
      RowPlace place = row;
      if (row.heads == c.kv_heads) place.head = c.kv_heads - 1 - row.head;
      if (row.heads == heads) place.head = (c.kv_heads - 1 - row.head / group) * group + row.head % group;
      return place;
    };
    twins.push_back(
        moved_twin(first, c, move, [&c](const std::string&, const RowPlace& row) { return is_of_one_head(c, row); }));
  }
  if (group == 1 || (is_nsa(c.op) && c.op != Operator::window)) return twins;  // importance is a sum over the group
  const Move rotate = [&c, group](const RowPlace& row) -> std::optional<RowPlace> {
    RowPlace place = row;
    if (row.of == RowsOf::queries && row.heads == c.heads)
      place.head = row.head / group * group + (row.head + 1) % group;
    return place;
  };
  twins.push_back(
      moved_twin(first, c, rotate, [](const std::string&, const RowPlace& row) { return row.of == RowsOf::queries; }));
  return twins;
}

std::vector<Twin> strides_twins(const FirstCall& first) {
  Case to = first.c;
  to.layout = first.c.layout == Layout::strided ? Layout::contiguous : Layout::strided;
  return {moved_twin(first, to, stay, always)};
}

std::vector<Twin> packing_twins(const FirstCall& first) {
  std::vector<std::size_t> all(first.c.lens.size()), alone;
  std::iota(all.begin(), all.end(), std::size_t{0});
  std::vector<Twin> twins;
  if (all.size() < 2) return twins;
  std::copy_if(all.begin(), all.end(), std::back_inserter(alone), [&](std::size_t s) { return first.c.lens[s] > 0; });
  const Random random(first.c.seed, "alone");
  for (std::uint64_t draw = 0; alone.size() > kMostAlone; ++draw)
    alone.erase(alone.begin() + random.below(std::ssize(alone), draw));
  std::reverse(all.begin(), all.end());
  twins.push_back(packed(first, all));
  for (const std::size_t s : alone) twins.push_back(packed(first, {s}));
  return twins;
}

std::vector<Twin> decode_twins(const FirstCall& first) {
  const std::vector<std::int64_t> rows = num_decoded_rows(first.c);
  const std::int64_t most = rows.empty() ? 0 : *std::max_element(rows.begin(), rows.end());
  std::vector<Twin> twins;
  if (most > 1) twins.push_back(decoded(first, 1));
  if (most > 2) twins.push_back(decoded(first, 2 + Random(first.c.seed, "chunk").below(most - 2, 0)));
  return twins;
}

}  // namespace attnspec::verify
