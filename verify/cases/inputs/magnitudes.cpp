#include "verify/cases/inputs/magnitudes.hpp"

#include <algorithm>
#include <bit>
#include <cmath>
#include <numbers>
#include <numeric>

#include "verify/cases/inputs/filling.hpp"
#include "verify/cases/random.hpp"

namespace attnspec::verify {

namespace {

using reference::Tensor;

/// Any size from the largest down to half of it, and any sign.
void fill_near(const Case& c, Tensor& tensor, const char* stream, double largest) {
  const Random random(c.seed, stream);
  fill(c, tensor, [&](std::int64_t token, std::int64_t head, std::int64_t d) {
    const auto index = static_cast<std::uint64_t>((token * tensor.heads + head) * tensor.dim + d);
    const double size = largest * (1 - static_cast<double>(random.below(512, index)) / 1024);
    return random.bits(index) >> 63 != 0 ? -size : size;
  });
}

/// The largest number that tensors may hold so that no right kernel overflows: the format's, and with it fp32 must hold
/// a sum of as many as there are keys or rows, each times 2^8, since some kernels raise the maximum of the scores only
/// when it has grown by that. The branches of NSA are summed; what a phi other than the mean makes is larger.
double largest_number(const Case& c) {
  const std::int64_t terms = longest(c) + c.heads * std::accumulate(c.q_lens.begin(), c.q_lens.end(), std::int64_t{0});
  const double of_sums = 0x1p127 / 0x1p8 / static_cast<double>(std::bit_ceil(static_cast<std::uint64_t>(terms)));
  const double branches = has_branches(c.op) ? 4 : 1, phi = compresses(c.op) && c.phi != reference::Phi::mean ? 64 : 1;
  return std::min(reference::largest_finite(c.dtype), of_sums) / (branches * phi);
}

/// What do times v may be, so that gradients of scores and their products with the scale stay in the format.
double gradient_size(const Case& c) {
  return c.dtype == Format::fp16 ? std::max(1.0, 64 / std::max(1.0, std::abs(c.scale))) : 0x1p32;
}

/// v, or what nsa_compress reads.
Tensor& values_of(const Case& c, Inputs& in) { return has_queries(c.op) ? in.v : in.k; }

/// The seed of a case, which all branches of nsa share.
std::uint64_t shared_seed(const Case& c) { return c.seed % kSeedsOfABranch; }

}  // namespace

void fill_subnormal(const Case& c, Inputs& in) {
  fill_scaled(c, in, 1, 1, reference::power_of_two(reference::min_exponent(c.dtype)), 0x1p-8);
}

void fill_largest_values(const Case& c, Inputs& in) {
  fill_scaled(c, in, 1, 1, 1, gradient_size(c) / largest_number(c));
  fill_near(c, values_of(c, in), "largest", largest_number(c));
}

void fill_largest_gradients(const Case& c, Inputs& in) {
  fill_scaled(c, in, 1, 1, 1, 1);
  const double largest = largest_number(c);
  fill_normal(c, values_of(c, in), "v", gradient_size(c) / largest);
  const Random random(c.seed, "largest"), row(c.seed, "row");
  const std::int64_t tokens = in.d_o.tokens, heads = in.d_o.heads;
  const std::int64_t loud_token = row.below(std::max<std::int64_t>(1, tokens), 0), loud_head = row.below(heads, 1);
  fill(c, in.d_o, [&](std::int64_t token, std::int64_t head, std::int64_t d) {
    const auto index = static_cast<std::uint64_t>((token * heads + head) * in.d_o.dim + d);
    const double sign = random.bits(index) >> 63 != 0 ? -1 : 1;
    const bool is_loud = token == loud_token && head == loud_head;
    return sign * largest * (is_loud ? 0.5 : 0.25 / static_cast<double>(tokens * heads));
  });
}

void fill_largest_keys(const Case& c, Inputs& in) {
  constexpr double kBoth = 0x1p16;  // the products from which both may be large
  const double sigma = std::abs(c.scale), dk = static_cast<double>(c.dk), dv = static_cast<double>(c.dv);
  const double largest = largest_number(c) / std::max(1.0, std::numbers::log2e * sigma);  // a kernel may scale keys
  const double product = sigma == 0 ? 1 : 1 / (sigma * std::sqrt(dk));
  const bool has_biases = compresses(c.op) && c.phi != reference::Phi::mean;  // which no small key outweighs
  const bool keys_alone =
      has_biases || (selects(c.op) && !attends(c.op) && !has_indexer(c.op));  // whose means can overflow
  const std::int64_t kind =
      keys_alone ? 0 : Random(shared_seed(c), "kind").below(product < kBoth ? 2 : 3, 0);  // keys, queries, both
  const double one = std::min(largest, kind == 2 ? std::sqrt(product) : largest),
               other = std::min(largest, product / one);
  const double small = std::sqrt(0x1p-6 / (std::max(sigma, 0x1p-6) * std::sqrt(dv)));
  fill_scaled(c, in, 1, 1, small, small);
  fill_near(c, in.q, "largest q", kind == 1 ? one : other);
  fill_near(c, in.k, "largest k", kind == 1 ? other : one);
}

void fill_smallest(const Case& c, Inputs& in) {
  const auto fill_rows = [&](Tensor& tensor, const char* stream) {
    const Random size(c.seed, "size");
    fill_normal_times(c, tensor, stream, [&](std::int64_t token) {
      const auto above = static_cast<int>(size.below(8, static_cast<std::uint64_t>(token))) - 3;
      return reference::power_of_two(reference::min_exponent(c.dtype) + above);
    });
  };
  fill_rows(in.q, "q"), fill_rows(in.k, "k"), fill_rows(in.v, "v"), fill_rows(in.d_o, "do");
}

}  // namespace attnspec::verify
