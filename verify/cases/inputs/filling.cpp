#include "verify/cases/inputs/filling.hpp"

namespace attnspec::verify {

void fill_normal(const Case& c, reference::Tensor& tensor, const char* stream, double factor, double mean) {
  const Random random(c.seed, stream);
  fill(c, tensor, [&](std::int64_t token, std::int64_t head, std::int64_t d) {
    return factor * random.normal(static_cast<std::uint64_t>((token * tensor.heads + head) * tensor.dim + d)) + mean;
  });
}

void fill_scaled(const Case& c, Inputs& in, double q, double k, double v, double d_o) {
  fill_normal(c, in.q, "q", q);
  fill_normal(c, in.k, "k", k);
  fill_normal(c, in.v, "v", v);
  fill_normal(c, in.d_o, "do", d_o);
}

}  // namespace attnspec::verify
