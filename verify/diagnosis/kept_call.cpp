#include "verify/diagnosis/kept_call.hpp"

#include <algorithm>

#include "reference/nsa/nsa_compression.hpp"
#include "verify/model/model.hpp"
#include "verify/operators/operator.hpp"
#include "verify/run/storage.hpp"

namespace attnspec::verify {

namespace {

/// Elements from the first of a tensor to its last.
std::int64_t extent(const TensorView& view) {
  if (view.tokens == 0 || view.heads == 0 || view.dim == 0) return 0;
  return (view.tokens - 1) * view.token_stride + (view.heads - 1) * view.head_stride + view.dim;
}

/// `elements` of a format, one after the other, NaN, and as many guards behind them as the harness has.
TensorView add_memory(std::int64_t elements, Format format, KeptTensors& memory) {
  std::vector<std::byte>& bytes =
      memory.bytes.emplace_back(static_cast<std::size_t>((elements + kGuardElements) * bytes_of(format)));
  std::fill(bytes.begin(), bytes.end(), std::byte{0xff});
  return {bytes.data(), format, elements, 1, 1, 1, 1};
}

/// What a number is multiplied by to be off by a unit in the last place of fp32, up, down or not at all.
double disturbance(std::int64_t element) { return 1 + static_cast<double>(element * 7919 % 13 % 3 - 1) * 0x1p-23; }

/// A copy of a tensor with all that lies between its rows, in the same places.
TensorView copy(const TensorView& view, PlayedIn numbers, KeptTensors& memory) {
  const Format format = numbers == PlayedIn::own_format ? view.format : Format::fp32;
  const std::int64_t elements = extent(view);
  const TensorView from{view.data, view.format, elements, 1, 1, 1, 1}, to = add_memory(elements, format, memory);
  for (std::int64_t i = 0; i < elements; ++i)
    to.store(i, 0, 0, from.load(i, 0, 0) * (numbers == PlayedIn::disturbed_fp32 ? disturbance(i) : 1));
  TensorView copied = view;
  copied.data = to.data;
  copied.format = format;
  return copied;
}

SelectionView copy(const SelectionView& view, KeptTensors& memory) {
  const std::int64_t entries =
      view.tokens == 0 || view.heads == 0
          ? 0
          : (view.tokens - 1) * view.token_stride + (view.heads - 1) * view.head_stride + view.slots;
  memory.blocks.assign(view.data, view.data + entries);
  SelectionView copied = view;
  copied.data = memory.blocks.data();
  return copied;
}

TensorView packed(std::int64_t tokens, std::int64_t heads, std::int64_t dim, Format format, KeptTensors& memory) {
  const TensorView flat = add_memory(tokens * heads * dim, format, memory);
  return {flat.data, format, tokens, heads, dim, heads * dim, dim};
}

bool is_written(const TensorInfo& tensor, bool is_backward) {
  return tensor.role == (is_backward ? Role::gradient : Role::output);
}

std::vector<std::int32_t> ascending(const SelectionView& view, std::int64_t token, std::int64_t head) {
  std::vector<std::int32_t> blocks(view.row(token, head), view.row(token, head) + view.slots);
  std::erase(blocks, -1);
  std::sort(blocks.begin(), blocks.end());
  return blocks;
}

}  // namespace

Vector PlayedOutputs::row(std::string_view output, std::int64_t token, std::int64_t head) const {
  const auto at = static_cast<std::size_t>(&tensor_of(op_, output) - page_of(op_).tensors.data());
  return memory_.tensors[at].row(token, head);
}

std::vector<std::int32_t> PlayedOutputs::blocks(std::int64_t token, std::int64_t head) const {
  return ascending(memory_.selection, token, head);
}

KeptCall::KeptCall(const AnyCall& call)
    : problem_(call.problem), nsa_(call.nsa), call_{call.op,      call.is_backward, problem_, nsa_,
                                                    call.tensors, call.selection,   {}} {
  const std::vector<TensorInfo>& infos = page_of(call.op).tensors;
  for (const PlayedIn numbers : {PlayedIn::fp32, PlayedIn::disturbed_fp32, PlayedIn::own_format}) {
    KeptTensors& given = given_[static_cast<std::size_t>(numbers)];
    for (std::size_t i = 0; i < infos.size(); ++i) {
      const TensorView& view = call.tensors[i];
      const Format format = numbers == PlayedIn::own_format ? view.format : Format::fp32;
      given.tensors.push_back(
          is_written(infos[i], call.is_backward) || view.tokens == 0
              ? TensorView{nullptr, format, view.tokens, view.heads, view.dim, view.token_stride, view.head_stride}
              : copy(view, numbers, given));
    }
    given.selection = call.selection;
    if (heads_of_written_selection() == 0 && call.selection.tokens > 0) given.selection = copy(call.selection, given);
  }
}

bool KeptCall::can_be_played() const {
  const std::vector<TensorInfo>& infos = page_of(call_.op).tensors;
  for (std::size_t i = 0; i < infos.size(); ++i)
    if (call_.is_backward && infos[i].format == Stored::fp32 && call_.tensors[i].data == nullptr) return false;
  return true;
}

std::int64_t KeptCall::heads_of_written_selection() const {
  const TensorInfo* selection = find_tensor(call_.op, "selection");
  return selection != nullptr && is_written(*selection, call_.is_backward) ? call_.selection.heads : 0;
}

PlayedOutputs KeptCall::play(const model::Stages& stages, const reference::ArithmeticOptions& options,
                             PlayedIn numbers) const {
  const KeptTensors& given = given_[static_cast<std::size_t>(numbers)];
  const std::vector<TensorInfo>& infos = page_of(call_.op).tensors;
  AnyCall call = call_;
  call.tensors = given.tensors;
  call.selection = given.selection;
  KeptTensors written;
  for (std::size_t i = 0; i < infos.size(); ++i) {
    const TensorView& of_kernel = call_.tensors[i];
    written.tensors.emplace_back();
    if (!is_written(infos[i], call_.is_backward) || infos[i].format == Stored::blocks) continue;
    if (of_kernel.tokens > 0)
      written.tensors.back() =
          packed(of_kernel.tokens, of_kernel.heads, of_kernel.dim, given.tensors[i].format, written);
    else if (infos[i].format == Stored::fp32)  // the kernel keeps its own to itself
      written.tensors.back() = packed(call_["q"].tokens, call_["q"].heads, 1, Format::fp32, written);
    else
      continue;
    call.tensors[i] = written.tensors.back();
  }
  if (heads_of_written_selection() > 0) {
    const SelectionView& shape = call_.selection;
    written.blocks.assign(static_cast<std::size_t>(shape.tokens * shape.heads * shape.slots), -1);
    written.selection = packed_selection(written.blocks.data(), shape.tokens, shape.heads, shape.slots);
    call.selection = written.selection;
  }
  model::make_kernel("", "", {call.op}, stages,
                     numbers == PlayedIn::own_format ? options : reference::ArithmeticOptions{})
      .call(call);
  return {call_.op, std::move(written)};
}

std::int64_t KeptCall::token(std::string_view output, const Place& place) const {
  const TensorInfo& tensor = tensor_of(call_.op, output);
  const auto begin = [&](const std::vector<std::int64_t>& offsets) {
    return offsets.at(static_cast<std::size_t>(place.sequence)) + place.token;
  };
  switch (tensor.rows) {
    case RowsOf::queries: return begin(call_.attention().q_offsets);
    case RowsOf::keys: return begin(call_.attention().k_offsets);
    case RowsOf::compressed_rows: return begin(reference::compressed_offsets(nsa_));
    case RowsOf::parameters: return place.token;
  }
  return -1;
}

void KeptCall::keep_selection(const SelectionView& selection) { written_.selection = copy(selection, written_); }

std::vector<std::int32_t> KeptCall::blocks(std::int64_t token, std::int64_t head) const {
  return ascending(written_.selection, token, head);
}

}  // namespace attnspec::verify
