// The backward of phi. With dr the gradient of a compressed row, dz of its block is dr / l for every token (mean), W dr
// (linear), or W1 dh with dh = (W2 dr) slope(h) (MLP). A token adds up the dz of all blocks it is in, a position
// encoding those of all blocks; dW = z dr^T, or dW1 = z dh^T, db1 = dh, dW2 = activation(h) dr^T, db2 = dr, summed over
// all blocks and over the kv heads that share the parameters. A thread owns one number of a gradient, so that sums have
// an order.
#include "cuda/baseline/phi.cuh"

namespace attnspec::cuda::inline ATTNSPEC_TARGET::baseline {

namespace {

/// What the backward reads.
template <class T>
struct Given {
  Rows<const T> tokens, d_rows;
  Phi<const T> phi;
  Rows<float> hidden, d_hidden;
};

template <class T>
__global__ void hidden_gradients(Compression c, Rows<const T> d_rows, Phi<const T> phi, Rows<float> hidden,
                                 Rows<float> d_hidden) {
  const std::int64_t number = global_thread();
  if (number >= c.num_rows * c.kv_heads * c.hidden) return;
  const auto [row, g, unit] = place_of(number, c.kv_heads, c.hidden);
  d_hidden.at(row, g)[unit] = dot(phi.w2.at(unit, set_of(c, g)), d_rows.at(row, g), c.features) *
                              activation_slope(c.activation, hidden.at(row, g)[unit]);
}

/// dz of feature f of token i of a block.
template <class T>
__device__ __forceinline__ float input_gradient(const Compression& c, const Given<T>& given, std::int64_t row, int g,
                                                std::int64_t i, int f) {
  const std::int64_t input = i * c.features + f;
  if (c.phi == ATTNSPEC_PHI_MEAN) return to_float(given.d_rows.at(row, g)[f]) / static_cast<float>(c.block);
  if (c.phi == ATTNSPEC_PHI_LINEAR)
    return dot(given.phi.w.at(input, set_of(c, g)), given.d_rows.at(row, g), c.features);
  return dot(given.phi.w1.at(input, set_of(c, g)), given.d_hidden.at(row, g), c.hidden);
}

template <class T>
__global__ void token_gradients(Compression c, Given<T> given, Rows<T> d_tokens) {
  const std::int64_t number = global_thread();
  if (number >= c.num_tokens * c.kv_heads * c.features) return;
  const auto [token, g, f] = place_of(number, c.kv_heads, c.features);
  const Sequence s = sequence_of(c.sequences, c.sequences.k_offsets, token);
  const std::int64_t j = token - s.k_begin, first = j < c.block ? 0 : (j - c.block) / c.stride + 1;
  float sum = 0;
  for (std::int64_t b = first; b < s.num_queries && b * c.stride <= j; ++b)
    sum += input_gradient(c, given, s.q_begin + b, g, j - b * c.stride, f);
  d_tokens.at(token, g)[f] = from_float<T>(sum);
}

enum class Parameter { position, w, w1, b1, w2, b2 };

/// What one block adds to the gradient of a parameter.
template <Parameter parameter, class T>
__device__ __forceinline__ float term(const Compression& c, const Given<T>& given, const CompressionBlock& block, int g,
                                      std::int64_t row, int column) {
  if constexpr (parameter == Parameter::position) return input_gradient(c, given, block.row, g, row, column);
  float left = 1;
  if constexpr (parameter == Parameter::w || parameter == Parameter::w1)
    left = encoded(c, given.tokens, given.phi, block, g, row / c.features, static_cast<int>(row % c.features));
  if constexpr (parameter == Parameter::w2) left = activation(c.activation, given.hidden.at(block.row, g)[row]);
  if constexpr (parameter == Parameter::w1 || parameter == Parameter::b1)
    return left * given.d_hidden.at(block.row, g)[column];
  else
    return left * to_float(given.d_rows.at(block.row, g)[column]);
}

template <Parameter parameter, class T>
__global__ void parameter_gradients(Compression c, Given<T> given, std::int64_t rows, int columns, Rows<T> gradients) {
  const std::int64_t number = global_thread();
  if (number >= rows * c.sets * columns) return;
  const auto [row, set, column] = place_of(number, c.sets, columns);
  float sum = 0;
  for (int g = 0; g < c.kv_heads; ++g) {
    if (set_of(c, g) != set) continue;
    for (std::int64_t i = 0; i < c.sequences.count; ++i) {
      const Sequence s = sequence(c.sequences, i);
      for (std::int64_t b = 0; b < s.num_queries; ++b)
        sum += term<parameter>(c, given, block_of(c, s, b), g, row, column);
    }
  }
  gradients.at(row, set)[column] = from_float<T>(sum);
}

template <Parameter parameter, class T>
void add_blocks(const Compression& c, const Given<T>& given, std::int64_t rows, int columns, Rows<T> gradients,
                void* stream) {
  launch_rows(parameter_gradients<parameter, T>, rows * c.sets * columns, stream, c, given, rows, columns, gradients);
}

}  // namespace

template <class T>
void compress_backward(const Compression& c, Rows<const T> tokens, const Phi<const T>& phi, Rows<float> hidden,
                       Rows<float> d_hidden, Rows<const T> d_rows, Rows<T> d_tokens, const Phi<T>& d_phi,
                       void* stream) {
  const Given<T> given{tokens, d_rows, phi, hidden, d_hidden};
  if (c.phi == ATTNSPEC_PHI_MLP) {
    find_hidden(c, tokens, phi, hidden, stream);
    launch_rows(hidden_gradients<T>, c.num_rows * c.kv_heads * c.hidden, stream, c, d_rows, phi, hidden, d_hidden);
  }
  launch_rows(token_gradients<T>, c.num_tokens * c.kv_heads * c.features, stream, c, given, d_tokens);
  if (c.phi == ATTNSPEC_PHI_MEAN) return;
  const std::int64_t inputs = c.block * c.features;
  add_blocks<Parameter::position>(c, given, c.block, c.features, d_phi.position, stream);
  if (c.phi == ATTNSPEC_PHI_LINEAR) return add_blocks<Parameter::w>(c, given, inputs, c.features, d_phi.w, stream);
  add_blocks<Parameter::w1>(c, given, inputs, c.hidden, d_phi.w1, stream);
  add_blocks<Parameter::b1>(c, given, 1, c.hidden, d_phi.b1, stream);
  add_blocks<Parameter::w2>(c, given, c.hidden, c.features, d_phi.w2, stream);
  add_blocks<Parameter::b2>(c, given, 1, c.features, d_phi.b2, stream);
}

#define ATTNSPEC_INSTANTIATE(T)                                                                                        \
  template void compress_backward<T>(const Compression&, Rows<const T>, const Phi<const T>&, Rows<float>, Rows<float>, \
                                     Rows<const T>, Rows<T>, const Phi<T>&, void*);
ATTNSPEC_INSTANTIATE(bf16)
ATTNSPEC_INSTANTIATE(fp16)
ATTNSPEC_INSTANTIATE(float)

}  // namespace attnspec::cuda::inline ATTNSPEC_TARGET::baseline
