#include <stdexcept>

#include "cuda/device.hpp"

namespace attnspec::cuda {

Devices find_devices() { return {{}, "built without CUDA (preset `cuda` builds it where nvcc is)"}; }

DeviceCopies::DeviceCopies() { throw std::runtime_error(find_devices().why_none); }
DeviceCopies::~DeviceCopies() = default;
void* DeviceCopies::copy(void*, std::int64_t) { return nullptr; }
void DeviceCopies::collect() {}

}  // namespace attnspec::cuda
