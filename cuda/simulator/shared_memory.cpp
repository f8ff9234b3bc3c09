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
  return thread == who.thread || who.known[static_cast<std::size_t>(thread)] >= stamp >> kTimeShift;
}

/// The first trouble with some stamps. Neighbours mostly bear the same one.
template <class Check>
Trouble check_each(const std::uint32_t* stamps, std::size_t count, const Check& check) {
  std::uint32_t differences = 0;
  for (std::size_t n = 1; n < count; ++n) differences |= stamps[n] ^ stamps[0];
  Trouble trouble = check(stamps[0]);
  for (std::size_t n = 1; differences != 0 && trouble == Trouble::none && n < count; ++n)
    if (stamps[n] != stamps[n - 1]) trouble = check(stamps[n]);
  return trouble;
}

std::size_t round_up(std::size_t bytes, std::size_t alignment) {
  return (bytes + alignment - 1) / alignment * alignment;
}

}  // namespace

SharedMemory::SharedMemory(int num_threads, std::size_t dynamic_bytes)
    : num_threads_(num_threads),
      num_warps_((num_threads + kWarpLanes - 1) / kWarpLanes),
      dynamic_bytes_(dynamic_bytes),
      capacity_(round_up(dynamic_bytes + kGap, kAlignment) + 2 * kMaxStaticShared),
      allocation_(std::make_unique_for_overwrite<std::byte[]>(capacity_ + kAlignment)),
      writes_(capacity_),
      reads_(std::make_unique_for_overwrite<Stamp[]>(static_cast<std::size_t>(num_warps_) * capacity_)) {
  const auto begin = reinterpret_cast<std::uintptr_t>(allocation_.get());
  memory_ = allocation_.get() + (round_up(begin, kAlignment) - begin);
  extent_ = {reinterpret_cast<std::uintptr_t>(memory_), capacity_};
  used_ = capacity_;
  clear();
}

void SharedMemory::clear() {
  std::memset(memory_, 0xff, used_);
  std::fill_n(writes_.begin(), used_, Stamp{0});
  objects_.assign(1, {nullptr, {extent_.begin, dynamic_bytes_}});
  used_ = dynamic_bytes_ + kGap;
}

std::byte* SharedMemory::object(const void* key, std::size_t bytes, std::size_t alignment) {
  for (const Object& object : objects_)
    if (object.key == key) return memory_ + (object.extent.begin - extent_.begin);
  const std::size_t first = round_up(used_, std::max<std::size_t>(alignment, 16));
  if (first + bytes + kGap > capacity_) return nullptr;
  objects_.push_back({key, {extent_.begin + first, bytes}});
  used_ = first + bytes + kGap;
  return memory_ + first;
}

Trouble SharedMemory::access(AccessKind kind, const Accessor& who, std::uintptr_t address, std::size_t bytes) {
  const std::size_t first = address - extent_.begin;
  switch (bytes) {
    case 2: return access<2>(kind, who, first, bytes);
    case 4: return access<4>(kind, who, first, bytes);
    case 8: return access<8>(kind, who, first, bytes);
    case 16: return access<16>(kind, who, first, bytes);
    default: return access<0>(kind, who, first, bytes);
  }
}

template <std::size_t fixed>
Trouble SharedMemory::access(AccessKind kind, const Accessor& who, std::size_t first, std::size_t bytes) {
  return kind == AccessKind::read ? read<fixed>(who, first, bytes) : write<fixed>(kind, who, first, bytes);
}

void SharedMemory::arrive(const Accessor& who, std::uintptr_t address, std::size_t bytes) {
  std::fill_n(&writes_[address - extent_.begin], bytes, stamp_of(who));
}

SharedMemory::Writer SharedMemory::writer(std::uintptr_t address) const {
  const Stamp write = writes_[address - extent_.begin];
  return {thread_of(write), write >> kTimeShift};
}

template <std::size_t fixed>
Trouble SharedMemory::read(const Accessor& who, std::size_t first, std::size_t bytes) {
  const std::size_t count = fixed != 0 ? fixed : bytes;
  const auto check = [&](Stamp write) { return check_write(write, AccessKind::read, who); };
  if (const Trouble trouble = check_each(&writes_[first], count, check); trouble != Trouble::none) return trouble;
  const Stamp mine = stamp_of(who), now = who.now;
  Stamp* const reads = &reads_[static_cast<std::size_t>(who.thread / kWarpLanes) * capacity_ + first];
  for (std::size_t n = 0; n < count; ++n) {
    const bool other_lane_as_well = (reads[n] >> kTimeShift == now) & (reads[n] != mine);
    reads[n] = mine | (other_lane_as_well ? kSeveralLanes : 0);
  }
  return Trouble::none;
}

template <std::size_t fixed>
Trouble SharedMemory::write(AccessKind kind, const Accessor& who, std::size_t first, std::size_t bytes) {
  const std::size_t count = fixed != 0 ? fixed : bytes;
  Stamp* const writes = &writes_[first];
  bool was_unwritten = false;
  for (std::size_t n = 0; n < count; ++n) was_unwritten |= writes[n] == 0;
  Trouble trouble = check_each(writes, count, [&](Stamp write) { return check_write(write, kind, who); });
  for (int warp = 0; warp < num_warps_; ++warp) {
    Stamp* const reads = &reads_[static_cast<std::size_t>(warp) * capacity_ + first];
    for (std::size_t n = 0; was_unwritten && n < count; ++n)
      if (writes[n] == 0) reads[n] = 0;
    if (trouble == Trouble::none) trouble = check_each(reads, count, [&](Stamp read) { return check_read(read, who); });
  }
  const Stamp flag = kind == AccessKind::atomic ? kAtomic : kind == AccessKind::async_copy ? kInFlight : 0;
  std::fill_n(writes, count, stamp_of(who) | flag);
  return trouble;
}

Trouble SharedMemory::check_write(Stamp write, AccessKind kind, const Accessor& who) {
  if (write == 0) return kind == AccessKind::read || kind == AccessKind::atomic ? Trouble::unwritten : Trouble::none;
  const bool both_atomic = kind == AccessKind::atomic && (write & kAtomic) != 0;
  if ((write & kInFlight) == 0 && (both_atomic || is_known(who, thread_of(write), write))) return Trouble::none;
  other_thread_ = thread_of(write);
  return (write & kInFlight) != 0 ? Trouble::in_flight : Trouble::race_with_write;
}

Trouble SharedMemory::check_read(Stamp read, const Accessor& who) {
  if (read == 0) return Trouble::none;
  other_thread_ = thread_of(read);
  if ((read & kSeveralLanes) == 0) return is_known(who, other_thread_, read) ? Trouble::none : Trouble::race_with_read;
  // Which lanes read is not known, only that another one did: it is a race for sure if no other lane came before.
  const int first = other_thread_ / kWarpLanes * kWarpLanes, end = std::min(first + kWarpLanes, num_threads_);
  for (int lane = first; lane < end; ++lane)
    if (lane != who.thread && is_known(who, lane, read)) return Trouble::none;
  return Trouble::race_with_read;
}

}  // namespace attnspec::cuda::simulator
