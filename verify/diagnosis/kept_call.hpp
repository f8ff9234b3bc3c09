// A kernel's call, kept so that the model kernel can play mistakes on exactly what the kernel was given.
#pragma once

#include <array>
#include <cstddef>
#include <cstdint>
#include <deque>
#include <string_view>
#include <utility>
#include <vector>

#include "reference/noise/arithmetic.hpp"
#include "verify/judge/result.hpp"
#include "verify/model/stages.hpp"
#include "verify/operators/any_call.hpp"

namespace attnspec::verify {

/// Memory of a call that the diagnosis owns. What lies between the rows of a tensor is kept, for kernels that read it.
struct KeptTensors {
  std::deque<std::vector<std::byte>> bytes;
  std::vector<std::int32_t> blocks;
  std::vector<TensorView> tensors;  // of the operator's page
  SelectionView selection;
};

/// What a call wrote.
class PlayedOutputs {
 public:
  PlayedOutputs(Operator op, KeptTensors memory) : op_(op), memory_(std::move(memory)) {}
  PlayedOutputs(PlayedOutputs&&) = default;

  /// A row of an output, by its packed token and its head.
  Vector row(std::string_view output, std::int64_t token, std::int64_t head) const;
  /// The blocks of a row of the selection, ascending, without empty slots.
  std::vector<std::int32_t> blocks(std::int64_t token, std::int64_t head) const;
  /// Whether every bit is the same.
  bool operator==(const PlayedOutputs& other) const {
    return memory_.bytes == other.memory_.bytes && memory_.blocks == other.memory_.blocks;
  }

 private:
  Operator op_;
  KeptTensors memory_;
};

/// In which numbers a call is played: all tensors in fp32, so that the play adds next to no rounding of its own; in
/// fp32 with every number off by about a rounding, which shows what rounding in fp32 can do; or as the kernel had them.
enum class PlayedIn { fp32, disturbed_fp32, own_format };

class KeptCall {
 public:
  /// A copy of what the call reads, before a kernel does it.
  explicit KeptCall(const AnyCall& call);
  KeptCall(const KeptCall&) = delete;

  /// What the model kernel made of these stages writes. options: the declared arithmetic of the kernel that was called.
  PlayedOutputs play(const model::Stages& stages, const reference::ArithmeticOptions& options, PlayedIn numbers) const;
  /// Whether the model kernel can do the call: the backward of a kernel that keeps its lse to itself is given none.
  bool can_be_played() const;

  /// The packed token of a row of an output. A parameter's row is its token.
  std::int64_t token(std::string_view output, const Place& place) const;
  /// Keeps the blocks that the kernel wrote.
  void keep_selection(const SelectionView& selection);
  /// Those of a row, ascending, without empty slots.
  std::vector<std::int32_t> blocks(std::int64_t token, std::int64_t head) const;
  /// Heads of the selection; 0 without one that the call writes.
  std::int64_t heads_of_written_selection() const;

  const AnyCall& call() const { return call_; }

 private:
  reference::MobaProblem problem_;
  reference::NsaProblem nsa_;
  AnyCall call_;                      // its shapes
  std::array<KeptTensors, 3> given_;  // by PlayedIn
  KeptTensors written_;               // the selection alone
};

}  // namespace attnspec::verify
