// What query_tiles does, with products of warpgroups: for devices that have them, positive scales, and features for
// which there is a shape.
#pragma once

#include "cuda/query_tiles/problem.hpp"

namespace attnspec::cuda::inline ATTNSPEC_TARGET::warpgroup_tiles {

using query_tiles::BackwardRows;
using query_tiles::ImportanceRule;
using query_tiles::Problem;
using query_tiles::RowSegments;
using query_tiles::RowTerms;
using query_tiles::Tiles;

/// Rows of a forward's tile, rows of a tile of dq, and keys of a tile of dk and dv.
inline constexpr int kForwardRows = 128, kGradientRows = 128, kGradientKeys = 128;

/// Rows of a selection's tile.
inline constexpr int kImportanceRows = 256;

/// Rows of q and k of at most so many features, and rows of v.
template <int dk, int dv>
struct Features {
  static constexpr int kDk = dk, kDv = dv;
};

/// Most features of rows of q and k, forward, backward and for a selection, and of v.
inline constexpr int kMaxDk = 192, kMaxGradientDk = 128, kMaxSelectDk = 128, kMaxDv = 128;

/// Calls use(features) with the smallest that hold a call's.
template <class Use>
void with_features(int dk, int dv, const Use& use) {
  if (dk <= 64 && dv <= 64) return use(Features<64, 64>{});
  if (dk <= 128) return use(Features<128, 128>{});
  use(Features<kMaxDk, kMaxDv>{});
}

/// The same for a backward and a selection.
template <class Use>
void with_gradient_features(int dk, int dv, const Use& use) {
  if (dk <= 64 && dv <= 64) return use(Features<64, 64>{});
  use(Features<kMaxGradientDk, kMaxDv>{});
}

/// See query_tiles.
template <class T>
void attend(const Problem&, const Tiles& row_tiles, Rows<const T> q, Rows<const T> k, Rows<const T> v, Rows<T> o,
            Rows<float> lse, void* stream);
template <class T>
void attend_backward(const Problem&, const Tiles& row_tiles, const Tiles& key_tiles, const RowSegments&,
                     const BackwardRows<T>&, RowTerms* terms, Rows<T> dq, Rows<T> dk, Rows<T> dv, void* stream);

/// Whether a selection is for tiles of warpgroups: what their shared memory holds.
bool can_select(const Problem&, const ImportanceRule&);
template <class T>
void select_important_blocks(const Problem&, const Tiles& row_tiles, const ImportanceRule&, Rows<const T> q,
                             Rows<const T> k, Rows<const float> lse, Rows<std::int32_t> selection, void* stream);

}  // namespace attnspec::cuda::inline ATTNSPEC_TARGET::warpgroup_tiles
