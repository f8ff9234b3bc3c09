#include "verify/model/index_stages.hpp"

#include <algorithm>
#include <limits>
#include <numeric>

namespace attnspec::verify::model {

std::int64_t num_index_keys(const Work& work, std::int64_t t) {
  const std::int64_t tokens = std::max<std::int64_t>(0, t + 1);
  return key_rows(work.op) == RowsOf::complete_blocks ? tokens / work.problem.block : tokens;
}

IndexProducts block_worth(const Work& work, const IndexProducts& products) {
  IndexProducts worth;
  for (const std::vector<float>& of_head : products) {
    worth.emplace_back(static_cast<std::size_t>(work.num_blocks()), -std::numeric_limits<float>::infinity());
    for (std::size_t j = 0; j < of_head.size(); ++j) {
      float& block = worth.back()[j / static_cast<std::size_t>(work.problem.block)];
      block = std::max(block, of_head[j]);
    }
  }
  return worth;
}

std::vector<float> add_index_heads(const Work&, const IndexProducts& products, const std::vector<float>& w) {
  std::vector<float> scores(products.front().size());
  for (std::size_t h = 0; h < products.size(); ++h)
    for (std::size_t j = 0; j < scores.size(); ++j) scores[j] += w[h] * std::max(0.0f, products[h][j]);
  return scores;
}

Blocks select_tokens(const Work& work, const std::vector<float>& scores) { return best(scores, work.problem.top_k); }

Blocks select_complete(const Work& work, const std::vector<float>& scores, std::int64_t t) {
  Blocks blocks = best(scores, work.problem.top_k);
  if (t >= 0 && (t + 1) % work.problem.block != 0) blocks.push_back(static_cast<std::int32_t>(scores.size()));
  return blocks;
}

Blocks best(const std::vector<float>& scores, std::int64_t count) {
  Blocks candidates(scores.size());
  std::iota(candidates.begin(), candidates.end(), 0);
  const auto end = candidates.begin() + std::min<std::ptrdiff_t>(count, std::ssize(candidates));
  std::partial_sort(candidates.begin(), end, candidates.end(), [&](std::int32_t a, std::int32_t b) {
    const float of_a = scores[static_cast<std::size_t>(a)], of_b = scores[static_cast<std::size_t>(b)];
    return of_a > of_b || (of_a == of_b && a > b);
  });
  candidates.erase(end, candidates.end());
  return candidates;
}

}  // namespace attnspec::verify::model
