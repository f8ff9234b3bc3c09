// How tensors of a case are filled with numbers, each rounded once to its dtype.
#pragma once

#include <cstdint>

#include "reference/tensor.hpp"
#include "verify/cases/case.hpp"
#include "verify/cases/random.hpp"
#include "verify/cases/regimes.hpp"

namespace attnspec::verify {

/// The seeds of the branches of nsa lie so far apart.
inline constexpr std::uint64_t kSeedsOfABranch = std::uint64_t{1} << 40;

/// Sets every element to element(token, head, feature), rounded once to the case's dtype. index counts elements.
template <class Element>
void fill(const Case& c, reference::Tensor& tensor, const Element& element) {
#pragma omp parallel for
  for (std::int64_t token = 0; token < tensor.tokens; ++token)
    for (std::int64_t head = 0; head < tensor.heads; ++head)
      for (std::int64_t d = 0; d < tensor.dim; ++d)
        tensor.at(token, head)[d] = reference::round_to(element(token, head, d), c.dtype);
}

/// Normal numbers times `factor`, plus `mean`.
void fill_normal(const Case& c, reference::Tensor& tensor, const char* stream, double factor = 1, double mean = 0);

/// All four tensors normal, each times its factor.
void fill_scaled(const Case& c, Inputs& in, double q, double k, double v, double d_o);

/// Multiplies every row by factor(row), a power of two, before it is rounded.
template <class Factor>
void fill_normal_times(const Case& c, reference::Tensor& tensor, const char* stream, const Factor& factor) {
  const Random random(c.seed, stream);
  fill(c, tensor, [&](std::int64_t token, std::int64_t head, std::int64_t d) {
    return factor(token) * random.normal(static_cast<std::uint64_t>((token * tensor.heads + head) * tensor.dim + d));
  });
}

}  // namespace attnspec::verify
