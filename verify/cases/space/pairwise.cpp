#include "verify/cases/space/pairwise.hpp"

#include <cstdint>
#include <set>
#include <tuple>
#include <utility>

#include "verify/cases/random.hpp"

namespace attnspec::verify {

std::vector<std::vector<int>> pairwise(const std::vector<int>& sizes) {
  using Pair = std::tuple<std::size_t, int, std::size_t, int>;
  std::set<Pair> missing;
  for (std::size_t a = 0; a < sizes.size(); ++a)
    for (std::size_t b = a + 1; b < sizes.size(); ++b)
      for (int x = 0; x < sizes[a]; ++x)
        for (int y = 0; y < sizes[b]; ++y) missing.insert({a, x, b, y});
  std::vector<std::vector<int>> rows;
  const Random random(0, "pairwise");
  std::uint64_t draws = 0;
  while (!missing.empty()) {
    std::vector<int> row(sizes.size(), -1);
    const auto [first, x, second, y] = *missing.begin();
    row[first] = x;
    row[second] = y;
    for (std::size_t axis = 0; axis < sizes.size(); ++axis) {
      if (row[axis] != -1) continue;
      const auto covers = [&](int value) {  // how many missing pairs it makes with what is chosen already
        std::size_t pairs = 0;
        for (std::size_t other = 0; other < sizes.size(); ++other)
          if (row[other] != -1)
            pairs += other < axis ? missing.count({other, row[other], axis, value})
                                  : missing.count({axis, value, other, row[other]});
        return pairs;
      };
      const auto shift = static_cast<int>(random.below(sizes[axis], draws++));  // so that ties are spread evenly
      int best = shift;
      for (int i = 1; i < sizes[axis]; ++i)
        if (const int value = (i + shift) % sizes[axis]; covers(value) > covers(best)) best = value;
      row[axis] = best;
    }
    for (std::size_t a = 0; a < row.size(); ++a)
      for (std::size_t b = a + 1; b < row.size(); ++b) missing.erase({a, row[a], b, row[b]});
    rows.push_back(std::move(row));
  }
  return rows;
}

}  // namespace attnspec::verify
