// Cases with one size that is huge, and little else, so that they stay cheap: where an index, a grid of thread blocks
// or a list of fixed length ends.

#include <algorithm>
#include <functional>

#include "verify/cases/space/axes.hpp"

namespace attnspec::verify::space {

namespace {

/// Rows judged of a case whose rows are very many.
constexpr std::int64_t kSample = 160;

/// One head, few features, one sequence of so many keys and queries.
void thin(Draft& draft, std::int64_t keys, std::int64_t queries) {
  Case& c = draft.c;
  draft.is_extreme = true;
  set_heads(draft, 1, 1);
  set_features(draft, draft.between(1, 8), draft.between(1, 8));
  c.hidden = 4;
  c.lens = {keys};
  c.q_lens = {has_queries(c.op) ? queries : keys};
  c.gate = reference::Gate::top_k;
}

/// Blocks of so many tokens, compressed side by side, of which a query has few.
void few_blocks(Draft& draft, std::int64_t block) {
  Case& c = draft.c;
  if (has_compression(c.op)) set_compression(draft, block, 1, 1);
  c.block = block;
  c.initial = draft.between(0, 1), c.local = 1;
  set_count(draft, draft.between(1, 2));
}

/// So many queries and keys, of which a query sees few.
void many_tokens(Draft& draft, std::int64_t tokens) {
  thin(draft, tokens, tokens);
  few_blocks(draft, has_slots(draft.c.op) ? 64 : 16);
  draft.c.sample = has_queries(draft.c.op) ? kSample : 0;
}

/// So many queries, and few keys, which the last of them see.
void many_queries(Draft& draft, std::int64_t queries) {
  const std::int64_t keys = draft.between(5, 200);
  thin(draft, keys, queries);
  few_blocks(draft, draft.between(4, 64));
  draft.c.window = draft.between(1, keys);
  draft.c.sample = kSample;
}

void many_keys(Draft& draft, std::int64_t keys) {
  thin(draft, keys, draft.between(1, 3));
  few_blocks(draft, draft.one_of<std::int64_t>({512, 1000}));
  draft.c.window = draft.one_of<std::int64_t>({1, 700, keys});
  draft.c.sample = kSample;
}

void many_blocks(Draft& draft) {
  const std::int64_t block = draft.between(1, 2), blocks = draft.between(1025, 1100);
  thin(draft, block * blocks - draft.between(0, block - 1), draft.between(1, 6));
  few_blocks(draft, block);
  set_count(draft, draft.between(3, 8));
  draft.c.window = draft.between(1, 40);
}

void large_blocks(Draft& draft) {
  const auto block = draft.one_of<std::int64_t>({1024, 2048, 4096});
  thin(draft, 2 * block + draft.between(-1, 1), draft.between(1, 5));
  few_blocks(draft, block);
  draft.c.window = draft.between(1, 40);
}

void large_group(Draft& draft) {
  const std::int64_t keys = draft.between(4, 40);
  thin(draft, keys, draft.between(1, std::min<std::int64_t>(keys, 6)));
  set_heads(draft, draft.between(1, 2), draft.one_of<std::int64_t>({8, 16, 32, 64}));
  few_blocks(draft, draft.between(1, 8));
  draft.c.window = draft.between(1, keys);
}

/// Most of them short, with runs of empty ones.
void many_sequences(Draft& draft) {
  Case& c = draft.c;
  thin(draft, 0, 0);
  c.lens.clear(), c.q_lens.clear();
  while (c.lens.size() < 64) {
    const bool is_empty = draft.between(0, 2) == 0;
    for (std::int64_t run = is_empty ? draft.between(1, 4) : 1; run > 0; --run) {
      c.lens.push_back(is_empty ? 0 : draft.between(1, 9));
      c.q_lens.push_back(!has_queries(c.op) || draft.between(0, 1) == 0 ? c.lens.back() : draft.between(0, 2));
    }
  }
  few_blocks(draft, draft.between(1, 4));
  c.window = draft.between(1, 6);
}

void large_window(Draft& draft) {
  const std::int64_t window = draft.between(4097, 5000);
  thin(draft, window + draft.between(-1, 60), draft.between(1, 4));
  few_blocks(draft, 256);
  draft.c.window = window;
}

/// Blocks of compression as long as public kernels have them, and ratios l' / d that are no power of two.
void long_compression(Draft& draft) {
  const auto rows = draft.one_of<std::int64_t>({1, 2, 4}), l = draft.one_of<std::int64_t>({64, 96, 128});
  set_compression(draft, l / rows, rows, draft.one_of<std::int64_t>({rows, 5, 6, 7}));
  const Case& c = draft.c;
  const std::int64_t stride = c.compress_stride, length = c.compress_block, block = c.block;
  thin(draft, 3 * block + draft.between(-1, 40), draft.between(1, 5));
  draft.c.compress_stride = stride, draft.c.compress_block = length, draft.c.block = block;
  set_count(draft, draft.between(1, 4));
  draft.c.window = draft.between(1, 40);
}

void many_blocks_per_query(Draft& draft) {
  const std::int64_t block = draft.between(1, 3), count = draft.one_of<std::int64_t>({63, 64, 65, 100});
  thin(draft, block * (count + draft.between(-1, 20)), draft.between(1, 6));
  few_blocks(draft, block);
  set_count(draft, count);
  draft.c.window = draft.between(1, 40);
}

/// Two sequences that meet anywhere within a tile of 128.
void any_residue(Draft& draft) {
  Case& c = draft.c;
  const std::int64_t first = draft.between(1, 128), second = draft.between(1, 128);
  thin(draft, first, first);
  c.lens = {first, 128 * draft.between(0, 1) + second};
  c.q_lens = has_queries(c.op) ? std::vector<std::int64_t>{draft.between(0, 3), c.lens[1]} : c.lens;
  few_blocks(draft, draft.one_of<std::int64_t>({16, 32, 64}));
  c.window = draft.between(1, 80);
}

bool any_over(const std::vector<std::int64_t>& lengths, std::int64_t limit) {
  return std::any_of(lengths.begin(), lengths.end(), [=](std::int64_t n) { return n > limit; });
}

/// Whether a selection is made of as many scores as there are queries times keys.
bool scores_every_key(Operator op) { return has_indexer(op) && key_rows(op) == RowsOf::keys; }

Value tokens_value(const char* name, std::int64_t over) {
  return {name, 1, [=](Draft& draft) { many_tokens(draft, over + draft.between(1, 40)); },
          [=](const Case& c) { return any_over(c.lens, over) && any_over(c.q_lens, over); },
          [](Operator op) { return has_slots(op) ? !scores_every_key(op) : !has_queries(op); }};
}

Value queries_value(const char* name, std::int64_t over) {
  return {name, 1, [=](Draft& draft) { many_queries(draft, over + draft.between(1, 40)); },
          [=](const Case& c) { return any_over(c.q_lens, over); }, has_queries};
}

Value keys_value(const char* name, std::int64_t over) {
  return {name, 1, [=](Draft& draft) { many_keys(draft, over + draft.between(1, 300)); },
          [=](const Case& c) { return any_over(c.lens, over); }, has_queries};
}

}  // namespace

Axis extreme_axis() {
  return {"extreme",
          always,
          {{"none", 1000, [](Draft&) {}},
           tokens_value("over 32767 tokens", 32767),
           queries_value("over 32767 queries", 32767),
           queries_value("over 65535 queries", 65535),
           keys_value("over 100000 keys", 100000),
           {"over 1024 blocks", 2, many_blocks, [](const Case& c) { return max_blocks(c) > 1024; }, has_blocks},
           {"blocks over 1000 tokens", 1, large_blocks, [](const Case& c) { return c.block > 1000; }, has_blocks},
           {"groups of 8 to 64", 2, large_group, [](const Case& c) { return c.heads >= 8 * c.kv_heads; }, has_queries},
           {"64 sequences", 2, many_sequences, [](const Case& c) { return c.lens.size() >= 64; }},
           {"a window over 4096", 1, large_window, [](const Case& c) { return c.window > 4096; }, has_window},
           {"compression blocks of 64 to 128", 1, long_compression,
            [](const Case& c) { return c.compress_block >= 64 && c.compress_block <= 128; }, has_compression},
           {"over 62 blocks per query", 2, many_blocks_per_query,
            [](const Case& c) { return std::max(c.top_k, c.top_n) > 62; }, has_blocks},
           {"sequences that meet within a tile", 2, any_residue}},
          true};
}

}  // namespace attnspec::verify::space
