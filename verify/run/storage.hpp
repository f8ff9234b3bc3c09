// Memory that the harness owns, for tensors as kernels see them.
#pragma once

#include <cstddef>
#include <cstdint>
#include <memory_resource>
#include <vector>

#include "reference/tensor.hpp"
#include "verify/cases/case.hpp"
#include "verify/cases/random.hpp"
#include "verify/operators/tensor_view.hpp"

namespace attnspec::verify {

/// What lies in memory that a kernel has no business with.
enum class Surroundings { nan, numbers };

/// Elements that are the harness's before the first row of any of its tensors, and after the last.
inline constexpr std::int64_t kGuardElements = 64;

/// Elements outside the rows of a tensor that were written.
struct Strays {
  std::int64_t elements = 0;
  // Where the first is: so many elements behind the row of a token and head; or before the first row, where token is
  // -1.
  std::int64_t token = -1, head = -1, behind = 0;
};

/// A tensor that the harness owns, between guard bands. What lies outside its rows (bands and gaps) is the harness's: a
/// kernel must neither write it nor depend on it.
class HostTensor {
 public:
  /// It lies in the memory given.
  HostTensor(Format format, Layout layout, std::int64_t tokens, std::int64_t heads, std::int64_t dim,
             std::pmr::memory_resource* memory = std::pmr::get_default_resource());
  /// A copy of a tensor whose values are exact in the format.
  HostTensor(Format format, Layout layout, const reference::Tensor& values,
             std::pmr::memory_resource* memory = std::pmr::get_default_resource());

  TensorView view();

  /// Fills everything outside the rows.
  void surround(Surroundings with);
  /// Fills the rows: with NaN, which no kernel may leave behind, or with bytes that nobody can foresee.
  void fill_rows_with_nan();
  void fill_rows(const Random& random);
  /// The bits of the rows, one after the other, and whether they are still those.
  std::vector<std::byte> rows() const;
  bool rows_are(const std::vector<std::byte>& bits) const;
  /// Whether everything outside the rows is as `surround` left it.
  bool outside_is_intact() const;
  /// What outside the rows is not as `surround` left it.
  Strays strays() const;

 private:
  /// visit(first byte, bytes, first byte among the rows one after the other), in parallel; long rows in parts.
  template <class Visit>
  void for_each_part(const Visit& visit) const;
  /// visit(first byte, bytes) for everything outside the rows, in parallel.
  template <class Visit>
  void for_each_gap(const Visit& visit) const;
  std::size_t row_begin(std::int64_t row) const;  // first byte of a (token, head)

  Format format_;
  std::int64_t tokens_, heads_, dim_;
  std::int64_t head_stride_, token_stride_, first_;  // in elements
  std::pmr::vector<std::byte> bytes_;
  Surroundings surroundings_ = Surroundings::nan;
};

}  // namespace attnspec::verify
