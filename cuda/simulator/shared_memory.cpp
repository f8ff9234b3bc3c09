#include "cuda/simulator/shared_memory.hpp"

#include <algorithm>
#include <cstring>

namespace attnspec::cuda::simulator {

namespace {

/// A stamp: bits 0 to 9 the thread, one flag for reads, two for writes, and the time above.
constexpr std::uint32_t kThreadMask = 0x3ff;
constexpr std::uint32_t kSeveralLanes = 0x400;  // reads: other lanes of the warp read at the same time
constexpr std::uint32_t kAtomic = 0x400;        // writes
constexpr std::uint32_t kInFlight = 0x800;      // writes: a copy that nobody has waited for
constexpr int kTimeShift = 12;

/// The dynamic block begins at a multiple of the first, which swizzled layouts rely on; objects lie the second apart.
constexpr std::size_t kAlignment = 1024, kGap = 256;

std::uint32_t stamp_of(const Accessor& who) { return who.now << kTimeShift | static_cast<std::uint32_t>(who.thread); }

int thread_of(std::uint32_t stamp) { return static_cast<int>(stamp & kThreadMask); }

bool is_known(const Accessor& who, int thread, std::uint32_t stamp) {
  return thread == who.thread || who.known.until[static_cast<std::size_t>(thread)] >= stamp >> kTimeShift;
}

std::size_t round_up(std::size_t bytes, std::size_t alignment) {
  return (bytes + alignment - 1) / alignment * alignment;
}

}  // namespace

SharedMemory::SharedMemory(int num_threads, std::size_t dynamic_bytes)
    : num_threads_(num_threads),
      num_warps_((num_threads + kWarpLanes - 1) / kWarpLanes),
      dynamic_bytes_(dynamic_bytes),
      capacity_(round_up(dynamic_bytes + kGap, kAlignment) + 2 * kMostStaticShared),
      allocation_(std::make_unique_for_overwrite<std::byte[]>(capacity_ + kAlignment)),
      writes_(capacity_),
      reads_(std::make_unique_for_overwrite<Stamp[]>(static_cast<std::size_t>(num_warps_) * capacity_)) {
  const auto begin = reinterpret_cast<std::uintptr_t>(allocation_.get());
  memory_ = allocation_.get() + (round_up(begin, kAlignment) - begin);
  used_ = capacity_;
  clear();
}

void SharedMemory::clear() {
  std::memset(memory_, 0xff, used_);
  std::fill_n(writes_.begin(), used_, Stamp{0});
  objects_.assign(1, {nullptr, {reinterpret_cast<std::uintptr_t>(memory_), dynamic_bytes_}});
  used_ = dynamic_bytes_ + kGap;
}

Extent SharedMemory::extent() const { return {reinterpret_cast<std::uintptr_t>(memory_), capacity_}; }

std::byte* SharedMemory::object(const void* key, std::size_t bytes, std::size_t alignment) {
  for (const Object& object : objects_)
    if (object.key == key) return memory_ + (object.extent.begin - extent().begin);
  const std::size_t first = round_up(used_, std::max<std::size_t>(alignment, 16));
  if (first + bytes + kGap > capacity_) return nullptr;
  objects_.push_back({key, {extent().begin + first, bytes}});
  used_ = first + bytes + kGap;
  return memory_ + first;
}

bool SharedMemory::is_inside(std::uintptr_t address, std::size_t bytes) const {
  for (const Object& object : objects_)
    if (object.extent.contains(address, bytes)) return true;
  return false;
}

std::optional<Trouble> SharedMemory::access(AccessKind kind, const Accessor& who, std::uintptr_t address,
                                            std::size_t bytes) {
  const std::size_t first = address - extent().begin;
  return kind == AccessKind::read ? read(who, first, bytes) : write(kind, who, first, bytes);
}

void SharedMemory::arrive(const Accessor& who, std::uintptr_t address, std::size_t bytes) {
  std::fill_n(&writes_[address - extent().begin], bytes, stamp_of(who));
}

std::optional<Trouble> SharedMemory::read(const Accessor& who, std::size_t first, std::size_t bytes) {
  const Stamp* const writes = &writes_[first];
  for (std::size_t n = 0; n < bytes; ++n)
    if (n == 0 || writes[n] != writes[n - 1])
      if (const auto trouble = check_write(writes[n], AccessKind::read, who)) return trouble;
  const Stamp mine = stamp_of(who);
  Stamp* const reads = &reads_[static_cast<std::size_t>(who.thread / kWarpLanes) * capacity_ + first];
  for (std::size_t n = 0; n < bytes; ++n) {
    const bool other_lane_as_well = reads[n] >> kTimeShift == who.now && reads[n] != mine;
    reads[n] = other_lane_as_well ? mine | kSeveralLanes : mine;
  }
  return std::nullopt;
}

std::optional<Trouble> SharedMemory::write(AccessKind kind, const Accessor& who, std::size_t first, std::size_t bytes) {
  std::optional<Trouble> found;
  Stamp* const writes = &writes_[first];
  bool was_unwritten = false;
  for (std::size_t n = 0; n < bytes; ++n) {
    was_unwritten |= writes[n] == 0;
    if (!found && (n == 0 || writes[n] != writes[n - 1])) found = check_write(writes[n], kind, who);
  }
  for (int warp = 0; warp < num_warps_; ++warp) {
    Stamp* const reads = &reads_[static_cast<std::size_t>(warp) * capacity_ + first];
    for (std::size_t n = 0; was_unwritten && n < bytes; ++n)
      if (writes[n] == 0) reads[n] = 0;
    for (std::size_t n = 0; !found && n < bytes; ++n)
      if (n == 0 || reads[n] != reads[n - 1]) found = check_read(reads[n], who);
  }
  const Stamp flag = kind == AccessKind::atomic ? kAtomic : kind == AccessKind::async_copy ? kInFlight : 0;
  std::fill_n(writes, bytes, stamp_of(who) | flag);
  return found;
}

std::optional<Trouble> SharedMemory::check_write(Stamp write, AccessKind kind, const Accessor& who) {
  const auto trouble = [&](FaultKind fault) { return Trouble{fault, thread_of(write), true}; };
  if (write == 0) {
    if (kind == AccessKind::read || kind == AccessKind::atomic) return trouble(FaultKind::read_before_write);
    return std::nullopt;
  }
  if ((write & kInFlight) != 0)
    return trouble(kind == AccessKind::read ? FaultKind::read_before_arrival : FaultKind::race);
  if (is_known(who, thread_of(write), write)) return std::nullopt;
  if (kind == AccessKind::atomic && (write & kAtomic) != 0) return std::nullopt;
  return trouble(FaultKind::race);
}

std::optional<Trouble> SharedMemory::check_read(Stamp read, const Accessor& who) {
  if (read == 0) return std::nullopt;
  const Trouble race{FaultKind::race, thread_of(read), false};
  if ((read & kSeveralLanes) == 0) return is_known(who, thread_of(read), read) ? std::nullopt : std::optional(race);
  // Which lanes read is not known, only that another one did: it is a race for sure if no other lane came before.
  const int first = thread_of(read) / kWarpLanes * kWarpLanes, end = std::min(first + kWarpLanes, num_threads_);
  for (int lane = first; lane < end; ++lane)
    if (lane != who.thread && is_known(who, lane, read)) return std::nullopt;
  return race;
}

}  // namespace attnspec::cuda::simulator
