// The backward of phi on tensor cores. With dr the gradient of a compressed row, dz of its block is dr / l for every
// token (mean), W dr (linear), or W1 dh with dh = (W2 dr) slope(h), rounded to the format of the weights (MLP). Of a
// layer with weights W, outputs y and their gradients dy, summed over all blocks and the kv heads that share W:
//   dW = sum z dy^T               a product over the blocks, in slices that are added in order
//   db = sum dy                   sum_rows
//   dposition_i = W_i sum dy      position_rows: position is in the z of every block
//   dx_j = sum of W_i dy over the blocks that have token j at place i; one product for all: the tokens of a sequence,
//   cut
//     into chunks of `stride`, are the rows, those of a chunk the columns, and the depth is y of the block that begins
//     with the chunk, then y of the one before, and so on.
//
// A token's bits depend on its own blocks alone; so do those of the gradients of weights, which depend on all.
#include <algorithm>

#include "cuda/nsa/compress.hpp"
#include "cuda/nsa/phi.cuh"
#include "cuda/nsa/vectors.cuh"
#include "cuda/primitives/warp.cuh"

namespace attnspec::cuda::inline ATTNSPEC_TARGET::nsa_tiles {

using baseline::activation_slope;

namespace {

// ---- Gradients of tokens ----

template <class T>
__global__ void mean_gradients(VectorGrid grid, Compression c, Rows<const T> d_rows, Rows<T> d_tokens) {
  const auto [token, g, f] = grid.place();
  if (token >= grid.rows) return;
  const Sequence s = sequence_of(c.sequences, c.sequences.k_offsets, token);
  const int j = token - static_cast<int>(s.k_begin), block = static_cast<int>(c.block);
  const int stride = static_cast<int>(c.stride), last = j / stride, places = block / stride;
  Numbers sum = {};
  for (int b = last < places ? 0 : last - places + 1; b < s.num_queries && b <= last; ++b) {
    Numbers numbers;
    load_vector(numbers, d_rows.at(s.q_begin + b, g) + f);
    add_vector(sum, numbers);
  }
#pragma unroll
  for (float& number : sum) number /= static_cast<float>(c.block);
  store_vector(d_tokens.at(token, g) + f, sum);
}

/// A chunk of a sequence, and the block that begins with it: the sequence's `block`-th, if it has so many.
struct Chunk {
  Sequence sequence;
  int block;
};

__device__ __forceinline__ Chunk chunk_of(const Compression& c, const std::int64_t* chunk_offsets, int n) {
  const Sequence s = sequence_of(c.sequences, chunk_offsets, n);
  return {s, n - static_cast<int>(chunk_offsets[s.index])};
}

/// dy of the blocks that have a chunk's tokens: at place p that of the p-th before the block that begins with the
/// chunk.
template <class T>
struct ChunkLines {
  static constexpr bool kAlongDepth = false, kIsEncoded = false;
  Compression c;
  const std::int64_t* chunk_offsets;
  int num_chunks, places, vectors;  // vectors of a row
  Divider by_vectors;
  Rows<const T> rows;

  __device__ __forceinline__ const T* data() const { return rows.data; }
  __device__ __forceinline__ Line line(int g, int n) const {
    if (n >= num_chunks) return {0, 0, 0};
    const auto [s, block] = chunk_of(c, chunk_offsets, n);
    const int missing = block - static_cast<int>(s.num_queries) + 1;  // at the end of the sequence
    return {rows.at(s.q_begin + block, g) - rows.data, missing < 0 ? 0 : missing, block + 1};
  }
  __device__ __forceinline__ Vector vector(int n) const {
    const int place = by_vectors.of(n);
    return {(n - place * vectors) * 8 - place * rows.token_stride, place < places ? place : -1};
  }
};

/// Rows of W for the tokens of a chunk, one after another: at place p those for the p-th chunk of a block.
template <class T>
struct ChunkWeights {
  static constexpr bool kAlongDepth = false;
  int chunk_rows, places, sets, vectors;
  Divider by_vectors;
  Rows<const T> w;

  __device__ __forceinline__ const T* data() const { return w.data; }
  __device__ __forceinline__ Line line(int g, int n) const {
    if (n >= chunk_rows) return {0, 0, 0};
    return {w.at(n, set_of(sets, g)) - w.data, 0, 1};
  }
  __device__ __forceinline__ Vector vector(int n) const {
    const int place = by_vectors.of(n);
    return {place * chunk_rows * w.token_stride + (n - place * vectors) * 8, place < places ? 0 : -1};
  }
};

/// Rows are chunks, with the features of their tokens side by side.
template <class T>
struct StoreChunks {
  Compression c;
  const std::int64_t* chunk_offsets;
  Divider by_features;
  Rows<T> tokens;

  __device__ __forceinline__ auto row(int g, int, int n) const {
    const auto [s, block] = chunk_of(c, chunk_offsets, n);
    const std::int64_t first = block * c.stride;
    return [this, g, token = s.k_begin + first, left = s.num_keys - first](int column, float x, float y) {
      const int i = by_features.of(column);
      if (i < left) store_pair(tokens.at(token + i, g) + (column - i * c.features), x, y);
    };
  }
};

// ---- Gradients of parameters ----

/// The compressed rows that a gradient of parameters sums: of the kv heads that share these, or of the batch's.
HeadRows rows_of_set(const Compression& c) { return {c.num_rows, c.sets == 1 ? c.kv_heads : 0}; }

/// The gradient of weights [rows, columns], in as many slices as a large GPU needs to have work, but none of which has
/// few rows.
Extent extent_of_gradients(const Compression& c, int rows, int columns) {
  constexpr int kWantedBlocks = 256, kMinSlice = 256;
  const auto ratio = [](int a, int b) { return (a + b - 1) / b; };
  const int depth = static_cast<int>(c.num_rows) * (c.sets == 1 ? c.kv_heads : 1);
  const int slices = std::max(1, kWantedBlocks / (ratio(rows, kTile) * ratio(columns, kTile) * c.sets));
  const int slice = std::max(ratio(depth, slices), kMinSlice);
  return {rows, columns, depth, ratio(slice, kDepth) * kDepth, c.sets};
}

/// Rows are those of one slice's sum.
struct StorePartials {
  int sets;
  std::int64_t rows, columns;
  float* partials;  // [slices, rows, sets, columns]

  __device__ __forceinline__ auto row(int set, int slice, int n) const {
    return [to = partials + ((slice * rows + n) * sets + set) * columns](int column, float first, float second) {
      *reinterpret_cast<Pair*>(to + column) = {first, second};
    };
  }
};

template <class T>
__global__ void merge_partials(VectorGrid grid, int count, const float* partials, Rows<T> sums) {
  const auto [row, set, column] = grid.place();
  if (row >= grid.rows) return;
  const std::int64_t columns = grid.vectors * kVector, numbers = grid.rows * grid.heads * columns;
  const float* from = partials + (static_cast<std::int64_t>(row) * grid.heads + set) * columns + column;
  Numbers sum = {};
  for (int slice = 0; slice < count; ++slice)
#pragma unroll
    for (int n = 0; n < kVector; ++n) sum[n] += from[slice * numbers + n];
  store_vector(sums.at(row, set) + column, sum);
}

constexpr int kSumWarps = 32, kSumLanes = 4, kSumColumns = kSumLanes * kVector,
              kSumLines = kSumWarps * kWarpLanes / kSumLanes;

struct SumsOfWarps {
  float sums[kSumWarps][kSumColumns];
};

/// sums [sets, columns] of rows, and where `rounded` has data also there. A thread block owns 32 columns of a set: four
/// lanes have a row of them, and rows are added in a fixed order.
template <class T>
__global__ void sum_rows(HeadRows lines, int columns, Rows<const T> rows, float* sums, Rows<T> rounded) {
  auto& shared = static_shared<SumsOfWarps>();
  const int set = block_index().y, first_column = block_index().x * kSumColumns;
  const int column = first_column + thread_number() % kSumLanes * kVector;
  Numbers sum = {};
#pragma unroll 4
  for (int n = thread_number() / kSumLanes; column < columns && lines.has(n); n += kSumLines) {
    const HeadRow at = lines(set, n);
    Numbers numbers;
    load_vector(numbers, rows.at(at.row, at.head) + column);
    add_vector(sum, numbers);
  }
#pragma unroll
  for (int n = 0; n < kVector; ++n) {
#pragma unroll
    for (int flip = kSumLanes; flip < kWarpLanes; flip *= 2) sum[n] += shuffle_xor(sum[n], flip);
    if (lane_index() < kSumLanes) shared.sums[warp_index()][lane_index() * kVector + n] = sum[n];
  }
  sync_threads();
  const int mine = thread_number();
  if (mine >= kSumColumns || first_column + mine >= columns) return;
  float total = 0;
#pragma unroll
  for (int warp = 0; warp < kSumWarps; ++warp) total += shared.sums[warp][mine];
  sums[set * columns + first_column + mine] = total;
  if (rounded.data != nullptr) rounded.at(0, set)[first_column + mine] = from_float<T>(total);
}

constexpr int kRowLanes = 8;

/// dposition [l, sets, features]: row i features + f of W times the sums. grid: vectors of [l features, sets, 8
/// kRowLanes].
template <class T>
__global__ void position_rows(VectorGrid grid, int features, int columns, Rows<const T> w, const float* sums,
                              Rows<T> d_position) {
  const auto [row, set, first] = grid.place();
  float sum = 0;
  for (int column = first; row < grid.rows && column < columns; column += kRowLanes * kVector) {
    Numbers numbers;
    load_vector(numbers, w.at(row, set) + column);
#pragma unroll
    for (int n = 0; n < kVector; ++n) sum += numbers[n] * sums[set * columns + column + n];
  }
  sum = sum_lanes<kRowLanes>(sum);
  if (row < grid.rows && first == 0) d_position.at(row / features, set)[row % features] = from_float<T>(sum);
}

/// The gradient of the hidden layer, from that of its activations.
template <class T>
struct StoreHiddenGradient {
  int kind;
  Rows<float> hidden;
  Rows<T> d_hidden;

  __device__ __forceinline__ auto row(int g, int, int n) const {
    return [to = d_hidden.at(n, g), h = hidden.at(n, g), kind = kind](int unit, float first, float second) {
      store_pair(to + unit, first * activation_slope(kind, h[unit]), second * activation_slope(kind, h[unit + 1]));
    };
  }
};

// ---- Layers ----

/// dW [rows, sets, columns] of a layer with inputs A and output gradients dy.
template <class T, class A>
void weight_gradients(const Compression& c, const A& inputs, int rows, int columns, Rows<const T> d_outputs,
                      const Room<T>& room, Rows<T> d_weights, void* stream) {
  const Extent extent = extent_of_gradients(c, rows, columns);
  launch_product<T>(extent, inputs, RowLines<T, true>{rows_of_set(c), columns, d_outputs},
                    StorePartials{c.sets, rows, columns, room.partials}, stream);
  launch_vectors(merge_partials<T>, {rows, c.sets, columns}, stream, extent.slices(), room.partials, d_weights);
}

/// sums [sets, columns] of dy in the room, and in db where it has data.
template <class T>
void sum_outputs(const Compression& c, int columns, Rows<const T> d_outputs, const Room<T>& room, Rows<T> d_bias,
                 void* stream) {
  launch(sum_rows<T>, {{(columns - 1) / kSumColumns + 1, c.sets}, {kSumWarps * kWarpLanes}}, stream, rows_of_set(c),
         columns, d_outputs, room.sums, d_bias);
}

/// dx, dW, db and dposition of the layer whose inputs are z.
template <class T>
void first_layer(const Compression& c, Rows<const T> tokens, Rows<const T> position, Rows<const T> w, int columns,
                 Rows<const T> d_outputs, const Room<T>& room, Rows<T> d_tokens, Rows<T> d_w, Rows<T> d_bias,
                 Rows<T> d_position, void* stream) {
  const int inputs = static_cast<int>(c.block) * c.features, chunk = static_cast<int>(c.stride) * c.features;
  const int places = static_cast<int>(c.block / c.stride), chunks = static_cast<int>(room.num_chunks);
  launch_product<T>({chunks, chunk, places * columns, places * columns, c.kv_heads},
                    ChunkLines<T>{c, room.chunk_offsets, chunks, places, columns / 8, Divider(columns / 8), d_outputs},
                    ChunkWeights<T>{chunk, places, c.sets, columns / 8, Divider(columns / 8), w},
                    StoreChunks<T>{c, room.chunk_offsets, Divider(c.features), d_tokens}, stream);
  weight_gradients(c, BlockLines<T, true>(c, rows_of_set(c), room.starts, tokens, position), inputs, columns, d_outputs,
                   room, d_w, stream);
  sum_outputs(c, columns, d_outputs, room, d_bias, stream);
  launch_vectors(position_rows<T>, {inputs, c.sets, kRowLanes * kVector}, stream, c.features, columns, w, room.sums,
                 d_position);
}

}  // namespace

std::int64_t num_partials(const Compression& c) {
  const auto of = [&](int rows, int columns) {
    return std::int64_t{extent_of_gradients(c, rows, columns).slices()} * rows * c.sets * columns;
  };
  const int inputs = static_cast<int>(c.block) * c.features;
  if (c.phi == ATTNSPEC_PHI_MEAN) return 0;
  if (c.phi == ATTNSPEC_PHI_LINEAR) return of(inputs, c.features);
  return std::max(of(inputs, c.hidden), of(c.hidden, c.features));
}

template <class T>
void compress_backward(const Compression& c, Rows<const T> tokens, const Phi<const T>& phi, const Room<T>& room,
                       Rows<const T> d_rows, Rows<T> d_tokens, const Phi<T>& d_phi, void* stream) {
  if (c.phi == ATTNSPEC_PHI_MEAN)
    return launch_vectors(mean_gradients<T>, {c.num_tokens, c.kv_heads, c.features}, stream, c, d_rows, d_tokens);
  find_starts(c, room.starts, stream);
  if (c.phi == ATTNSPEC_PHI_LINEAR)
    return first_layer(c, tokens, phi.position, phi.w, c.features, d_rows, room, d_tokens, d_phi.w, {}, d_phi.position,
                       stream);
  find_hidden(c, tokens, phi, room.starts, room.hidden, room.activations, stream);
  launch_product<T>({static_cast<int>(c.num_rows), c.hidden, c.features, c.features, c.kv_heads},
                    RowLines<T, false>{{c.num_rows, 0}, c.features, d_rows},
                    weights<false>(c, c.hidden, c.features, phi.w2),
                    StoreHiddenGradient<T>{c.activation, room.hidden, room.d_hidden}, stream);
  weight_gradients(c, RowLines<T, true>{rows_of_set(c), c.hidden, constant(room.activations)}, c.hidden, c.features,
                   d_rows, room, d_phi.w2, stream);
  sum_outputs(c, c.features, d_rows, room, d_phi.b2, stream);
  first_layer(c, tokens, phi.position, phi.w1, c.hidden, constant(room.d_hidden), room, d_tokens, d_phi.w1, d_phi.b1,
              d_phi.position, stream);
}

#define ATTNSPEC_INSTANTIATE(T)                                                                              \
  template void compress_backward<T>(const Compression&, Rows<const T>, const Phi<const T>&, const Room<T>&, \
                                     Rows<const T>, Rows<T>, const Phi<T>&, void*);
ATTNSPEC_INSTANTIATE(bf16)
ATTNSPEC_INSTANTIATE(fp16)

}  // namespace attnspec::cuda::inline ATTNSPEC_TARGET::nsa_tiles
