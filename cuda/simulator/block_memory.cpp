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

void Block::access(AccessKind kind, const void* address, std::size_t bytes, std::size_t alignment, const void* site) {
  const auto begin = reinterpret_cast<std::uintptr_t>(address);
  if (fibers_.stack().contains(begin, bytes)) return;
  current().site = site;
  if (shared_.extent().contains(begin, 1)) return access_shared(thread(), kind, address, bytes, alignment);
  require_alignment(kind, thread(), begin, bytes, alignment);
  const Extent& last = kind == AccessKind::read ? last_read_ : last_written_;
  if (!last.contains(begin, bytes)) access_global(kind, begin, bytes);
}

void Block::require_alignment(AccessKind kind, int thread, std::uintptr_t address, std::size_t bytes,
                              std::size_t alignment) {
  if (address % alignment != 0)
    report(FaultKind::misaligned, thread,
           [&] { return text(kind, bytes) + " at an address that is no multiple of " + std::to_string(alignment); });
}

void Block::access_global(AccessKind kind, std::uintptr_t address, std::size_t bytes) {
  const bool is_write = kind != AccessKind::read;
  const Extent* const buffer = launch_.memory.find(address, bytes, is_write);
  if (buffer == nullptr)
    report(FaultKind::out_of_bounds, thread(),
           [&] { return text(kind, bytes) + " at " + launch_.memory.describe(address); });
  (is_write ? last_written_ : last_read_) = *buffer;
}

void Block::access_shared(int thread, AccessKind kind, const void* address, std::size_t bytes, std::size_t alignment) {
  const auto begin = reinterpret_cast<std::uintptr_t>(address);
  require_alignment(kind, thread, begin, bytes, alignment);
  if (!shared_.is_inside(begin, bytes))
    report(FaultKind::shared_out_of_bounds, thread,
           [&] { return text(kind, bytes) + " outside the objects in shared memory"; });
  const std::optional<Trouble> trouble = shared_.access(kind, accessor(thread), begin, bytes);
  if (!trouble) return;
  report(trouble->kind, thread, [&] {
    const std::string what = "shared memory: " + text(kind, bytes);
    if (trouble->kind == FaultKind::read_before_write) return what + " that nobody has written";
    if (trouble->kind == FaultKind::read_before_arrival) return what + " that a copy is still to write";
    return what + ", and nothing orders it after a " + (trouble->other_is_write ? "write" : "read") + " by thread " +
           to_string(index_of(trouble->other_thread));
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
  access_shared(thread(), AccessKind::async_copy, to, bytes, bytes);
  if (source_bytes > 0) access(AccessKind::read, from, source_bytes, bytes, site);
  current().copies.push_back({to, from, bytes, source_bytes, current().groups});
}

void Block::arrive(const Copy& copy) {
  std::memcpy(copy.to, copy.from, copy.source_bytes);
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
