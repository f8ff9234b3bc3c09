#include <cuda_runtime.h>

#include <algorithm>
#include <chrono>

#include "cuda/device.hpp"
#include "cuda/primitives/launch.cuh"
#include "cuda/timing.hpp"

namespace attnspec::cuda {

namespace {

cudaStream_t stream_of(void* stream) { return static_cast<cudaStream_t>(stream); }

int attribute(cudaDeviceAttr which) {
  int device, value;
  require(cudaGetDevice(&device));
  require(cudaDeviceGetAttribute(&value, which, device));
  return value;
}

class Event {
 public:
  Event() { require(cudaEventCreate(&event_)); }
  ~Event() { cudaEventDestroy(event_); }
  Event(const Event&) = delete;
  Event& operator=(const Event&) = delete;

  void record(cudaStream_t stream) { require(cudaEventRecord(event_, stream)); }
  /// Milliseconds from another event to this one; both have happened.
  double since(const Event& earlier) const {
    float milliseconds;
    require(cudaEventElapsedTime(&milliseconds, earlier.event_, event_));
    return milliseconds;
  }

 private:
  cudaEvent_t event_;
};

double milliseconds_since(std::chrono::steady_clock::time_point start) {
  return std::chrono::duration<double, std::milli>(std::chrono::steady_clock::now() - start).count();
}

/// Operations per clock and multiprocessor of the tensor cores on 16-bit formats, fp32 sums, without sparsity (NVIDIA's
/// white papers on the A100, GA102, AD102 and H100). Unknown: 0.
int operations_per_clock(int major, int minor) {
  if (major == 8) return minor == 0 ? 2048 : 1024;
  return major == 9 ? 4096 : 0;
}

double measure_copy() {
  constexpr std::size_t kBytes = std::size_t{1} << 29;
  constexpr int kRuns = 5;
  const DeviceMemory from(kBytes), to(kBytes);
  const DeviceCopies copies;  // for its stream
  StreamTimer timer(copies.stream());
  double best = 0;
  for (int run = 0; run < kRuns; ++run) {
    const RunTime time = timer.time([&] { copy_rows(to.data(), from.data(), kBytes, kBytes, 1, copies.stream()); });
    best = std::max(best, 2 * static_cast<double>(kBytes) / (time.stream / 1e3));
  }
  return best;
}

}  // namespace

void copy_rows(void* to, const void* from, std::size_t pitch, std::size_t width, std::size_t rows, void* stream) {
  if (pitch == width)
    return require(cudaMemcpyAsync(to, from, width * rows, cudaMemcpyDeviceToDevice, stream_of(stream)));
  require(cudaMemcpy2DAsync(to, pitch, from, pitch, width, rows, cudaMemcpyDeviceToDevice, stream_of(stream)));
}

DeviceMemory::DeviceMemory(std::size_t bytes) {
  void* data;
  require(cudaMalloc(&data, bytes));
  data_.reset(static_cast<std::byte*>(data));
}

void DeviceMemory::Free::operator()(std::byte* data) const { cudaFree(data); }

struct StreamTimer::State {
  cudaStream_t stream;
  std::size_t clearing_bytes = 2 * static_cast<std::size_t>(attribute(cudaDevAttrL2CacheSize));
  DeviceMemory clearing{clearing_bytes};
  Event before_clearing, begin, end;
};

StreamTimer::StreamTimer(void* stream) : state_(new State{stream_of(stream)}) {}
StreamTimer::~StreamTimer() = default;

RunTime StreamTimer::time(const std::function<void()>& run) {
  State& s = *state_;
  require(cudaDeviceSynchronize());
  const auto start = std::chrono::steady_clock::now();
  s.before_clearing.record(s.stream);
  require(cudaMemsetAsync(s.clearing.data(), 0, s.clearing_bytes, s.stream));
  s.begin.record(s.stream);
  run();
  s.end.record(s.stream);
  require(cudaDeviceSynchronize());
  const double host = milliseconds_since(start);
  return {s.end.since(s.begin), host - s.begin.since(s.before_clearing)};
}

std::optional<DevicePeaks> find_device_peaks() {
  const Devices devices = find_devices();
  if (devices.names.empty()) return std::nullopt;
  const double hertz = 1e3 * attribute(cudaDevAttrClockRate),
               memory_hertz = 1e3 * attribute(cudaDevAttrMemoryClockRate);
  const int rate =
      operations_per_clock(attribute(cudaDevAttrComputeCapabilityMajor), attribute(cudaDevAttrComputeCapabilityMinor));
  DevicePeaks peaks;
  peaks.name = devices.names.front();
  peaks.bytes_per_second = 2 * memory_hertz * attribute(cudaDevAttrGlobalMemoryBusWidth) / 8;
  peaks.copied_bytes_per_second = measure_copy();
  peaks.operations_per_second = hertz * attribute(cudaDevAttrMultiProcessorCount) * rate;
  peaks.cache_bytes = attribute(cudaDevAttrL2CacheSize);
  return peaks;
}

}  // namespace attnspec::cuda
