#include "verify/run/calls/calls.hpp"

#include <algorithm>

namespace attnspec::verify {

using reference::Selection;

namespace {

/// Head by head in every other case with gaps.
RowOrder row_order(const Case& c) {
  return c.layout == Layout::strided && c.seed % 2 == 1 ? RowOrder::by_head : RowOrder::by_token;
}

bool is_gradient_or_given(const TensorInfo& tensor) {
  return tensor.role == Role::gradient || tensor.role == Role::given_gradient;
}

/// A parameter of phi, absent where its kind of phi does not have it.
TensorView present(const TensorView& parameters) {
  return parameters.tokens == 0 ? absent_tensor(parameters.format) : parameters;
}

/// The selection of an operator; null for one without.
const TensorInfo* selection_of(Operator op) { return find_tensor(op, "selection"); }

}  // namespace

Calls::Calls(const Kernel& kernel, const Case& c, const Inputs& inputs)
    : kernel_(kernel),
      case_(c),
      inputs_(inputs),
      problem_(problem_of(c)),
      nsa_(nsa_problem_of(c)),
      workspace_bytes_(kernel.workspace_bytes ? kernel.workspace_bytes(c) : 0),
      workspace_(Format::fp32, Layout::contiguous, 1, 1, (workspace_bytes_ + 3) / 4, kernel.memory),
      given_(c.layout, row_order(c), kernel.memory) {
  const Format output = make_arithmetic(c.dtype, kernel.arithmetic).output;
  for (const TensorInfo& tensor : tensors()) {
    if (tensor.format == Stored::blocks) {
      places_.push_back(nullptr);
    } else if (const TensorInfo* shared = shared_with(tensor)) {
      places_.push_back(places_[static_cast<std::size_t>(shared - tensors().data())]);
    } else if (tensor.role == Role::input || tensor.role == Role::given_gradient) {
      places_.push_back(&memory_.emplace_back(format_of(tensor, c.dtype, output), c.layout, *find_input(tensor, inputs),
                                              kernel.memory));
    } else {
      const auto [tokens, heads, dim] = shape_of(c, tensor);
      places_.push_back(
          &memory_.emplace_back(format_of(tensor, c.dtype, output), c.layout, tokens, heads, dim, kernel.memory));
    }
  }
}

std::vector<MemoryFault> Calls::forward() {
  Selection selection;
  SelectionUse use = SelectionUse::ignored;
  if (const TensorInfo* tensor = selection_of(case_.op); tensor != nullptr && tensor->role == Role::input) {
    selection = inputs_.selection;
    use = SelectionUse::read;
  } else if (tensor != nullptr) {
    const auto [tokens, heads, slots] = shape_of(case_, *tensor);
    selection = Selection(tokens, heads, slots);
    if (!selects(case_.op) || kernel_.exports_selection) use = SelectionUse::written;
  }
  return run(false, named([](const TensorInfo& tensor) { return tensor.role == Role::input; }), forward_outputs(),
             selection, use);
}

std::vector<MemoryFault> Calls::backward(const Selection& selection) {
  const TensorInfo* tensor = selection_of(case_.op);
  const bool reads = tensor != nullptr && tensor->in_backward == InBackward::read;
  const auto is_read = [this](const TensorInfo& one) {
    return is_in(true, one) && one.role != Role::gradient && one.in_backward == InBackward::read;
  };
  return run(true, named(is_read), backward_outputs(), reads ? selection : Selection(),
             reads ? SelectionUse::read : SelectionUse::ignored);
}

std::vector<NamedTensor> Calls::forward_outputs() {
  return named([this](const TensorInfo& tensor) { return tensor.role == Role::output && is_in(false, tensor); });
}

std::vector<NamedTensor> Calls::backward_outputs() { return named(is_gradient); }

HostTensor& Calls::at(std::string_view tensor) {
  return *places_[static_cast<std::size_t>(&tensor_of(case_.op, tensor) - tensors().data())];
}

PhiTensors<TensorView> Calls::phi(const std::string& field) {
  PhiTensors<TensorView> views;
  for (const auto& [name, part] : kPhiParts<TensorView>) views.*part = present(view(field + "." + name));
  return views;
}

const TensorInfo* Calls::shared_with(const TensorInfo& tensor) const {
  if (!case_.shared_kv || tensor.role != Role::input || !tensor.branch) return nullptr;
  const auto first = std::find_if(tensors().begin(), tensors().end(), [&](const TensorInfo& other) {
    return other.role == Role::input && other.branch && other.dim == tensor.dim;
  });
  return &*first == &tensor ? nullptr : &*first;
}

bool Calls::is_in(bool is_backward, const TensorInfo& tensor) const {
  if (tensor.format == Stored::fp32 && !kernel_.exports_lse) return false;
  return is_backward ? tensor.in_backward != InBackward::absent : !is_gradient_or_given(tensor);
}

template <class Predicate>
std::vector<NamedTensor> Calls::named(const Predicate& holds) {
  std::vector<NamedTensor> list;
  for (std::size_t i = 0; i < places_.size(); ++i) {
    const TensorInfo& tensor = tensors()[i];
    if (places_[i] != nullptr && shared_with(tensor) == nullptr && holds(tensor))
      list.push_back({tensor.name, *places_[i], tensor.rows});
  }
  return list;
}

AnyCall Calls::call(bool is_backward) {
  AnyCall call = blank_call(case_.op, is_backward, problem_, nsa_);
  for (std::size_t i = 0; i < places_.size(); ++i) {
    if (!is_in(is_backward, tensors()[i])) continue;
    if (places_[i] == nullptr)
      call.selection = given_.view();
    else
      call.tensors[i] = tensors()[i].part == nullptr ? places_[i]->view() : present(places_[i]->view());
  }
  call.workspace = {static_cast<std::byte*>(workspace_.view().data), static_cast<std::size_t>(workspace_bytes_)};
  return call;
}

std::vector<MemoryFault> Calls::run(bool is_backward, const std::vector<NamedTensor>& inputs,
                                    const std::vector<NamedTensor>& outputs, const Selection& selection,
                                    SelectionUse use) {
  const bool repeats = (is_backward ? kernel_.equal_bits_backward : kernel_.equal_bits) >= EqualBits::same_call;
  const auto do_call = [&] { kernel_.call(call(is_backward)); };
  return run_guarded({inputs, outputs, selection, use, given_, workspace_, case_.seed, repeats, do_call});
}

}  // namespace attnspec::verify
