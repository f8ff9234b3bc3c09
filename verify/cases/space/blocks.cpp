// Blocks and how many of them a query has, compression, windows.

#include <algorithm>

#include "verify/cases/space/axes.hpp"

namespace attnspec::verify::space {

namespace {

using reference::Gate;

/// Blocks per query: slots, top_k or n.
std::int64_t count(const Case& c) { return is_nsa(c.op) ? c.top_n : c.top_k; }
/// Blocks of a query that it has in any case.
std::int64_t forced(const Case& c) {
  if (has_importance(c.op)) return c.initial + c.local;
  return selects(c.op) && !shares_selection(c.op) ? 1 : 0;  // the own block
}
bool is_power_of_two(std::int64_t n) { return (n & (n - 1)) == 0; }

void set_gate(Draft& draft, Gate gate) {
  if (!draft.c.causal) return;  // which gives "recent" its meaning
  draft.c.gate = gate;
  if (gate == Gate::sink) draft.c.top_k = std::max<std::int64_t>(2, draft.c.top_k);
}

Value gate_value(const char* name, Gate gate, int weight) {
  return {name, weight, [=](Draft& draft) { set_gate(draft, gate); }, [=](const Case& c) { return c.gate == gate; }};
}

Value forced_value(const char* name, std::int64_t initial, std::int64_t local, int weight) {
  return {name, weight, [=](Draft& draft) { draft.c.initial = initial, draft.c.local = local; }};
}

}  // namespace

std::int64_t max_blocks(const Case& c) { return (longest(c) + c.block - 1) / c.block; }

void set_count(Draft& draft, std::int64_t count) {
  draft.c.top_k = std::max<std::int64_t>(1, count);
  draft.c.top_n = std::max(draft.c.initial + draft.c.local, count);
}

void set_compression(Draft& draft, std::int64_t stride, std::int64_t rows, std::int64_t ratio) {
  draft.c.compress_stride = stride;
  draft.c.compress_block = stride * rows;
  draft.c.block = stride * ratio;
}

Axis block_axis() {
  return {
      "block",
      has_blocks,
      {{"one token", 1, [](Draft& draft) { draft.c.block = 1; }, [](const Case& c) { return c.block == 1; }, has_slots},
       {"few tokens", 2, [](Draft& draft) { draft.c.block = draft.between(2, 7); }, {}, has_slots},
       {"power of two", 2,
        [](Draft& draft) {
          draft.c.block = draft.one_of<std::int64_t>({4, 8, 16, 32});
        },
        [](const Case& c) { return c.block > 1 && is_power_of_two(c.block); }, has_slots},
       {"no power of two", 1,
        [](Draft& draft) {
          draft.c.block = draft.one_of<std::int64_t>({6, 9, 10, 12, 20, 24});
        },
        [](const Case& c) { return !is_power_of_two(c.block); }, has_slots},
       {"large", 1,
        [](Draft& draft) {
          draft.c.block = draft.one_of<std::int64_t>({48, 64, 100, 512});
        },
        [](const Case& c) { return c.block >= 48; }, has_slots},
       seen("one", [](const Case& c) { return max_blocks(c) == 1; }),
       seen("over 16", [](const Case& c) { return max_blocks(c) > 16; }),
       seen("over 128", [](const Case& c) { return max_blocks(c) > 128; }),
       seen("a short last one",
            [](const Case& c) {
              return any_length(c, [&](std::int64_t n) { return n > c.block && n % c.block != 0; });
            }),
       seen("whole ones", [](const Case& c) { return leaves(c, c.block, 0); }),
       seen("one token past one", [](const Case& c) { return c.block > 1 && leaves(c, c.block, 1); })}};
}

Axis compression_axis() {
  return {
      "compression",
      has_compression,
      {{"of one token", 1, [](Draft& draft) { set_compression(draft, 1, 1, draft.between(1, 8)); },
        [](const Case& c) { return c.compress_block == 1; }},
       {"stride 1", 1,
        [](Draft& draft) {
          const std::int64_t rows = draft.between(2, 6);
          set_compression(draft, 1, rows, rows + draft.between(0, 6));
        },
        [](const Case& c) { return c.compress_stride == 1; }},
       {"overlapping", 3,
        [](Draft& draft) {
          const std::int64_t rows = draft.between(2, 4);
          const std::int64_t stride = draft.between(2, 4);
          set_compression(draft, stride, rows, rows + draft.between(0, 2));
        },
        [](const Case& c) { return c.compress_block > c.compress_stride; }},
       {"side by side", 2,
        [](Draft& draft) {
          const std::int64_t stride = draft.between(2, 8);
          set_compression(draft, stride, 1, draft.between(1, 3));
        },
        [](const Case& c) { return c.compress_block == c.compress_stride; }},
       {"32 by 16 of 64", 1, [](Draft& draft) { set_compression(draft, 16, 2, 4); }},
       seen(
           "of a selection block", [](const Case& c) { return c.compress_block == c.block; }, has_importance),
       seen("no row",
            [](const Case& c) { return any_length(c, [&](std::int64_t n) { return n > 0 && n < c.compress_block; }); }),
       seen("over 16 rows", [](const Case& c) { return longest(c) >= c.compress_block + 16 * c.compress_stride; })}};
}

Axis forced_axis() {
  return {"forced blocks",
          has_importance,
          {forced_value("1 and 2", 1, 2, 2), forced_value("0 and 1", 0, 1, 1), forced_value("0 and 3", 0, 3, 1),
           forced_value("2 and 1", 2, 1, 1), seen("initial", [](const Case& c) { return c.initial > 0; }),
           seen("several local", [](const Case& c) { return c.local > 1; }),
           seen("no others", [](const Case& c) { return c.top_n == c.initial + c.local; })}};
}

Axis count_axis() {
  return {
      "blocks per query",
      [](Operator op) { return has_blocks(op) || has_slots(op); },
      {{"one", 2, [](Draft& draft) { set_count(draft, 1); }, [](const Case& c) { return count(c) == 1; }},
       {"some", 4,
        [](Draft& draft) { set_count(draft, draft.between(2, std::min<std::int64_t>(8, max_blocks(draft.c) - 1))); },
        [](const Case& c) { return count(c) > forced(c) && count(c) < max_blocks(c); }},
       {"all but one", 1, [](Draft& draft) { set_count(draft, max_blocks(draft.c) - 1); },
        [](const Case& c) { return count(c) == max_blocks(c) - 1; }},
       {"all", 1, [](Draft& draft) { set_count(draft, max_blocks(draft.c)); },
        [](const Case& c) { return count(c) == max_blocks(c); }},
       {"more than all", 1, [](Draft& draft) { set_count(draft, max_blocks(draft.c) + draft.between(1, 9)); },
        [](const Case& c) { return count(c) > max_blocks(c); }}}};
}

Axis gate_axis() {
  return {
      "gate",
      [](Operator op) { return has_key(op, "gate"); },
      {gate_value("top_k", Gate::top_k, 3), gate_value("window", Gate::window, 1), gate_value("sink", Gate::sink, 1)}};
}

Axis window_axis() {
  return {"window",
          has_window,
          {{"one key", 1, [](Draft& draft) { draft.c.window = 1; }, [](const Case& c) { return c.window == 1; }},
           {"shorter", 4, [](Draft& draft) { draft.c.window = draft.between(2, longest(draft.c) - 1); },
            [](const Case& c) { return c.window > 1 && c.window < longest(c); }},
           {"at a tile's edge", 1,
            [](Draft& draft) {
              const auto tile = draft.one_of<std::int64_t>({8, 16, 32, 64});
              draft.c.window = tile + draft.between(-1, 1);
            }},
           {"as long", 1, [](Draft& draft) { draft.c.window = std::max<std::int64_t>(1, longest(draft.c)); },
            [](const Case& c) { return c.window == longest(c); }},
           {"longer", 1, [](Draft& draft) { draft.c.window = longest(draft.c) + draft.between(1, 99); },
            [](const Case& c) { return c.window > longest(c); }}}};
}

}  // namespace attnspec::verify::space
