// Memory that both a test and its kernels use.
#pragma once

#include <cstddef>
#include <vector>
#ifdef __CUDACC__
#include <cuda_runtime.h>

#include <stdexcept>
#else
#include "cuda/simulator/buffers.hpp"
#endif

namespace attnspec::cuda {

#ifdef __CUDACC__

template <class T>
class DeviceArray {
 public:
  explicit DeviceArray(const std::vector<T>& values) : size_(values.size()) {
    if (cudaMallocManaged(&data_, size_ * sizeof(T)) != cudaSuccess) throw std::runtime_error("needs a CUDA device");
    for (std::size_t n = 0; n < size_; ++n) data_[n] = values[n];
  }
  ~DeviceArray() { cudaFree(data_); }
  DeviceArray(const DeviceArray&) = delete;
  DeviceArray& operator=(const DeviceArray&) = delete;

  T* data() { return data_; }
  std::vector<T> values() const {
    if (cudaDeviceSynchronize() != cudaSuccess) throw std::runtime_error("a kernel failed");
    return {data_, data_ + size_};
  }

 private:
  std::size_t size_;
  T* data_;
};

#else

template <class T>
class DeviceArray {
 public:
  explicit DeviceArray(const std::vector<T>& values) : values_(values) {}

  T* data() { return values_.data(); }
  std::vector<T> values() const { return values_; }

 private:
  std::vector<T> values_;
  simulator::RegisteredBuffer buffer_{values_.data(), values_.size() * sizeof(T), "array"};
};

#endif

}  // namespace attnspec::cuda
