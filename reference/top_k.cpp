#include "reference/top_k.hpp"

#include <algorithm>
#include <numeric>

namespace attnspec::reference {

std::vector<std::int32_t> select_top_k(const Vector& scores, std::int64_t past, std::int64_t wanted) {
  std::vector<std::int32_t> selected(static_cast<std::size_t>(past));
  std::iota(selected.begin(), selected.end(), 0);
  std::stable_sort(selected.begin(), selected.end(),
                   [&](std::int32_t a, std::int32_t b) { return scores[a] > scores[b]; });
  selected.resize(static_cast<std::size_t>(wanted));
  std::sort(selected.begin(), selected.end());
  return selected;
}

}  // namespace attnspec::reference
