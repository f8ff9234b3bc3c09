#include "cuda/simulator/buffers.hpp"

#include <link.h>

#include <algorithm>
#include <map>
#include <utility>

namespace attnspec::cuda::simulator {

namespace {

/// The calling thread's buffers, in the order in which they were registered.
struct Registry {
  std::size_t next_id = 0;
  std::map<std::size_t, std::pair<Extent, std::string>> buffers;
};

Registry& registry() {
  thread_local Registry result;
  return result;
}

/// Collects the read-only segments of one loaded file.
int add_constants(dl_phdr_info* file, std::size_t, void* extents) {
  for (int n = 0; n < file->dlpi_phnum; ++n) {
    const auto& segment = file->dlpi_phdr[n];
    if (segment.p_type == PT_LOAD && (segment.p_flags & PF_W) == 0)
      static_cast<std::vector<Extent>*>(extents)->push_back({file->dlpi_addr + segment.p_vaddr, segment.p_memsz});
  }
  return 0;
}

/// Bytes between an address and the nearest byte of an extent.
std::uintptr_t distance(const Extent& extent, std::uintptr_t address) {
  if (address < extent.begin) return extent.begin - address;
  return address - std::min(address, extent.begin + extent.bytes);
}

}  // namespace

RegisteredBuffer::RegisteredBuffer(const void* data, std::size_t bytes, std::string name) : id_(registry().next_id++) {
  registry().buffers[id_] = {{reinterpret_cast<std::uintptr_t>(data), bytes}, std::move(name)};
}

RegisteredBuffer::~RegisteredBuffer() { registry().buffers.erase(id_); }

GlobalMemory::GlobalMemory() {
  for (const auto& [id, buffer] : registry().buffers) buffers_.push_back({buffer.first, buffer.second});
  dl_iterate_phdr(add_constants, &constants_);
}

const Extent* GlobalMemory::find(std::uintptr_t address, std::size_t bytes, bool is_write) const {
  for (const Buffer& buffer : buffers_)
    if (buffer.extent.contains(address, bytes)) return &buffer.extent;
  if (is_write) return nullptr;
  for (const Extent& constants : constants_)
    if (constants.contains(address, bytes)) return &constants;
  return nullptr;
}

std::string GlobalMemory::describe(std::uintptr_t address) const {
  const auto nearest = std::min_element(buffers_.begin(), buffers_.end(), [&](const Buffer& a, const Buffer& b) {
    return distance(a.extent, address) < distance(b.extent, address);
  });
  if (nearest == buffers_.end()) return "an address, and no buffer is registered";
  const auto& [extent, name] = *nearest;
  const bool is_before = address < extent.begin;
  const std::uintptr_t offset = is_before ? extent.begin - address : address - extent.begin;
  return name + (is_before ? " - " : " + ") + std::to_string(offset) + " (" + name + " has " +
         std::to_string(extent.bytes) + " bytes)";
}

}  // namespace attnspec::cuda::simulator
