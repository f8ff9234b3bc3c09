#include "verify/run/call_memory.hpp"

#include <algorithm>

namespace attnspec::verify {

CallMemory::CallMemory(std::int32_t device_type) : device_type_(device_type) {
  if (device_type == kDLCUDA) copies_.emplace();
}

DLTensor CallMemory::of(const TensorView& view) {
  const auto bits = static_cast<std::uint8_t>(8 * bytes_of(view.format));
  const std::uint8_t code = view.format == Format::bf16 ? kDLBfloat : kDLFloat;
  return make(view.data, {code, bits, 1}, {view.tokens, view.heads, view.dim, view.token_stride, view.head_stride, 1});
}

DLTensor CallMemory::of(const SelectionView& view) {
  return make(view.data, {kDLInt, 32, 1},
              {view.tokens, view.heads, view.slots, view.token_stride, view.head_stride, 1});
}

void* CallMemory::of(std::span<std::byte> workspace) {
  return workspace.empty() ? nullptr : place(workspace.data(), std::ssize(workspace), sizeof(float));
}

DLTensor CallMemory::make(void* data, DLDataType type, const std::array<std::int64_t, 6>& sizes) {
  std::int64_t* kept = sizes_.emplace_back(sizes).data();
  const std::int64_t element_bytes = type.bits / 8;
  if (data != nullptr) {
    const std::int64_t elements = sizes[0] == 0 ? 0 : (sizes[0] - 1) * sizes[3] + (sizes[1] - 1) * sizes[4] + sizes[2];
    data = place(data, elements * element_bytes, element_bytes);
    const auto is_here = [&](const Placed& tensor) { return tensor.data == data; };
    if (sizes[0] * sizes[1] * sizes[2] > 0 && std::none_of(tensors_.begin(), tensors_.end(), is_here))
      tensors_.push_back({static_cast<std::byte*>(data), sizes[0], sizes[1], sizes[3] * element_bytes,
                          sizes[4] * element_bytes, sizes[2] * element_bytes});
  }
  return {data, {static_cast<DLDeviceType>(device_type_), 0}, 3, type, kept, kept + 3, 0};
}

void* CallMemory::place(void* data, std::int64_t bytes, std::int64_t element_bytes) {
  if (!copies_) return data;
  const std::int64_t guard = kGuardElements * element_bytes;
  return static_cast<std::byte*>(copies_->copy(static_cast<std::byte*>(data) - guard, bytes + 2 * guard)) + guard;
}

}  // namespace attnspec::verify
