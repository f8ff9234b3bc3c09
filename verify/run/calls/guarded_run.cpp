#include "verify/run/calls/guarded_run.hpp"

#include <fmt/format.h>

#include <algorithm>
#include <cstddef>
#include <cstring>
#include <optional>
#include <utility>

namespace attnspec::verify {

namespace {

/// What no kernel leaves in a selection.
constexpr std::int32_t kUnwritten = 0x7f7f7f7f;

/// Everything a kernel wrote in one run.
struct Written {
  std::vector<std::vector<std::byte>> outputs;
  std::vector<std::int32_t> blocks;

  bool operator==(const Written&) const = default;
};

/// An element of a packed tensor.
std::string place(const char* feature, std::int64_t element, std::int64_t heads, std::int64_t dim) {
  return fmt::format("[token={},head={},{}={}]", element / (heads * dim), element / dim % heads, feature,
                     element % dim);
}

/// Elements of a tensor for which something holds.
struct Elements {
  std::int64_t all = 0, count = 0, first = -1;

  /// "12 of 400 elements VERB; the first is [token=0,head=0,d=0]"
  std::string text(const std::string& verb, const char* feature, std::int64_t heads, std::int64_t dim) const {
    return fmt::format("{} of {} elements {}; the first is {}", count, all, verb, place(feature, first, heads, dim));
  }
};

/// The elements of so many bytes for which `holds` does.
template <class Holds>
Elements elements_where(std::size_t num_bytes, std::int64_t element_bytes, const Holds& holds) {
  Elements elements{.all = static_cast<std::int64_t>(num_bytes) / element_bytes};
  for (std::int64_t i = 0; i < elements.all; ++i) {
    if (!holds(static_cast<std::size_t>(i * element_bytes), static_cast<std::size_t>(element_bytes))) continue;
    if (elements.count++ == 0) elements.first = i;
  }
  return elements;
}

bool are_equal(const std::vector<std::byte>& a, const std::vector<std::byte>& b, std::size_t begin, std::size_t size) {
  return std::memcmp(a.data() + begin, b.data() + begin, size) == 0;
}

/// Whether an element holds what fill_rows_with_nan left.
bool is_filled(const std::vector<std::byte>& bytes, std::size_t begin, std::size_t size) {
  return std::all_of(bytes.begin() + static_cast<std::ptrdiff_t>(begin),
                     bytes.begin() + static_cast<std::ptrdiff_t>(begin + size),
                     [](std::byte byte) { return byte == std::byte{0xff}; });
}

std::string text_of(const Strays& strays) {
  const std::string where =
      strays.token < 0 ? "before its first row"
                       : fmt::format("{} behind its row [token={},head={}]", strays.behind, strays.token, strays.head);
  return fmt::format("{} element{} outside it {} written; the first lies {}", strays.elements,
                     strays.elements == 1 ? "" : "s", strays.elements == 1 ? "was" : "were", where);
}

/// Fills all memory around the tensors of a call, and its outputs, one way.
void prepare(Surroundings surroundings, const GuardedCall& call) {
  const auto fill = [&](HostTensor& tensor, const std::string& name) {
    if (surroundings == Surroundings::nan) return tensor.fill_rows_with_nan();
    tensor.fill_rows(Random(call.seed, "before " + name));
  };
  for (const auto* list : {&call.inputs, &call.outputs})
    for (const auto& [name, tensor, rows] : *list) tensor.get().surround(surroundings);
  for (const auto& [name, tensor, rows] : call.outputs) fill(tensor, name);
  call.workspace.surround(surroundings);
  fill(call.workspace, "workspace");
  call.memory.prepare(call.selection, call.selection_use, surroundings);
}

/// What the outputs hold.
Written read(const GuardedCall& call) {
  Written written;
  for (const auto& [name, tensor, rows] : call.outputs) written.outputs.push_back(tensor.get().rows());
  if (call.selection_use == SelectionUse::written) written.blocks = call.memory.values().blocks;
  return written;
}

/// Adds what a call wrote where it must not. before: its inputs.
void add_stray_writes(const GuardedCall& call, const std::vector<std::vector<std::byte>>& before,
                      std::vector<MemoryFault>& faults) {
  const auto stray = [&](const std::string& tensor, const std::string& what) {
    faults.push_back({Verdict::stray_write, tensor, what});
  };
  for (std::size_t i = 0; i < call.inputs.size(); ++i) {
    HostTensor& tensor = call.inputs[i].tensor.get();
    if (tensor.rows_are(before[i])) continue;
    const std::vector<std::byte> now = tensor.rows();
    const TensorView view = tensor.view();
    const Elements changed =
        elements_where(now.size(), bytes_of(view.format),
                       [&](std::size_t begin, std::size_t size) { return !are_equal(now, before[i], begin, size); });
    stray(call.inputs[i].name, "an input was written: " + changed.text("changed", "d", view.heads, view.dim));
  }
  for (const auto* list : {&call.inputs, &call.outputs})
    for (const auto& [name, tensor, rows] : *list)
      if (const Strays strays = tensor.get().strays(); strays.elements > 0) stray(name, text_of(strays));
  if (const Strays strays = call.workspace.strays(); strays.elements > 0)
    stray("workspace", fmt::format("{} bytes outside it were written", 4 * strays.elements));
  if (const std::int64_t strays = call.memory.num_strays(call.selection_use); strays > 0)
    stray("selection", fmt::format("{} entr{} outside the output {} written", strays, strays == 1 ? "y" : "ies",
                                   strays == 1 ? "was" : "were"));
}

/// Runs the call with all memory around its tensors filled one way, and adds its stray writes. filled: takes the
/// outputs as they were before.
Written run_among(Surroundings surroundings, const GuardedCall& call, std::vector<MemoryFault>& faults,
                  Written* filled = nullptr) {
  prepare(surroundings, call);
  if (filled != nullptr) *filled = read(call);
  std::vector<std::vector<std::byte>> before;
  for (const auto& [name, tensor, rows] : call.inputs) before.push_back(tensor.get().rows());
  call.run();
  add_stray_writes(call, before, faults);
  return read(call);
}

/// Adds the outputs of which elements were never written, and makes these elements equal in both runs. filled: what the
/// outputs held before the run among numbers.
void add_never_written(const GuardedCall& call, const Written& filled, Written& numbers, Written& nan,
                       std::vector<MemoryFault>& faults) {
  const char* verb = "were never written";
  for (std::size_t o = 0; o < call.outputs.size(); ++o) {
    const TensorView view = call.outputs[o].tensor.get().view();
    std::vector<std::byte>&after = numbers.outputs[o], &after_nan = nan.outputs[o];
    const Elements unwritten =
        elements_where(after.size(), bytes_of(view.format), [&](std::size_t begin, std::size_t size) {
          if (!is_filled(after_nan, begin, size) || !are_equal(after, filled.outputs[o], begin, size)) return false;
          std::memcpy(after_nan.data() + begin, after.data() + begin, size);
          return true;
        });
    if (unwritten.count > 0)
      faults.push_back({Verdict::non_finite, call.outputs[o].name, unwritten.text(verb, "d", view.heads, view.dim)});
  }
  const reference::Selection& shape = call.memory.shape();
  const Elements unwritten = elements_where(nan.blocks.size(), 1, [&](std::size_t i, std::size_t) {
    if (nan.blocks[i] != kUnwritten || numbers.blocks[i] != filled.blocks[i]) return false;
    nan.blocks[i] = numbers.blocks[i];
    return true;
  });
  if (unwritten.count > 0)
    faults.push_back(
        {Verdict::selection_mismatch, "selection", unwritten.text(verb, "slot", shape.heads, shape.slots)});
}

/// The first output that differs between two runs, and of which elements; none where they are equal.
std::optional<std::pair<std::string, std::string>> difference(const GuardedCall& call, const Written& a,
                                                              const Written& b, const char* verb) {
  for (std::size_t o = 0; o < call.outputs.size(); ++o) {
    if (a.outputs[o] == b.outputs[o]) continue;
    const TensorView view = call.outputs[o].tensor.get().view();
    const Elements changed = elements_where(
        a.outputs[o].size(), bytes_of(view.format),
        [&](std::size_t begin, std::size_t size) { return !are_equal(a.outputs[o], b.outputs[o], begin, size); });
    return {{call.outputs[o].name, changed.text(verb, "d", view.heads, view.dim)}};
  }
  if (a.blocks == b.blocks) return std::nullopt;
  const reference::Selection& shape = call.memory.shape();
  const Elements changed =
      elements_where(a.blocks.size(), 1, [&](std::size_t i, std::size_t) { return a.blocks[i] != b.blocks[i]; });
  return {{"selection", changed.text(verb, "slot", shape.heads, shape.slots)}};
}

/// Whether an output holds what was there before the run among NaN.
bool holds_fill(const GuardedCall& call, const Written& nan) {
  for (std::size_t o = 0; o < call.outputs.size(); ++o) {
    const std::int64_t size = bytes_of(call.outputs[o].tensor.get().view().format);
    const auto held = [&](std::size_t begin, std::size_t bytes) { return is_filled(nan.outputs[o], begin, bytes); };
    if (elements_where(nan.outputs[o].size(), size, held).count > 0) return true;
  }
  return std::find(nan.blocks.begin(), nan.blocks.end(), kUnwritten) != nan.blocks.end();
}

}  // namespace

SelectionView HostSelection::view() {
  return {entries_.data() + first_, shape_.tokens, shape_.heads, shape_.slots, token_stride_, head_stride_};
}

template <class Visit>
void HostSelection::for_each_slot(const Visit& visit) const {
  std::size_t index = 0;
  for (std::int64_t token = 0; token < shape_.tokens; ++token)
    for (std::int64_t head = 0; head < shape_.heads; ++head)
      for (std::int64_t slot = 0; slot < shape_.slots; ++slot) visit(place(token, head, slot), index++);
}

reference::Selection HostSelection::values() const {
  reference::Selection result = shape_;
  for_each_slot([&](std::size_t place, std::size_t index) { result.blocks[index] = entries_[place]; });
  return result;
}

void HostSelection::prepare(const reference::Selection& selection, SelectionUse use, Surroundings with) {
  shape_ = selection;
  const std::int64_t row = shape_.slots + (layout_ == Layout::strided ? 8 : 0),
                     gap = layout_ == Layout::strided ? 16 : 0;
  const bool by_head = order_ == RowOrder::by_head;
  token_stride_ = by_head ? row : shape_.heads * row + gap;
  head_stride_ = by_head ? shape_.tokens * row + gap : row;
  first_ = kGuardElements + (layout_ == Layout::strided ? 24 : 0);
  const std::int64_t outer = by_head ? shape_.heads * head_stride_ : shape_.tokens * token_stride_;
  entries_.assign(static_cast<std::size_t>(first_ + outer + kGuardElements),
                  with == Surroundings::nan ? kUnwritten : ~kUnwritten);
  if (use == SelectionUse::read)
    for_each_slot([&](std::size_t place, std::size_t index) { entries_[place] = selection.blocks[index]; });
  prepared_.assign(entries_.begin(), entries_.end());
}

std::int64_t HostSelection::num_strays(SelectionUse use) const {
  std::vector<std::int32_t> expected = prepared_;
  if (use != SelectionUse::read)
    for_each_slot([&](std::size_t place, std::size_t) { expected[place] = entries_[place]; });
  std::int64_t strays = 0;
  for (std::size_t i = 0; i < expected.size(); ++i) strays += entries_[i] != expected[i];
  return strays;
}

std::vector<MemoryFault> run_guarded(const GuardedCall& call) {
  std::vector<MemoryFault> faults;
  Written first = run_among(Surroundings::numbers, call, faults);
  if (!faults.empty()) return faults;
  Written second = run_among(Surroundings::nan, call, faults);
  if (!faults.empty() || (call.repeats ? first == second : !holds_fill(call, second))) return faults;
  Written filled;
  const bool first_again = run_among(Surroundings::numbers, call, faults, &filled) == first;
  const bool is_repeated = run_among(Surroundings::nan, call, faults) == second && first_again;
  add_never_written(call, filled, first, second, faults);
  if (!call.repeats) return faults;
  const char* verb = is_repeated ? "change with memory outside the tensors" : "differ";
  if (const auto changed = difference(call, first, second, verb)) {
    const auto& [tensor, elements] = *changed;
    if (is_repeated)
      faults.push_back({Verdict::stray_read, tensor, elements});
    else
      faults.push_back(
          {Verdict::nondeterministic, tensor, "two runs on the same memory gave different bits: " + elements});
  }
  return faults;
}

}  // namespace attnspec::verify
