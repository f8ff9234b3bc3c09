// Where the tensors of a call are when the kernel runs.
#pragma once

#include <dlpack/dlpack.h>

#include <array>
#include <cstddef>
#include <cstdint>
#include <deque>
#include <optional>
#include <span>
#include <vector>

#include "cuda/device.hpp"
#include "verify/abi/kernel_abi.h"
#include "verify/run/kernel.hpp"
#include "verify/run/storage.hpp"

namespace attnspec::verify {

/// The tensors of a call, in the host's memory or, for the time of the call, in copies on the GPU. Keeps the shapes and
/// strides that its tensors point to.
class CallMemory {
 public:
  explicit CallMemory(std::int32_t device_type);

  DLTensor of(const TensorView& view);
  DLTensor of(const SelectionView& view);
  void* of(std::span<std::byte> workspace);

  /// Whether the tensors are on a GPU.
  bool is_on_device() const { return copies_.has_value(); }
  /// The stream of the call; nullptr on the host.
  void* stream() { return copies_ ? copies_->stream() : nullptr; }

  /// A tensor with data, where the kernel finds it.
  struct Placed {
    std::byte* data;
    std::int64_t tokens, heads;
    std::int64_t token_bytes, head_bytes;  // from one to the next
    std::int64_t row_bytes;                // of one token and head

    /// From the first byte to the last.
    std::int64_t bytes() const { return (tokens - 1) * token_bytes + (heads - 1) * head_bytes + row_bytes; }
  };
  /// Those that have any elements, each once.
  const std::vector<Placed>& tensors() const { return tensors_; }

  /// Waits until the call is done, and brings back what it wrote. Throws std::runtime_error with what the GPU says.
  void collect() {
    if (copies_) copies_->collect();
  }

 private:
  DLTensor make(void* data, DLDataType type, const std::array<std::int64_t, 6>& sizes);
  /// The kernel's address of memory of the harness, which is copied with the guards around it.
  void* place(void* data, std::int64_t bytes, std::int64_t element_bytes);

  std::int32_t device_type_;
  std::optional<cuda::DeviceCopies> copies_;
  std::deque<std::array<std::int64_t, 6>> sizes_;  // shape, strides
  std::vector<Placed> tensors_;
};

}  // namespace attnspec::verify
