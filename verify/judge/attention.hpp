// Judging one attention: o and lse on the kernel's own selection, gradients on the o and lse that the backward was
// given.
#pragma once

#include <cstdint>
#include <functional>
#include <optional>
#include <set>
#include <span>
#include <string>
#include <tuple>
#include <vector>

#include "reference/noise/attention_noise.hpp"
#include "reference/noise/gradient_noise.hpp"
#include "reference/noise/operands.hpp"
#include "reference/selected.hpp"
#include "verify/judge/key_chunks.hpp"
#include "verify/judge/selection.hpp"
#include "verify/judge/tally.hpp"
#include "verify/operators/reach.hpp"
#include "verify/run/calls/names.hpp"
#include "verify/run/storage.hpp"

namespace attnspec::verify {

/// An attention that a kernel computed: an operator, or a branch of nsa.
struct AttentionStage {
  AttentionNames names;
  reference::AttentionProblem problem;  // over the rows of k and v
  std::int64_t block;                   // in such rows
  Reach reach;
  const reference::Tensor &q, &k, &v;  // as the kernel had them
  reference::Selection selection;      // the kernel's, or the one it was given
  TensorView o, lse;                   // the kernel's
  JudgedRows queries, keys;            // the rows of o, lse and dq, and those of dk and dv, that are judged
  bool has_lse = true;                 // else the kernel keeps its own to itself, and lse takes the judge's
  bool has_own_block = false;          // MoBA: under causality a row's own block is one of its blocks
};

/// One direction of an attention as its products read it: the scaled or rounded operands of declared arithmetic.
class AttentionOperands {
 public:
  AttentionOperands(const AttentionStage& stage, const std::vector<reference::Sequence>& sequences,
                    reference::ScoreOperands scores, const reference::Operand& v);

  reference::RowInputs row(const reference::Sequence& sequence, std::int64_t token, std::int64_t head,
                           std::span<const reference::KeyRange> visible) const;

 private:
  const AttentionStage& stage_;
  reference::ScoreOperands scores_;
  std::vector<std::optional<reference::KeyValues>> keys_;  // [sequences * Hkv]
};

/// dq of one row as it should be, and its noise.
struct QueryGradient {
  std::vector<reference::KeyRange> visible;
  Vector expected;
  reference::GradientNoise noise;
  const reference::KeyValues& keys;

  reference::Covariance covariance() const { return {noise.errors, keys.k, visible, expected, noise.noise.rounding}; }
};

class AttentionJudge {
 public:
  /// The selections that a row may have used, where the kernel does not say.
  using Candidates =
      std::function<std::vector<Blocks>(const reference::Sequence& sequence, std::int64_t token, std::int64_t head)>;

  /// arithmetic must outlive the judge.
  AttentionJudge(const reference::Arithmetic& arithmetic, AttentionStage stage);
  AttentionJudge(const AttentionJudge&) = delete;

  /// Leaves the row out of everything that follows: its selection is malformed.
  void exclude(std::int64_t token, std::int64_t head);

  /// o and lse, each row on its selection. Where there are candidates: on every one, of which the first that fits is
  /// taken as the one the row used, and its gradients are undecided where others fit as well; a row without any is
  /// undecided, and one that is not judged has none. zero_mean_values: whether the direction test decides.
  void judge_outputs(const Candidates& candidates, bool zero_mean_values, const RowObserver& observe,
                     CaseResult& result);

  /// Why the backward cannot be judged on what the forward gave; empty when it can.
  std::string why_no_backward() const;
  /// Likewise, because exp(score - lse) or what it is multiplied by may be larger than the arithmetic holds; empty when
  /// nothing is. Tag A8.
  std::string why_gradients_overflow(const reference::Tensor& d_o) const;

  /// Begins the backward: d_o [query tokens, H, dv], which must outlive the judge. To be called before what follows.
  void begin_backward(const reference::Tensor& d_o);
  /// dq of one row, whose arithmetic may round otherwise than the rest.
  QueryGradient query_gradient(const reference::Arithmetic& arithmetic, std::int64_t sequence, std::int64_t token,
                               std::int64_t head) const;
  /// dq, each row from the o, lse and selection that the backward was given.
  void judge_query_gradients(const TensorView& dq, const RowObserver& observe, CaseResult& result) const;
  /// dk and dv, chunk by chunk, each key summed over all query rows that see it.
  void judge_key_gradients(const TensorView& dk, const TensorView& dv, const RowObserver& observe,
                           CaseResult& result) const;

  const AttentionStage& stage() const { return stage_; }

 private:
  /// ambiguous: o and lse fit several selections, so that nobody knows what the gradients should be.
  enum class RowState : char { usable, excluded, undecided, ambiguous };

  /// o and lse of one row, compared on one selection.
  struct ForwardRow;

  /// How far an lse that the kernel keeps to itself may be from the judge's.
  struct LseError {
    double variance = 0, worst = 0;
  };

  RowState& state(std::int64_t token, std::int64_t head) {
    return states_[static_cast<std::size_t>(token * stage_.problem.heads + head)];
  }
  std::vector<reference::KeyRange> visible(const reference::Sequence& sequence, std::int64_t token,
                                           std::span<const std::int32_t> blocks) const;
  ForwardRow compare(const reference::Sequence& sequence, std::int64_t token, std::int64_t head,
                     std::span<const std::int32_t> blocks) const;
  std::optional<ForwardRow> compare_candidates(const reference::Sequence& sequence, std::int64_t token,
                                               std::int64_t head, const std::vector<Blocks>& candidates);
  /// Fills lse where the kernel keeps its own to itself.
  void supply_lse();
  void add_directions(DirectionTest& test, bool zero_mean_values, CaseResult& result) const;
  /// The keys that are judged, in runs within chunks.
  std::vector<KeyChunk> judged_chunks(const reference::Sequence& sequence, std::int64_t kv_head) const;
  /// Tells the observer of the sums over the keys of every sequence and kv head.
  void observe_key_sums(const RowObserver& observe) const;
  void judge_chunk(const KeyChunk& chunk, const reference::Sequence& sequence, std::int64_t kv_head,
                   const std::vector<QueryRow>& selecting, const TensorView& dk_view, const TensorView& dv_view,
                   Tally& dk, Tally& dv) const;

  /// What the backward of a query row is given, and its gradients over some of its keys.
  struct BackwardRow;
  BackwardRow backward_row(const reference::Sequence& sequence, std::int64_t token, std::int64_t head,
                           std::span<const reference::KeyRange> visible) const;
  reference::RowDelta delta(std::int64_t token, std::int64_t head) const;
  void add_softmax_deltas();
  /// What multiplies the sums that dq and dk are: sigma, unless their other operand holds it already. T1.
  double scale_of_dq() const;
  double scale_of_dk() const;
  bool is_own_block(const reference::Sequence& sequence, std::int64_t token, std::int64_t block) const;
  /// The parts of dq that its ranges are in, and the part of dk and dv that a row adds to a block: E7. Empty, and
  /// nothing: the declared arithmetic stores no parts.
  std::vector<int> query_parts(const reference::Sequence& sequence, std::int64_t token,
                               std::span<const reference::KeyRange> visible) const;
  std::optional<int> key_part(const reference::Sequence& sequence, const QueryRow& row, std::int64_t block) const;

  const reference::Arithmetic& arithmetic_;
  AttentionStage stage_;
  std::vector<reference::Sequence> sequences_;
  reference::Operand v_;
  AttentionOperands forward_;
  std::optional<AttentionOperands> backward_;
  const reference::Tensor* d_o_ = nullptr;           // as delta reads it
  std::optional<reference::Operand> d_o_operand_;    // as products read it
  std::vector<reference::RowDelta> softmax_deltas_;  // [query tokens * H], of the rows that are read; or empty
  std::vector<RowState> states_;                     // [query tokens * H]
  std::vector<LseError> lse_errors_;                 // [query tokens * H]; empty: lse is the kernel's
  std::set<std::tuple<std::int64_t, std::int64_t, std::int32_t>>
      ambiguous_blocks_;  // (sequence, kv head, block), which an ambiguous row may have selected
};

}  // namespace attnspec::verify
