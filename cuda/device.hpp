// Which GPUs this build can run kernels on.
#pragma once

#include <cstddef>
#include <cstdint>
#include <string>
#include <vector>

namespace attnspec::cuda {

struct Devices {
  std::vector<std::string> names;  // "NVIDIA H200, sm_90", one per GPU
  std::string why_none;            // why there are none, one line; empty when there are some
};

/// Asks the driver once. Never an error: without toolkit, driver or GPU there are none, and why_none says why.
Devices find_devices();

/// Copies of host memory on the GPU, for the time of one call of a kernel. Every function throws std::runtime_error
/// with what CUDA says, also about what the kernel did.
class DeviceCopies {
 public:
  DeviceCopies();
  ~DeviceCopies();
  DeviceCopies(const DeviceCopies&) = delete;
  DeviceCopies& operator=(const DeviceCopies&) = delete;

  /// A stream of its own (cudaStream_t), which waits for no other.
  void* stream() const { return stream_; }

  /// The copy on the GPU of some bytes of host memory, aligned to 256 bytes; the same bytes have one copy.
  void* copy(void* host, std::int64_t bytes);

  /// Waits for the stream, and copies everything back.
  void collect();

 private:
  struct Span {
    void *host, *device;
    std::size_t bytes;
  };
  std::vector<Span> spans_;
  void* stream_ = nullptr;
};

}  // namespace attnspec::cuda
