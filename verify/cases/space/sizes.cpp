// Heads, features, sequences, lengths.

#include <algorithm>
#include <numeric>

#include "verify/cases/space/axes.hpp"

namespace attnspec::verify::space {

namespace {

std::int64_t group(const Case& c) { return has_queries(c.op) ? c.heads / c.kv_heads : 1; }

bool has_kv_heads(Operator op) { return has_key(op, "kv_heads"); }
bool has_groups(Operator op) { return has_queries(op) && has_kv_heads(op); }

/// Tokens that the next sequence may have.
std::int64_t room_left(const Draft& draft) {
  const std::int64_t used = std::accumulate(draft.c.lens.begin(), draft.c.lens.end(), std::int64_t{0});
  return std::max<std::int64_t>(1, 2 * draft.room / (draft.c.heads + 1) - used);
}

void add_length(Draft& draft, std::int64_t length) { draft.c.lens.push_back(std::max<std::int64_t>(0, length)); }

/// A length on an edge of tiles of so many tokens, or one token beside it; about as long as there is room.
void add_edge(Draft& draft, std::int64_t tile) {
  const std::int64_t edge = tile * draft.between(1, room_left(draft) / tile);
  add_length(draft, edge + draft.between(-1, 1));
}

/// Tokens between edges of blocks; of tiles where an operator has no blocks.
std::int64_t block_tokens(const Draft& draft) {
  const Case& c = draft.c;
  if (has_compression(c.op)) return draft.one_of<std::int64_t>({c.block, c.compress_block, c.compress_stride});
  return has_blocks(c.op) ? c.block : 8;
}

void add_many_blocks(Draft& draft) {
  const std::int64_t block = has_slots(draft.c.op) ? draft.c.block : draft.c.compress_stride;
  if (block > 2) return add_length(draft, draft.between(1, room_left(draft)));
  const std::int64_t blocks = draft.between(127, 140);
  add_length(draft, block * blocks + draft.between(0, 1));
}

void add_queries(Draft& draft, std::int64_t queries) { draft.c.q_lens.push_back(queries); }

/// Keys of the sequence whose queries come next.
std::int64_t keys_of_next(const Draft& draft) { return draft.c.lens[draft.c.q_lens.size()]; }

/// Whether some sequence has queries and keys in that relation.
std::function<bool(const Case&)> any_sequence(bool (*relation)(std::int64_t queries, std::int64_t keys)) {
  return [=](const Case& c) {
    for (std::size_t s = 0; s < c.lens.size(); ++s)
      if (relation(c.q_lens[s], c.lens[s])) return true;
    return false;
  };
}

Value past_an_edge(std::int64_t tile, std::int64_t rest, const char* name) {
  return seen(name, [=](const Case& c) { return leaves(c, tile, rest); });
}

}  // namespace

void set_heads(Draft& draft, std::int64_t kv_heads, std::int64_t group) {
  draft.c.kv_heads = kv_heads;
  draft.c.heads = kv_heads * group;
}

void set_features(Draft& draft, std::int64_t dk, std::int64_t dv) {
  draft.c.dk = dk;
  draft.c.dv = dv;
}

bool any_length(const Case& c, const std::function<bool(std::int64_t)>& holds) {
  return std::any_of(c.lens.begin(), c.lens.end(), holds);
}

bool leaves(const Case& c, std::int64_t tile, std::int64_t rest) {
  return any_length(c, [&](std::int64_t length) { return length >= tile - 1 && (length - rest) % tile == 0; });
}

Axis size_axis() {
  return {"size",
          always,
          {{"tens", 14, [](Draft& draft) { draft.room = draft.between(8, 104); }},
           {"hundreds", 1, [](Draft& draft) { draft.room = draft.between(96, 400); }},
           seen("over 32 tokens", [](const Case& c) { return longest(c) > 32; }),
           seen("over 128 tokens", [](const Case& c) { return longest(c) > 128; })},
          true};
}

Axis head_axis() {
  return {"heads",
          always,
          {{"one", 2, [](Draft& draft) { set_heads(draft, 1, 1); },
            [](const Case& c) { return c.kv_heads == 1 && group(c) == 1; }},
           {"several", 1, [](Draft& draft) { set_heads(draft, draft.between(2, 4), 1); },
            [](const Case& c) { return c.kv_heads > 1 && group(c) == 1; }, has_kv_heads},
           {"one group", 1, [](Draft& draft) { set_heads(draft, 1, draft.between(2, 5)); },
            [](const Case& c) { return c.kv_heads == 1 && group(c) > 1; }, has_queries},
           {"groups", 1,
            [](Draft& draft) {
              const std::int64_t kv_heads = draft.between(2, 3);
              set_heads(draft, kv_heads, draft.between(2, 3));
            },
            [](const Case& c) { return c.kv_heads > 1 && group(c) > 1; }, has_groups},
           {"a large group", 1, [](Draft& draft) { set_heads(draft, 1, draft.between(6, 24)); },
            [](const Case& c) { return group(c) > 5; }, has_queries},
           seen(
               "a group of 2", [](const Case& c) { return group(c) == 2; }, has_queries),
           seen(
               "a larger group", [](const Case& c) { return group(c) > 2; }, has_queries)}};
}

Axis feature_axis() {
  return {"features",
          always,
          {{"multiples of 8", 3,
            [](Draft& draft) {
              const std::int64_t d = 8 * draft.between(1, 4);
              set_features(draft, d, d);
            }},
           {"64", 1, [](Draft& draft) { set_features(draft, 64, 64); },
            [](const Case& c) { return c.dk == 64 && c.dv == 64; }},
           {"few", 2,
            [](Draft& draft) {
              const std::int64_t dk = draft.between(1, 7);
              set_features(draft, dk, draft.between(1, 7));
            },
            [](const Case& c) { return c.dk < 8 || c.dv < 8; }},
           {"odd", 1,
            [](Draft& draft) {
              const std::int64_t dk = 2 * draft.between(4, 20) + 1;
              set_features(draft, dk, 2 * draft.between(4, 20) + 1);
            },
            [](const Case& c) { return c.dk % 2 == 1 || c.dv % 2 == 1; }},
           {"unequal", 1,
            [](Draft& draft) {
              const std::int64_t dk = 8 * draft.between(1, 8);
              set_features(draft, dk, 8 * draft.between(1, 8));
            }},
           {"wide", 1,
            [](Draft& draft) {
              const auto dk = draft.one_of<std::int64_t>({80, 96, 128, 192, 256});
              set_features(draft, dk, draft.one_of<std::int64_t>({64, 128, 256}));
            },
            [](const Case& c) { return std::max(c.dk, c.dv) > 64; }},
           seen("one", [](const Case& c) { return c.dk == 1 || c.dv == 1; }),
           seen("multiples of 16", [](const Case& c) { return c.dk % 16 == 0 && c.dv % 16 == 0; }),
           seen(
               "dk above dv", [](const Case& c) { return c.dk > c.dv; }, attends),
           seen(
               "dk below dv", [](const Case& c) { return c.dk < c.dv; }, attends)}};
}

Axis sequence_axis() {
  return {"sequences",
          always,
          {{"one", 2, [](Draft& draft) { draft.sequences = 1; }, [](const Case& c) { return c.lens.size() == 1; }},
           {"few", 2, [](Draft& draft) { draft.sequences = draft.between(2, 3); },
            [](const Case& c) { return c.lens.size() == 2 || c.lens.size() == 3; }},
           {"many", 1, [](Draft& draft) { draft.sequences = draft.between(4, 8); },
            [](const Case& c) { return c.lens.size() > 3; }},
           seen("two empty ones together", [](const Case& c) {
             return std::adjacent_find(c.lens.begin(), c.lens.end(), [](auto a, auto b) { return a == 0 && b == 0; }) !=
                    c.lens.end();
           })}};
}

Axis length_axis() {
  return {"lengths",
          always,
          {{"any", 3, [](Draft& draft) { add_length(draft, draft.between(1, room_left(draft))); }},
           {"at a block's edge", 4, [](Draft& draft) { add_edge(draft, block_tokens(draft)); }},
           {"at a tile's edge", 1,
            [](Draft& draft) {
              std::vector<std::int64_t> tiles{16};
              for (const std::int64_t tile : {32, 64, 128})
                if (tile <= 2 * room_left(draft)) tiles.push_back(tile);
              add_edge(draft, draft.one_of(tiles));
            }},
           {"one token", 1, [](Draft& draft) { add_length(draft, 1); },
            [](const Case& c) { return any_length(c, [](std::int64_t n) { return n == 1; }); }},
           {"empty", 1, [](Draft& draft) { add_length(draft, 0); },
            [](const Case& c) { return any_length(c, [](std::int64_t n) { return n == 0; }); }},
           {"many blocks", 1, [](Draft& draft) { add_many_blocks(draft); }},
           past_an_edge(16, 0, "whole tiles of 16"),
           past_an_edge(16, 1, "one past a tile of 16"),
           past_an_edge(16, -1, "one short of a tile of 16"),
           past_an_edge(64, 0, "whole tiles of 64"),
           past_an_edge(64, 1, "one past a tile of 64"),
           past_an_edge(64, -1, "one short of a tile of 64")},
          false,
          true};
}

Axis query_axis() {
  return {"queries",
          has_queries,
          {{"as keys", 6, [](Draft& draft) { add_queries(draft, keys_of_next(draft)); },
            [](const Case& c) { return c.q_lens == c.lens; }},
           {"one", 1, [](Draft& draft) { add_queries(draft, 1); },
            any_sequence([](auto queries, auto keys) { return queries == 1 && keys > 1; })},
           {"two to four", 1, [](Draft& draft) { add_queries(draft, draft.between(2, 4)); },
            any_sequence([](auto queries, auto keys) { return queries > 1 && queries < 5 && keys > 4; })},
           {"none", 1, [](Draft& draft) { add_queries(draft, 0); },
            any_sequence([](auto queries, auto keys) { return queries == 0 && keys > 0; })},
           {"fewer", 1, [](Draft& draft) { add_queries(draft, draft.between(1, keys_of_next(draft))); },
            any_sequence([](auto queries, auto keys) { return queries < keys; })},
           {"more", 1,
            [](Draft& draft) {
              const std::int64_t keys = keys_of_next(draft);
              add_queries(draft, keys + draft.between(1, 9));
            },
            any_sequence([](auto queries, auto keys) { return queries > keys; })},
           {"far more", 1,
            [](Draft& draft) {
              const std::int64_t keys = keys_of_next(draft);
              add_queries(draft, 2 * keys + draft.between(10, 40));
            },
            any_sequence([](auto queries, auto keys) { return queries > 2 * keys; })}},
          false,
          true};
}

}  // namespace attnspec::verify::space
