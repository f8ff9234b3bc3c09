#include <cuda_runtime.h>

#include <stdexcept>

#include "cuda/device.hpp"

namespace attnspec::cuda {

namespace {

void require(cudaError_t status) {
  if (status != cudaSuccess) throw std::runtime_error(std::string("CUDA: ") + cudaGetErrorString(status));
}

}  // namespace

Devices find_devices() {
  int count = 0;
  const cudaError_t status = cudaGetDeviceCount(&count);
  if (status != cudaSuccess) return {{}, std::string("no GPU: ") + cudaGetErrorString(status)};
  Devices devices;
  for (int device = 0; device < count; ++device) {
    cudaDeviceProp properties;
    if (cudaGetDeviceProperties(&properties, device) == cudaSuccess)
      devices.names.push_back(std::string(properties.name) + ", sm_" + std::to_string(properties.major) +
                              std::to_string(properties.minor));
  }
  if (devices.names.empty()) devices.why_none = "no GPU found";
  return devices;
}

DeviceCopies::DeviceCopies() {
  cudaStream_t stream;
  require(cudaStreamCreateWithFlags(&stream, cudaStreamNonBlocking));
  stream_ = stream;
}

DeviceCopies::~DeviceCopies() {
  for (const Span& span : spans_) cudaFree(span.device);
  cudaStreamDestroy(static_cast<cudaStream_t>(stream_));
}

void* DeviceCopies::copy(void* host, std::int64_t bytes) {
  const auto size = static_cast<std::size_t>(bytes);
  for (const Span& span : spans_)
    if (span.host == host && span.bytes == size) return span.device;
  void* device;
  require(cudaMalloc(&device, size));
  spans_.push_back({host, device, size});
  require(cudaMemcpyAsync(device, host, size, cudaMemcpyHostToDevice, static_cast<cudaStream_t>(stream_)));
  return device;
}

void DeviceCopies::collect() {
  const auto stream = static_cast<cudaStream_t>(stream_);
  require(cudaStreamSynchronize(stream));
  for (const Span& span : spans_)
    require(cudaMemcpyAsync(span.host, span.device, span.bytes, cudaMemcpyDeviceToHost, stream));
  require(cudaStreamSynchronize(stream));
}

}  // namespace attnspec::cuda
