// Where threads of a block meet: collectives of a warp, and barriers.
#include <algorithm>
#include <utility>

#include "cuda/simulator/block.hpp"
#include "cuda/simulator/source_line.hpp"

namespace attnspec::cuda::simulator {

namespace {

/// The last time that a stamp holds. Warps that get there stay there, which hides races and makes none up.
constexpr Time kLastTime = (1u << 20) - 1;

/// Whether two calls stand in one line. The compiler may have made several calls of one.
bool on_one_line(const void* site, const void* other) {
  if (site == other) [[likely]]
    return true;
  return source_line(site) == source_line(other);
}

}  // namespace

void Block::tick(Warp& warp) { warp.now = std::min(warp.now + 1, kLastTime); }

/// Lets the running thread wait until it is released.
void Block::wait_for(const char* what) {
  const int self = thread();
  at(self).waits_for = what;
  fibers_.suspend();
  at(self).waits_for = nullptr;
}

Block::Gathering& Block::gathering(Warp& warp, const Collective& what, std::uint32_t mask, const void* site) {
  for (Gathering& other : warp.gatherings)
    if (other.what == &what && other.mask == mask && (!what.one_line || on_one_line(other.site, site))) return other;
  return warp.gatherings.emplace_back(Gathering{&what, site, mask, 0});
}

void Block::meet(const Collective& what, std::uint32_t mask, void* brought, const void* site) {
  const int self = thread(), lane = self % kWarpLanes, first = self - lane;
  const int num_lanes = std::min(kWarpLanes, num_threads_ - first);
  if (num_lanes < kWarpLanes) mask &= (1u << num_lanes) - 1;  // the last warp may be incomplete
  current().site = site;
  if ((mask >> lane & 1u) == 0)
    report(FaultKind::divergent_barrier, self,
           [&] { return std::string(what.name) + " by a lane that its mask leaves out"; });
  Warp& warp = warp_of(self);
  warp.brought[static_cast<std::size_t>(lane)] = brought;
  Gathering& here = gathering(warp, what, mask, site);
  here.arrived |= 1u << lane;
  if (here.arrived != mask) return wait_for(what.name);
  std::swap(here, warp.gatherings.back());
  warp.gatherings.pop_back();
  what.act(*this, {mask, first, warp.brought});
  fibers_.release(self / kWarpLanes, mask);
}

void Block::order(const Collective::Lanes& lanes) {
  Warp& warp = warp_of(lanes.first_thread);
  Meeting meeting;
  for (int lane = 0; lane < kWarpLanes; ++lane)
    if (lanes.has(lane)) meeting.add(lanes.first_thread + lane, warp.now, at(lanes.first_thread + lane).known);
  const Knowledge joined = meeting.joined();
  for (int lane = 0; lane < kWarpLanes; ++lane)
    if (lanes.has(lane)) at(lanes.first_thread + lane).known = joined;
  tick(warp);
}

Block::Barrier& Block::come_to_barrier(int number, int num_threads, const void* site) {
  const int self = thread();
  current().site = site;
  const auto refuse = [&](const char* why) {
    report(FaultKind::divergent_barrier, self, [&] {
      return "barrier " + std::to_string(number) + ", " + std::to_string(num_threads) + " threads: " + why;
    });
  };
  if (number < 0 || number >= kNumBarriers) refuse("there is no such barrier");
  if (num_threads % kWarpLanes != 0 && number != 0) refuse("no multiple of a warp's");
  Barrier& barrier = barriers_[static_cast<std::size_t>(number)];
  if (barrier.arrived == 0) {
    barrier.expected = num_threads;
    barrier.site = site;
  }
  if (barrier.expected != num_threads) refuse("others wait there for another number");
  barrier.meeting.add(self, warp_of(self).now, current().known);
  ++barrier.arrived;
  return barrier;
}

/// All have come: those who wait go on, and know what all did before.
void Block::open(Barrier& barrier) {
  const Knowledge joined = barrier.meeting.joined();
  const Warp* last = nullptr;
  for (const int waiting : barrier.waiting) {
    at(waiting).known = joined;
    Warp& warp = warp_of(waiting);
    if (&warp != last) tick(warp);
    last = &warp;
    fibers_.release(waiting / kWarpLanes, 1u << waiting % kWarpLanes);
  }
  barrier = {};
}

void Block::sync_threads(const void* site) {
  Barrier& barrier = come_to_barrier(0, num_threads_, site);
  if (!on_one_line(barrier.site, site)) {
    report(FaultKind::divergent_barrier, thread(), [&] {
      const SourceLine other = source_line(barrier.site);
      return "sync_threads, where other threads wait at " + other.file + ":" + std::to_string(other.line);
    });
  }
  barrier.waiting.push_back(thread());
  if (barrier.arrived < barrier.expected) return wait_for(kSyncThreads);
  open(barrier);
}

void Block::sync_barrier(int number, int num_threads, const void* site) {
  Barrier& barrier = come_to_barrier(number, num_threads, site);
  barrier.waiting.push_back(thread());
  if (barrier.arrived < barrier.expected) return wait_for(kNamedBarrier);
  open(barrier);
}

void Block::arrive_at_barrier(int number, int num_threads, const void* site) {
  Barrier& barrier = come_to_barrier(number, num_threads, site);
  tick(warp_of(thread()));
  if (barrier.arrived == barrier.expected) open(barrier);
}

}  // namespace attnspec::cuda::simulator
