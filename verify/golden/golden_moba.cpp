#include "reference/moba/moba.hpp"
#include "verify/golden/golden_file.hpp"

namespace attnspec::verify {

std::vector<GoldenComparison> compare_moba(const GoldenFile& file) {
  const reference::MobaProblem problem = file.problem("top_k");
  const auto [q, k, v, d_o] = file.load_inputs(problem.attention);
  const auto [selection, outputs] = reference::moba(problem, {q, k, v});
  const auto gradients =
      reference::selected_backward(problem.attention, problem.block, {q, k, v}, selection, d_o, outputs);
  return {file.compare("o", outputs.o), file.compare("dq", gradients.dq), file.compare("dk", gradients.dk),
          file.compare("dv", gradients.dv)};
}

}  // namespace attnspec::verify
