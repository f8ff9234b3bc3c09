// Memory that a caller lends to a call.
#pragma once

#include <cstddef>
#include <cstdint>

namespace attnspec::cuda {

/// Hands out pieces of a workspace, aligned to 256 bytes. Without one it only counts, so that the function which takes
/// the pieces of a call also says how many bytes they need.
class Workspace {
 public:
  explicit Workspace(void* begin = nullptr) : begin_(static_cast<std::byte*>(begin)) {}

  /// Room for so many elements; nullptr without a workspace.
  template <class T>
  T* take(std::int64_t count) {
    std::byte* piece = begin_ == nullptr ? nullptr : begin_ + bytes_;
    bytes_ += (count * static_cast<std::int64_t>(sizeof(T)) + 255) / 256 * 256;
    return reinterpret_cast<T*>(piece);
  }

  std::int64_t bytes() const { return bytes_; }

 private:
  std::byte* begin_;
  std::int64_t bytes_ = 0;
};

}  // namespace attnspec::cuda
