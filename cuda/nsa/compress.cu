// phi on tensor cores: the mean of a compression block's tokens x_i; W^T z, z the rows x_i + position_i side by side;
// or b2 + W2^T activation(h), h = b1 + W1^T z. Products of z, and of the activations, with weights: product.cuh. Both
// are rounded to the format of the weights.
//
// A row's bits depend on its own block alone: the depth is never cut, and a column of a product is summed in one order.
#include "cuda/baseline/visit.cuh"
#include "cuda/nsa/compress.hpp"
#include "cuda/nsa/phi.cuh"
#include "cuda/nsa/vectors.cuh"

namespace attnspec::cuda::inline ATTNSPEC_TARGET::nsa_tiles {

using baseline::activation;

namespace {

__global__ void block_starts(Compression c, std::int64_t* starts) {
  const std::int64_t row = baseline::global_thread();
  if (row < c.num_rows) starts[row] = baseline::block_of(c, row).begin;
}

template <class T>
__global__ void __launch_bounds__(kVectorThreads, 3)
    mean_rows(VectorGrid grid, Compression c, Rows<const T> tokens, Rows<T> rows) {
  const auto [row, g, f] = grid.place();
  if (row >= grid.rows) return;
  const std::int64_t begin = baseline::block_of(c, row).begin;
  Numbers sum = {};
#pragma unroll 8  // in registers that three thread blocks on a multiprocessor leave: all loads before the sums
  for (std::int64_t i = 0; i < c.block; ++i) {
    Numbers numbers;
    load_vector(numbers, tokens.at(begin + i, g) + f);
    add_vector(sum, numbers);
  }
#pragma unroll
  for (float& number : sum) number /= static_cast<float>(c.block);
  store_vector(rows.at(row, g) + f, sum);
}

/// Rows are sums, with a bias where it has data.
template <class T>
struct StoreRows {
  int sets;
  Rows<const T> bias;
  Rows<T> rows;

  __device__ __forceinline__ auto row(int g, int, int n) const {
    const T* added = bias.data == nullptr ? nullptr : bias.at(0, set_of(sets, g));
    return [to = rows.at(n, g), added](int column, float first, float second) {
      if (added != nullptr) first += to_float(added[column]), second += to_float(added[column + 1]);
      store_pair(to + column, first, second);
    };
  }
};

/// h, where `hidden` has data, and its activations.
template <class T>
struct StoreHidden {
  int sets, kind;
  Rows<const T> bias;
  Rows<float> hidden;
  Rows<T> activations;

  __device__ __forceinline__ auto row(int g, int, int n) const {
    float* h = hidden.data == nullptr ? nullptr : hidden.at(n, g);
    return [to = activations.at(n, g), h, added = bias.at(0, set_of(sets, g)), kind = kind](int unit, float first,
                                                                                            float second) {
      first += to_float(added[unit]), second += to_float(added[unit + 1]);
      if (h != nullptr) *reinterpret_cast<Pair*>(h + unit) = {first, second};
      store_pair(to + unit, activation(kind, first), activation(kind, second));
    };
  }
};

/// z W of every block and head.
template <class T, class Output>
void multiply_blocks(const Compression& c, Rows<const T> tokens, Rows<const T> position, const std::int64_t* starts,
                     Rows<const T> w, int columns, const Output& output, void* stream) {
  const int inputs = static_cast<int>(c.block) * c.features;
  launch_product<T>({static_cast<int>(c.num_rows), columns, inputs, inputs, c.kv_heads},
                    BlockLines<T, false>(c, {c.num_rows, 0}, starts, tokens, position),
                    weights<true>(c, inputs, columns, w), output, stream);
}

}  // namespace

void find_starts(const Compression& c, std::int64_t* starts, void* stream) {
  baseline::launch_rows(block_starts, c.num_rows, stream, c, starts);
}

template <class T>
void find_hidden(const Compression& c, Rows<const T> tokens, const Phi<const T>& phi, const std::int64_t* starts,
                 Rows<float> hidden, Rows<T> activations, void* stream) {
  multiply_blocks(c, tokens, phi.position, starts, phi.w1, c.hidden,
                  StoreHidden<T>{c.sets, c.activation, phi.b1, hidden, activations}, stream);
}

std::size_t product_shared_bytes() { return sizeof(SharedProduct<bf16>); }

template <class T>
void compress(const Compression& c, Rows<const T> tokens, const Phi<const T>& phi, const Room<T>& room, Rows<T> rows,
              void* stream) {
  if (c.phi == ATTNSPEC_PHI_MEAN)
    return launch_vectors(mean_rows<T>, {c.num_rows, c.kv_heads, c.features}, stream, c, tokens, rows);
  find_starts(c, room.starts, stream);
  if (c.phi == ATTNSPEC_PHI_LINEAR)
    return multiply_blocks(c, tokens, phi.position, room.starts, phi.w, c.features, StoreRows<T>{c.sets, {}, rows},
                           stream);
  find_hidden(c, tokens, phi, room.starts, {}, room.activations, stream);
  launch_product<T>({static_cast<int>(c.num_rows), c.features, c.hidden, c.hidden, c.kv_heads},
                    RowLines<T, false>{{c.num_rows, 0}, c.hidden, constant(room.activations)},
                    weights<true>(c, c.hidden, c.features, phi.w2), StoreRows<T>{c.sets, phi.b2, rows}, stream);
}

#define ATTNSPEC_INSTANTIATE(T)                                                                             \
  template void find_hidden<T>(const Compression&, Rows<const T>, const Phi<const T>&, const std::int64_t*, \
                               Rows<float>, Rows<T>, void*);                                                \
  template void compress<T>(const Compression&, Rows<const T>, const Phi<const T>&, const Room<T>&, Rows<T>, void*);
ATTNSPEC_INSTANTIATE(bf16)
ATTNSPEC_INSTANTIATE(fp16)

}  // namespace attnspec::cuda::inline ATTNSPEC_TARGET::nsa_tiles
