#include "verify/run/worker/arena.hpp"

#include <fcntl.h>
#include <fmt/format.h>
#include <sys/mman.h>
#include <sys/stat.h>
#include <unistd.h>

#include <algorithm>
#include <cerrno>
#include <cstring>
#include <new>
#include <stdexcept>

namespace attnspec::verify {

namespace {

/// Of an allocation: a cache line, and what GPUs like.
constexpr std::size_t kAlignment = 256;

/// Bytes that stay the arena's when everything was given back; more go to the machine.
constexpr std::size_t kMaxKept = std::size_t{256} << 20;

std::runtime_error no_memory() {
  return std::runtime_error(fmt::format("no memory to share with a kernel: {}", std::strerror(errno)));
}

/// A file that nobody can make smaller, so that it can be read without fear.
int make_file() {
  const int descriptor = memfd_create("attnspec", MFD_CLOEXEC | MFD_ALLOW_SEALING);
  if (descriptor < 0) throw no_memory();
  const off_t size = sysconf(_SC_PHYS_PAGES) * sysconf(_SC_PAGESIZE);
  if (ftruncate(descriptor, size) != 0 ||
      fcntl(descriptor, F_ADD_SEALS, F_SEAL_SHRINK | F_SEAL_GROW | F_SEAL_SEAL) != 0)
    throw no_memory();
  return descriptor;
}

}  // namespace

SharedMemory::SharedMemory() : SharedMemory(make_file()) {}

SharedMemory::SharedMemory(int descriptor) : descriptor_(descriptor) {
  struct stat file {};
  if (fstat(descriptor, &file) != 0) throw no_memory();
  const auto size = static_cast<std::size_t>(file.st_size);
  void* base = mmap(nullptr, size, PROT_READ | PROT_WRITE, MAP_SHARED | MAP_NORESERVE, descriptor, 0);
  if (base == MAP_FAILED) throw no_memory();
  bytes_ = {static_cast<std::byte*>(base), size};
}

SharedMemory::~SharedMemory() {
  munmap(bytes_.data(), bytes_.size());
  close(descriptor_);
}

void* Arena::do_allocate(std::size_t bytes, std::size_t alignment) {
  const std::size_t unit = std::max(alignment, kAlignment), begin = (used_ + unit - 1) / unit * unit;
  if (begin > memory_.bytes().size() || bytes > memory_.bytes().size() - begin) throw std::bad_alloc();
  used_ = begin + bytes;
  ++allocations_;
  return memory_.bytes().data() + begin;
}

void Arena::do_deallocate(void*, std::size_t, std::size_t) {
  if (--allocations_ > 0) return;
  if (used_ > kMaxKept) madvise(memory_.bytes().data(), memory_.bytes().size(), MADV_REMOVE);
  used_ = 0;
}

}  // namespace attnspec::verify
