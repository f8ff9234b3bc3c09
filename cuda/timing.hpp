// Timing of work on a GPU: by events in its stream, with the clock of the host beside them. Every function throws
// std::runtime_error with what CUDA says.
#pragma once

#include <cstddef>
#include <cstdint>
#include <functional>
#include <memory>
#include <optional>
#include <string>
#include <vector>

namespace attnspec::cuda {

/// Copies rows of `width` bytes, which lie `pitch` bytes apart in both places on the GPU, in order with the stream.
void copy_rows(void* to, const void* from, std::size_t pitch, std::size_t width, std::size_t rows, void* stream);

/// Memory on the GPU.
class DeviceMemory {
 public:
  explicit DeviceMemory(std::size_t bytes);
  std::byte* data() const { return data_.get(); }

 private:
  struct Free {
    void operator()(std::byte* data) const;
  };
  std::unique_ptr<std::byte, Free> data_;
};

/// How long a run took, in milliseconds.
struct RunTime {
  double stream = 0;  // by events in the stream, just before the run and just after it
  double host = 0;    // by the host's clock, until the whole device was idle
};

class StreamTimer {
 public:
  explicit StreamTimer(void* stream);
  ~StreamTimer();
  StreamTimer(const StreamTimer&) = delete;
  StreamTimer& operator=(const StreamTimer&) = delete;

  /// Waits until the device is idle, clears its L2 cache, runs what `run` puts into the stream, and waits for the
  /// device again. While the cache is cleared `run` may already launch, so that what the host takes for that does not
  /// count; where it is the first to be ready, its work begins right after the clearing.
  RunTime time(const std::function<void()>& run);

 private:
  struct State;
  std::unique_ptr<State> state_;
};

/// The time that a kernel on the GPU took.
struct KernelTime {
  std::string name;  // of its function, without namespaces, template arguments and parameters
  double milliseconds = 0;
};

/// What `run` launches, and has done when it returns; by CUPTI, which takes time itself. Where this build or this
/// machine has no CUPTI nothing is run, and there is nothing.
std::vector<KernelTime> trace_kernels(const std::function<void()>& run);

/// What a GPU can do at most.
struct DevicePeaks {
  std::string name;                    // "NVIDIA H200, sm_90"
  double bytes_per_second = 0;         // of its memory: clock times width of the bus
  double copied_bytes_per_second = 0;  // read and written by a copy within it, as measured just now
  double operations_per_second = 0;    // of its tensor cores on 16-bit formats, at its highest clock; 0: not known
  std::int64_t cache_bytes = 0;        // of L2
};

/// Of the GPU that kernels run on; none without one.
std::optional<DevicePeaks> find_device_peaks();

}  // namespace attnspec::cuda
