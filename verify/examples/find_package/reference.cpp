// MoBA by the reference: four tokens in two blocks, each query attends to its own block. All keys are equal, so that a
// row of o is the mean of the values that its query sees: 1, 1.5, 3, 3.5.
#include <cstdio>

#include "reference/moba/moba.hpp"

int main() {
  using namespace attnspec::reference;
  MobaProblem problem;
  problem.attention.q_offsets = problem.attention.k_offsets = {0, 4};
  problem.attention.dk = problem.attention.dv = 1;
  problem.block = 2;
  problem.top_k = 1;
  validate(problem);

  const Tensor q(4, 1, 1), k(4, 1, 1);
  Tensor v(4, 1, 1);
  for (int token = 0; token < 4; ++token) v.row(token, 0)[0] = token + 1;

  const MobaOutputs outputs = moba(problem, {q, k, v});
  for (int token = 0; token < 4; ++token) std::printf("o[%d] = %g\n", token, outputs.attention.o.row(token, 0)[0]);
}
