#include <stdexcept>

#include "cuda/device.hpp"
#include "cuda/timing.hpp"

namespace attnspec::cuda {

Devices find_devices() { return {{}, "built without CUDA (preset `cuda` builds it where nvcc is)"}; }
std::optional<DevicePeaks> find_device_peaks() { return std::nullopt; }

DeviceCopies::DeviceCopies() { throw std::runtime_error(find_devices().why_none); }
DeviceCopies::~DeviceCopies() = default;
void* DeviceCopies::copy(void*, std::int64_t) { return nullptr; }
void DeviceCopies::collect() {}

void copy_rows(void*, const void*, std::size_t, std::size_t, std::size_t, void*) {}
DeviceMemory::DeviceMemory(std::size_t) { throw std::runtime_error(find_devices().why_none); }
void DeviceMemory::Free::operator()(std::byte*) const {}
struct StreamTimer::State {};
StreamTimer::StreamTimer(void*) { throw std::runtime_error(find_devices().why_none); }
StreamTimer::~StreamTimer() = default;
RunTime StreamTimer::time(const std::function<void()>&) { return {}; }

}  // namespace attnspec::cuda
