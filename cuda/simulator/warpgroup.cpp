// wgmma as kernels call it: every warp of a warpgroup does its own part.
#include "cuda/simulator/block.hpp"
#include "cuda/simulator/device.hpp"

namespace attnspec::cuda::simulator {

namespace {

constexpr std::uint32_t kAllLanes = 0xffffffff;

const Collective kMultiply{"wgmma", true, [](Block& block, const Collective::Lanes& lanes) { block.multiply(lanes); }};
const Collective kFence{"wgmma_fence", true,
                        [](Block& block, const Collective::Lanes& lanes) { block.fence_products(lanes); }};
const Collective kCommit{"wgmma_commit", true,
                         [](Block& block, const Collective::Lanes& lanes) { block.commit_products(lanes); }};
const Collective kWait{"wgmma_wait", true, [](Block& block, const Collective::Lanes& lanes) {
                         block.wait_for_products(lanes, lanes.at<int>(0));
                       }};

}  // namespace

void wgmma(const Product& product) {
  Product mine = product;
  Call()->meet(kMultiply, kAllLanes, &mine, __builtin_return_address(0));
}
void wgmma_fence() { Call()->meet(kFence, kAllLanes, nullptr, __builtin_return_address(0)); }
void wgmma_commit() { Call()->meet(kCommit, kAllLanes, nullptr, __builtin_return_address(0)); }
void wgmma_wait(int groups_left) { Call()->meet(kWait, kAllLanes, &groups_left, __builtin_return_address(0)); }
void fence_async_proxy() { Call()->fence_async_proxy(); }

}  // namespace attnspec::cuda::simulator
