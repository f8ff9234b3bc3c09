// The kernel that docs/add_a_kernel.md adds, in the simulator.
#include <gtest/gtest.h>

#include "verify/judge/judge.hpp"
#include "verify/judge/report.hpp"
#include "verify/run/foreign_kernel.hpp"

namespace attnspec {

namespace cuda::simulated::warp_per_row {
const AttnspecKernel& kernel();
}

namespace verify {
namespace {

TEST(AddAKernel, ItsExampleIsRight) {
  const Kernel kernel = make_foreign_kernel(cuda::simulated::warp_per_row::kernel(), "sim:warp_per_row");
  std::vector<CaseResult> results;
  for (const Case& c : read_case_file(ATTNSPEC_SOURCE_DIR "/verify/cases/dense.cases")) {
    results.push_back(judge(kernel, c));
    for (const Finding& finding : results.back().findings) ADD_FAILURE() << failure_line(results.back(), finding);
  }
  for (const char* law : {"repeat", "future", "heads", "strides", "packing", "decode", "power"})
    results.push_back(
        judge(kernel, parse_case(std::string("dense(lens=9+20,heads=4,kv_heads=2,dk=40,law=") + law + ")")));
  EXPECT_EQ(exit_code(results), 0) << table(results);
}

}  // namespace
}  // namespace verify
}  // namespace attnspec
