// The global memory that simulated kernels may touch.
#pragma once

#include <cstddef>
#include <cstdint>
#include <string>
#include <vector>

namespace attnspec::cuda::simulator {

/// A range of addresses.
struct Extent {
  std::uintptr_t begin = 0;
  std::size_t bytes = 0;

  bool contains(std::uintptr_t address, std::size_t size) const {
    return address - begin < bytes && size <= bytes - (address - begin);
  }
};

/// A buffer in global memory, as long as this object lives: kernels that the same host thread launches may read and
/// write it. Buffers may overlap, and their memory need not be backed until it is touched.
class RegisteredBuffer {
 public:
  RegisteredBuffer(const void* data, std::size_t bytes, std::string name);
  ~RegisteredBuffer();
  RegisteredBuffer(const RegisteredBuffer&) = delete;
  RegisteredBuffer& operator=(const RegisteredBuffer&) = delete;

 private:
  std::size_t id_;
};

/// What one launch may touch: the buffers registered when it began, and for reading the constants of the program.
class GlobalMemory {
 public:
  /// The buffers that the calling thread has registered.
  GlobalMemory();

  /// The buffer that holds all bytes of an access, or the constants that a read may touch; null where there is none.
  const Extent* find(std::uintptr_t address, std::size_t bytes, bool is_write) const;

  /// Where an address lies, told from the nearest buffer: "k - 8 (k has 1024 bytes)".
  std::string describe(std::uintptr_t address) const;

 private:
  struct Buffer {
    Extent extent;
    std::string name;
  };
  std::vector<Buffer> buffers_;  // few, so a search looks at all
  std::vector<Extent> constants_;
};

}  // namespace attnspec::cuda::simulator
