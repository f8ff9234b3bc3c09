// What phi's forward and backward share: the operands of their products, and the hidden layer of the MLP.
#pragma once

#include <cstdint>

#include "cuda/baseline/phi.cuh"
#include "cuda/divider.hpp"
#include "cuda/nsa/compress.hpp"
#include "cuda/nsa/product.cuh"

namespace attnspec::cuda::inline ATTNSPEC_TARGET::nsa_tiles {

/// The parameters of a kv head.
__device__ __forceinline__ int set_of(int sets, int g) { return sets == 1 ? 0 : g; }

/// Row `row` of head `head`.
struct HeadRow {
  int row, head;
};

/// Rows by number: those of the head that has the number of the batch, or those of all heads, one head after another.
struct HeadRows {
  int rows, heads;  // 0 heads: that of the batch
  Divider by_rows;

  HeadRows(std::int64_t num_rows, int num_heads)
      : rows(static_cast<int>(num_rows)), heads(num_heads), by_rows(num_rows > 0 ? num_rows : 1) {}

  __device__ __forceinline__ bool has(int n) const { return n < (heads == 0 ? rows : rows * heads); }
  __device__ __forceinline__ HeadRow operator()(int batch, int n) const {
    if (heads == 0) return {n, batch};
    const int head = by_rows.of(n);
    return {n - head * rows, head};
  }
};

/// Rows of a tensor with so many columns.
template <class T, bool along_depth>
struct RowLines {
  static constexpr bool kAlongDepth = along_depth, kIsEncoded = false;
  HeadRows lines;
  int columns;
  Rows<const T> rows;

  __device__ __forceinline__ const T* data() const { return rows.data; }
  __device__ __forceinline__ Line line(int batch, int n) const {
    if (!lines.has(n)) return {0, 0, 0};
    const HeadRow at = lines(batch, n);
    return {rows.at(at.row, at.head) - rows.data, 0, 1};
  }
  __device__ __forceinline__ Vector vector(int n) const { return {8 * n, 8 * n < columns ? 0 : -1}; }
};

/// z of compression blocks: a line has the tokens of a block side by side, to be encoded by their position.
template <class T, bool along_depth>
struct BlockLines {
  static constexpr bool kAlongDepth = along_depth, kIsEncoded = true;
  HeadRows lines;
  int block, sets;
  Divider by_vectors;  // of a token
  int vectors;
  const std::int64_t* starts;
  Rows<const T> tokens, position;

  BlockLines(const Compression& c, const HeadRows& head_rows, const std::int64_t* block_starts, Rows<const T> x,
             Rows<const T> encoding)
      : lines(head_rows),
        block(static_cast<int>(c.block)),
        sets(c.sets),
        by_vectors(c.features / 8),
        vectors(c.features / 8),
        starts(block_starts),
        tokens(x),
        position(encoding) {}

  __device__ __forceinline__ const T* data() const { return tokens.data; }
  __device__ __forceinline__ Line line(int batch, int n) const {
    if (!lines.has(n)) return {0, 0, 0};
    const HeadRow at = lines(batch, n);
    return {tokens.at(starts[at.row], at.head) - tokens.data, 0, 1};
  }
  __device__ __forceinline__ Vector vector(int n) const {
    const int i = by_vectors.of(n);
    return {i * tokens.token_stride + (n - i * vectors) * 8, i < block ? 0 : -1};
  }
  /// What is added to vector n; nullptr: nothing.
  __device__ __forceinline__ const T* encoding(int batch, int n) const {
    const int i = by_vectors.of(n);
    return i < block ? position.at(i, set_of(sets, batch)) + (n - i * vectors) * 8 : nullptr;
  }
};

/// All rows of w, of the set of the batch's head, along the depth or not.
template <bool along_depth, class T>
RowLines<T, along_depth> weights(const Compression& c, std::int64_t rows, int columns, Rows<const T> w) {
  return {{rows, c.sets == 1 ? 1 : 0}, columns, w};
}

template <class T>
Rows<const T> constant(const Rows<T>& rows) {
  return {rows.data, rows.token_stride, rows.head_stride};
}

/// Two neighbours, rounded.
template <class T>
__device__ __forceinline__ void store_pair(T* to, float first, float second) {
  *reinterpret_cast<std::uint32_t*>(to) = pack<T>(first, second);
}

/// Two neighbours in fp32.
struct alignas(8) Pair {
  float first, second;
};

/// h = b1 + W1^T z of every block, where `hidden` has data, and its activations.
template <class T>
void find_hidden(const Compression&, Rows<const T> tokens, const Phi<const T>&, const std::int64_t* starts,
                 Rows<float> hidden, Rows<T> activations, void* stream);

/// The first token of every compression block.
void find_starts(const Compression&, std::int64_t* starts, void* stream);

}  // namespace attnspec::cuda::inline ATTNSPEC_TARGET::nsa_tiles
