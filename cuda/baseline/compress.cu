// phi: one compressed row of the l tokens x_i of each compression block. The mean of them; W^T z, z the rows x_i +
// position_i side by side; or b2 + W2^T activation(h), h = b1 + W1^T z. A thread owns one number of a compressed row,
// or one hidden unit of a block.
#include "cuda/baseline/phi.cuh"

namespace attnspec::cuda::inline ATTNSPEC_TARGET::baseline {

namespace {

template <class T>
__global__ void mean_rows(Compression c, Rows<const T> tokens, Rows<T> rows) {
  const std::int64_t number = global_thread();
  if (number >= c.num_rows * c.kv_heads * c.features) return;
  const auto [row, g, f] = place_of(number, c.kv_heads, c.features);
  const std::int64_t begin = block_of(c, row).begin;
  float sum = 0;
  for (std::int64_t i = 0; i < c.block; ++i) sum += to_float(tokens.at(begin + i, g)[f]);
  rows.at(row, g)[f] = from_float<T>(sum / static_cast<float>(c.block));
}

/// A column of W^T z.
template <class T>
__device__ __forceinline__ float product(const Compression& c, Rows<const T> tokens, const Phi<const T>& phi,
                                         Rows<const T> w, std::int64_t row, int g, int column) {
  const CompressionBlock block = block_of(c, row);
  float sum = 0;
  for (std::int64_t i = 0; i < c.block; ++i)
    for (int f = 0; f < c.features; ++f)
      sum += encoded(c, tokens, phi, block, g, i, f) * to_float(w.at(i * c.features + f, set_of(c, g))[column]);
  return sum;
}

template <class T>
__global__ void linear_rows(Compression c, Rows<const T> tokens, Phi<const T> phi, Rows<T> rows) {
  const std::int64_t number = global_thread();
  if (number >= c.num_rows * c.kv_heads * c.features) return;
  const auto [row, g, f] = place_of(number, c.kv_heads, c.features);
  rows.at(row, g)[f] = from_float<T>(product(c, tokens, phi, phi.w, row, g, f));
}

template <class T>
__global__ void hidden_units(Compression c, Rows<const T> tokens, Phi<const T> phi, Rows<float> hidden) {
  const std::int64_t number = global_thread();
  if (number >= c.num_rows * c.kv_heads * c.hidden) return;
  const auto [row, g, unit] = place_of(number, c.kv_heads, c.hidden);
  hidden.at(row, g)[unit] = to_float(phi.b1.at(0, set_of(c, g))[unit]) + product(c, tokens, phi, phi.w1, row, g, unit);
}

template <class T>
__global__ void mlp_rows(Compression c, Phi<const T> phi, Rows<float> hidden, Rows<T> rows) {
  const std::int64_t number = global_thread();
  if (number >= c.num_rows * c.kv_heads * c.features) return;
  const auto [row, g, f] = place_of(number, c.kv_heads, c.features);
  float sum = to_float(phi.b2.at(0, set_of(c, g))[f]);
  for (int unit = 0; unit < c.hidden; ++unit)
    sum += activation(c.activation, hidden.at(row, g)[unit]) * to_float(phi.w2.at(unit, set_of(c, g))[f]);
  rows.at(row, g)[f] = from_float<T>(sum);
}

}  // namespace

template <class T>
void find_hidden(const Compression& c, Rows<const T> tokens, const Phi<const T>& phi, Rows<float> hidden,
                 void* stream) {
  launch_rows(hidden_units<T>, c.num_rows * c.kv_heads * c.hidden, stream, c, tokens, phi, hidden);
}

template <class T>
void compress(const Compression& c, Rows<const T> tokens, const Phi<const T>& phi, Rows<float> hidden, Rows<T> rows,
              void* stream) {
  const std::int64_t numbers = c.num_rows * c.kv_heads * c.features;
  if (c.phi == ATTNSPEC_PHI_MEAN) return launch_rows(mean_rows<T>, numbers, stream, c, tokens, rows);
  if (c.phi == ATTNSPEC_PHI_LINEAR) return launch_rows(linear_rows<T>, numbers, stream, c, tokens, phi, rows);
  find_hidden(c, tokens, phi, hidden, stream);
  launch_rows(mlp_rows<T>, numbers, stream, c, phi, hidden, rows);
}

#define ATTNSPEC_INSTANTIATE(T)                                                                             \
  template void find_hidden<T>(const Compression&, Rows<const T>, const Phi<const T>&, Rows<float>, void*); \
  template void compress<T>(const Compression&, Rows<const T>, const Phi<const T>&, Rows<float>, Rows<T>, void*);
ATTNSPEC_INSTANTIATE(bf16)
ATTNSPEC_INSTANTIATE(fp16)
ATTNSPEC_INSTANTIATE(float)

}  // namespace attnspec::cuda::inline ATTNSPEC_TARGET::baseline
