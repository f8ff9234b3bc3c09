// What threads of a block do to memory.
#include <cstring>

#include "cuda/simulator/block.hpp"

namespace attnspec::cuda::simulator {

namespace {

std::string text(AccessKind kind, std::size_t bytes) {
  const char* const what = kind == AccessKind::read ? "read" : kind == AccessKind::atomic ? "atomic access" : "write";
  return std::string(what) + " of " + std::to_string(bytes) + " bytes";
}

}  // namespace

void Block::require_alignment(AccessKind kind, int thread, std::uintptr_t address, std::size_t bytes,
                              std::size_t alignment) {
  if (address % alignment != 0)
    report(FaultKind::misaligned, thread,
           [&] { return text(kind, bytes) + " at an address that is no multiple of " + std::to_string(alignment); });
}

void Block::access_elsewhere(AccessKind kind, std::uintptr_t address, std::size_t bytes, std::size_t alignment,
                             const void* site) {
  current().site = site;
  if (shared_.extent().contains(address, 1)) return access_shared(thread(), kind, address, bytes, alignment);
  require_alignment(kind, thread(), address, bytes, alignment);
  const bool is_write = kind != AccessKind::read;
  const Extent* const buffer = launch_.memory.find(address, bytes, is_write);
  if (buffer == nullptr)
    report(FaultKind::out_of_bounds, thread(),
           [&] { return text(kind, bytes) + " at " + launch_.memory.describe(address); });
  (is_write ? last_written_ : last_read_) = *buffer;
}

void Block::access_shared(int thread, AccessKind kind, std::uintptr_t address, std::size_t bytes,
                          std::size_t alignment) {
  require_alignment(kind, thread, address, bytes, alignment);
  if (!shared_.is_inside(address, bytes))
    report(FaultKind::shared_out_of_bounds, thread,
           [&] { return text(kind, bytes) + " outside the objects in shared memory"; });
  const Trouble trouble = shared_.access(kind, accessor(thread), address, bytes);
  if (trouble != Trouble::none) report(trouble, thread, kind, bytes);
}

void Block::report(Trouble trouble, int thread, AccessKind kind, std::size_t bytes) {
  const bool in_flight = trouble == Trouble::in_flight;
  const FaultKind fault = trouble == Trouble::unwritten           ? FaultKind::read_before_write
                          : in_flight && kind == AccessKind::read ? FaultKind::read_before_arrival
                                                                  : FaultKind::race;
  report(fault, thread, [&] {
    const std::string what = "shared memory: " + text(kind, bytes);
    if (trouble == Trouble::unwritten) return what + " that nobody has written";
    const std::string other = " by thread " + to_string(index_of(shared_.other_thread()));
    if (in_flight) return what + " that a copy" + other + " is still to write";
    return what + ", and nothing orders it after a " + (trouble == Trouble::race_with_write ? "write" : "read") + other;
  });
}

std::byte* Block::shared_object(const void* key, std::size_t bytes, std::size_t alignment, const void* site) {
  current().site = site;
  std::byte* const object = shared_.object(key, bytes, alignment);
  if (object == nullptr)
    report(FaultKind::shared_out_of_bounds, thread(),
           [&] { return "static shared memory does not hold " + std::to_string(bytes) + " bytes more"; });
  return object;
}

void Block::copy_async(void* to, const void* from, std::size_t bytes, std::size_t source_bytes, const void* site) {
  current().site = site;
  access_shared(thread(), AccessKind::async_copy, reinterpret_cast<std::uintptr_t>(to), bytes, bytes);
  if (source_bytes > 0) access(AccessKind::read, from, source_bytes, bytes, site);
  current().copies.push_back({to, from, bytes, source_bytes, current().groups});
}

void Block::arrive(const Copy& copy) {
  if (copy.source_bytes > 0) std::memcpy(copy.to, copy.from, copy.source_bytes);
  std::memset(static_cast<char*>(copy.to) + copy.source_bytes, 0, copy.bytes - copy.source_bytes);
  shared_.arrive(accessor(thread()), reinterpret_cast<std::uintptr_t>(copy.to), copy.bytes);
}

void Block::wait_for_copies(int groups_left) {
  const int first_left = current().groups - groups_left;
  std::erase_if(current().copies, [&](const Copy& copy) {
    if (copy.group < first_left) arrive(copy);
    return copy.group < first_left;
  });
}

void Block::wait_for_all_copies() {
  for (const Copy& copy : current().copies) arrive(copy);
  current().copies.clear();
}

}  // namespace attnspec::cuda::simulator
