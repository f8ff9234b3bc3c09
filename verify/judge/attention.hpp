// Judging one attention: o and lse on the kernel's own selection, gradients on the o and lse that the backward was
// given.
#pragma once

#include <cstdint>
#include <functional>
#include <optional>
#include <span>
#include <string>
#include <vector>

#include "reference/attention_noise.hpp"
#include "reference/gradient_noise.hpp"
#include "reference/selected.hpp"
#include "verify/judge/tally.hpp"
#include "verify/selection.hpp"
#include "verify/storage.hpp"

namespace attnspec::verify {

/// An attention that a kernel computed: an operator, or a branch of nsa.
struct AttentionStage {
  std::string branch;                   // "" or the branch
  reference::AttentionProblem problem;  // over the rows of k and v
  std::int64_t block;                   // in such rows
  reference::Reach reach;
  const reference::Tensor &q, &k, &v;  // as the kernel had them
  reference::Selection selection;      // the kernel's, or the one it was given
  TensorView o, lse;                   // the kernel's
  JudgedRows queries, keys;            // the rows of o, lse and dq, and those of dk and dv, that are judged
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

  /// Leaves the row out of everything that follows: its selection is malformed.
  void exclude(std::int64_t token, std::int64_t head);

  /// o and lse, each row on its selection. Where there are candidates: on every one, of which the first that fits is
  /// taken as the one the row used; a row without any is undecided, and one that is not judged has none.
  /// zero_mean_values: whether the direction test decides.
  void judge_outputs(const Candidates& candidates, bool zero_mean_values, const RowObserver& observe,
                     CaseResult& result);

  /// Why the backward cannot be judged on what the forward gave; empty when it can.
  std::string why_no_backward() const;
  /// Likewise, because exp(score - lse) or what it is multiplied by may be larger than the arithmetic holds; empty when
  /// nothing is. Tag A8.
  std::string why_gradients_overflow(const reference::Tensor& d_o) const;

  /// dq of one row, whose arithmetic may round otherwise than the rest.
  QueryGradient query_gradient(const reference::Arithmetic& arithmetic, std::int64_t sequence, std::int64_t token,
                               std::int64_t head, const reference::Tensor& d_o) const;
  /// dq, each row from the o, lse and selection that the backward was given.
  void judge_query_gradients(const reference::Tensor& d_o, const TensorView& dq, const RowObserver& observe,
                             CaseResult& result) const;
  /// dk and dv, chunk by chunk, each key summed over all query rows that see it.
  void judge_key_gradients(const reference::Tensor& d_o, const TensorView& dk, const TensorView& dv,
                           const RowObserver& observe, CaseResult& result) const;

  const AttentionStage& stage() const { return stage_; }

 private:
  enum class RowState : char { usable, excluded, undecided };

  /// o and lse of one row, compared on one selection.
  struct ForwardRow;

  RowState& state(std::int64_t token, std::int64_t head) {
    return states_[static_cast<std::size_t>(token * stage_.problem.heads + head)];
  }
  const reference::KeyValues& keys(const reference::Sequence& sequence, std::int64_t kv_head) const {
    return *keys_[static_cast<std::size_t>(sequence.index * stage_.problem.kv_heads + kv_head)];
  }
  reference::RowInputs row_inputs(const reference::Sequence& sequence, std::int64_t token, std::int64_t head,
                                  std::span<const reference::KeyRange> visible) const;
  std::vector<reference::KeyRange> visible(const reference::Sequence& sequence, std::int64_t token,
                                           std::span<const std::int32_t> blocks) const;
  ForwardRow compare(const reference::Sequence& sequence, std::int64_t token, std::int64_t head,
                     std::span<const std::int32_t> blocks) const;
  std::optional<ForwardRow> compare_candidates(const reference::Sequence& sequence, std::int64_t token,
                                               std::int64_t head, const std::vector<Blocks>& candidates);
  void add_directions(DirectionTest& test, bool zero_mean_values, CaseResult& result) const;
  /// The keys that are judged, in runs within chunks.
  std::vector<reference::KeyChunk> judged_chunks(const reference::Sequence& sequence, std::int64_t kv_head) const;
  void judge_chunk(const reference::KeyChunk& chunk, const reference::Sequence& sequence, std::int64_t kv_head,
                   const std::vector<reference::QueryRow>& selecting, const reference::Tensor& d_o,
                   const TensorView& dk_view, const TensorView& dv_view, Tally& dk, Tally& dv) const;

  const reference::Arithmetic& arithmetic_;
  AttentionStage stage_;
  std::vector<reference::Sequence> sequences_;
  std::vector<std::optional<reference::KeyValues>> keys_;  // [sequences * Hkv]
  std::vector<RowState> states_;                           // [query tokens * H]
};

}  // namespace attnspec::verify
