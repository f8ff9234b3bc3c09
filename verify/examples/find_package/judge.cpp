// Judges the model kernel of MoBA on one case and prints what was judged.
#include "verify/judge/judge.hpp"

#include <cstdio>

#include "verify/judge/report.hpp"
#include "verify/kernels.hpp"

int main() {
  using namespace attnspec::verify;
  const CaseResult result = judge(find_kernel("model:moba"), parse_case("moba(lens=40,block=16)"));
  std::fputs(details(result).c_str(), stdout);
  return exit_code({result});
}
