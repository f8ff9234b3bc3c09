// The axes of the space of cases, by subject.
#pragma once

#include "verify/cases/space/space.hpp"

namespace attnspec::verify::space {

// sizes.cpp
Axis size_axis();
Axis head_axis();
Axis feature_axis();
Axis sequence_axis();
Axis length_axis();
Axis query_axis();

// blocks.cpp
Axis block_axis();
Axis compression_axis();
Axis forced_axis();
Axis count_axis();
Axis gate_axis();
Axis window_axis();

// numbers.cpp
Axis phi_axis();
Axis shared_phi_axis();
Axis shared_kv_axis();
Axis shared_selection_axis();
Axis causal_axis();
Axis scale_axis();
Axis dtype_axis();
Axis layout_axis();
Axis regime_axis();

// calls.cpp
Axis session_axis();
Axis law_axis();

// extremes.cpp
Axis extreme_axis();

inline bool always(Operator) { return true; }

/// A value that sets one member.
template <class T>
Value sets(std::string name, T Case::*member, T value, int weight = 1) {
  return {std::move(name), weight, [=](Draft& draft) { draft.c.*member = value; },
          [=](const Case& c) { return c.*member == value; }};
}

/// A class of cases that no draw aims at.
inline Value seen(std::string name, std::function<bool(const Case&)> holds, bool (*has)(Operator) = always) {
  return {std::move(name), 0, {}, std::move(holds), has};
}

void set_heads(Draft& draft, std::int64_t kv_heads, std::int64_t group);
void set_features(Draft& draft, std::int64_t dk, std::int64_t dv);
/// l = stride * rows, l' = stride * ratio, ratio >= rows.
void set_compression(Draft& draft, std::int64_t stride, std::int64_t rows, std::int64_t ratio);
/// Blocks per query, in slots or n of NSA.
void set_count(Draft& draft, std::int64_t count);
/// Blocks of the longest sequence.
std::int64_t max_blocks(const Case& c);
/// Whether some sequence has keys in that relation.
bool any_length(const Case& c, const std::function<bool(std::int64_t)>& holds);
/// Whether some length leaves that many tokens past the last edge of a tile.
bool leaves(const Case& c, std::int64_t tile, std::int64_t rest);

}  // namespace attnspec::verify::space
