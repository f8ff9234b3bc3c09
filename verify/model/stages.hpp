// The model kernel: MoBA's five steps (report, section 2.3 and algorithm 1) and the matching backward, on the CPU, in
// declared arithmetic: inputs and products in the arithmetic's formats, fp32 accumulation, key tiles with online
// softmax.
//
// NSA's compressed attention and window are step 3 with one block that holds all rows and masks of their own; selection
// by importance follows. Compression (the paper, section 3.3.1) comes before it, gates weigh the three branches after
// it.
//
// It is written as a kernel would be, and shares no formula with the reference. It is a struct of stage functions, so
// that a planted defect is the same struct with one stage replaced.
#pragma once

#include <array>
#include <cstddef>
#include <cstdint>
#include <vector>

#include "reference/noise/noise.hpp"
#include "reference/problem.hpp"
#include "verify/cases/case.hpp"
#include "verify/model/calls.hpp"
#include "verify/model/products.hpp"
#include "verify/operators/phi.hpp"
#include "verify/run/kernel.hpp"
#include "verify/run/storage.hpp"

namespace attnspec::verify::model {

using reference::MobaProblem;
using reference::NsaProblem;
using reference::ScaledOperand;

/// One (sequence, query head), or in the backward one (sequence, kv head): rows of fp32, contiguous.
struct Rows {
  std::int64_t count = 0, dim = 0;
  std::vector<float> values;  // [count, dim]

  Rows() = default;
  Rows(std::int64_t rows, std::int64_t features)
      : count(rows), dim(features), values(static_cast<std::size_t>(rows * features)) {}
  float* row(std::int64_t i) { return values.data() + i * dim; }
  const float* row(std::int64_t i) const { return values.data() + i * dim; }
};

/// A block's keys or values in tiles of kTile rows, transposed for products along the features.
inline constexpr std::int64_t kTile = 32;

/// What one head's work needs to know.
struct Work {
  Operator op;
  const MobaProblem& problem;
  const NsaProblem& nsa;
  const Arithmetic& arithmetic;
  std::int64_t num_queries;
  std::int64_t num_tokens;  // of the sequence
  std::int64_t num_keys;    // rows of k: its tokens, or its compressed rows
  bool is_backward;

  /// Position of query i among the tokens.
  std::int64_t position(std::int64_t i) const { return num_tokens - num_queries + i; }
  std::int64_t num_blocks() const { return (num_keys + problem.block - 1) / problem.block; }
  std::int64_t block_begin(std::int64_t b) const { return b * problem.block; }
  std::int64_t block_end(std::int64_t b) const { return b == num_blocks() - 1 ? num_keys : (b + 1) * problem.block; }
  /// Which operand of the scores holds the softmax scale.
  ScaledOperand scaled_operand() const {
    return arithmetic.scaled_operand == ScaledOperand::k && !is_backward ? ScaledOperand::none
                                                                         : arithmetic.scaled_operand;
  }
};

using Blocks = std::vector<std::int32_t>;

/// Writes the blocks of a row, and -1 behind them.
void write_row(const SelectionView& selection, std::int64_t token, std::int64_t head, const Blocks& blocks);

/// Products of one token's index queries with the index keys that it sees: [index heads][keys].
using IndexProducts = std::vector<std::vector<float>>;

/// Attention of one query over one block: what the merge combines.
struct Partial {
  std::int64_t query;
  std::vector<float> o;  // [dv], normalised within the block, in the arithmetic's format of partial outputs
  float lse;
};

/// One block and the queries that attend to it.
struct BlockQueries {
  std::int64_t block;
  std::vector<std::int64_t> queries;
};

/// Accumulators of the backward, fp32.
struct Gradients {
  Rows dq, dk, dv;
};

/// The rows that one block's backward reads; q or k may hold the softmax scale.
struct BackwardRows {
  const Rows &q, &k, &v, &d_o;
  const std::vector<float>&lse, &delta;
  std::int64_t head_in_group;  // of these queries: 0 .. H / Hkv - 1
};

/// What the compression of one sequence needs to know.
struct CompressWork {
  const NsaProblem& nsa;
  const Arithmetic& arithmetic;
  std::int64_t first_token, num_tokens;  // of the sequence, in the packed tensor
  std::int64_t first_row, num_rows;      // of its compressed rows, likewise
};

/// phi's parameters for one kv head, in fp32.
using Parameters = PhiTensors<Rows>;

/// Sums of their gradients.
struct ParameterSums : Parameters {
  Rows bias;  // [1, features]: of the row that position_bias adds to every compressed row
};

/// The branches of NSA, in the order of a row's gates.
enum class Branch { compressed, selected, window };
template <class T>
using PerBranch = std::array<T, 3>;

struct Stages {
  // Before step 1: which kv head a query head reads, and tokens begin .. end - 1 of one head, in fp32.
  std::int64_t (*kv_head)(const MobaProblem&, std::int64_t h);
  Rows (*load)(const TensorView& from, std::int64_t begin, std::int64_t end, std::int64_t head);
  // The slots of a row of a selection that is given.
  Blocks (*load_blocks)(const SelectionView& from, std::int64_t token, std::int64_t head);
  // Step 1, assign: mean keys, gate scores, the blocks of each query.
  Rows (*pool)(const Work&, const Rows& k);
  float (*score)(const Work&, const float* q, const float* mean);
  Blocks (*select)(const Work&, const std::vector<float>& scores, std::int64_t t);
  // Step 2, order: the queries of each block.
  std::vector<BlockQueries> (*order)(const Work&, const std::vector<Blocks>& selected);
  // Step 3, attend within one block; scale is the softmax scale, exp that of all weights, is_visible masks tokens. q
  // may hold the scale: see score_factor.
  double (*scale)(const Work&);
  float (*exp)(float x);
  bool (*is_visible)(const Work&, std::int64_t t, std::int64_t j);
  std::vector<Partial> (*attend)(const Stages&, const Work&, const BlockQueries&, const Rows& q, const Rows& k,
                                 const Rows& v);
  // NSA beside its attention: what the compressed rows' scores say of the blocks, summed over the heads of a group, and
  // the blocks taken. scores [m], lse: of one head; importance [c + 1].
  void (*add_importance)(const Work&, const std::vector<float>& scores, float lse, std::vector<float>& importance);
  Blocks (*select_important)(const Work&, const std::vector<float>& importance);
  // Selectors with an indexer, for the query at position t: how many index keys it sees; in MSA what the blocks are
  // worth to each index head, which takes them as `select` does; in DSA and QSA the score of each index key, by the
  // weights of the heads, and the tokens or the blocks taken.
  std::int64_t (*num_index_keys)(const Work&, std::int64_t t);
  IndexProducts (*block_worth)(const Work&, const IndexProducts&);
  std::vector<float> (*add_index_heads)(const Work&, const IndexProducts&, const std::vector<float>& w);
  Blocks (*select_tokens)(const Work&, const std::vector<float>& scores);
  Blocks (*select_complete)(const Work&, const std::vector<float>& scores, std::int64_t t);
  // Step 4, restore the order of the queries.
  std::vector<std::vector<Partial>> (*restore)(const Work&, std::vector<Partial> partials);
  // Step 5, merge one query's partials with online softmax, and store its o and lse.
  Partial (*merge)(const Work&, const std::vector<Partial>& partials);
  void (*store_output)(const Work&, const Partial& merged, const TensorView& o, const TensorView& lse,
                       std::int64_t token, std::int64_t head);
  // Backward: delta of every row of one head, for which rows.delta is empty and o has no rows where it is not read;
  // then one block with its queries, then the gradients of one head from its first token; store_keys stores dk and dv.
  std::vector<float> (*delta)(const Stages&, const Work&, const std::vector<BlockQueries>& lists,
                              const BackwardRows& rows, const Rows& o);
  void (*attend_backward)(const Stages&, const Work&, const BlockQueries&, const BackwardRows&, Gradients& sums);
  void (*store)(const Rows&, const TensorView& to, std::int64_t begin, std::int64_t head, float factor);
  void (*store_keys)(const Stages&, const Work&, const Rows&, const TensorView& to, std::int64_t begin, std::int64_t g);
  // Compression: the first token of block i in the packed tensor, its tokens, what phi reads for kv head g, its
  // activation, and one row from the tokens x [l, features] of its block.
  std::int64_t (*block_start)(const CompressWork&, std::int64_t i);
  Rows (*load_block)(const Stages&, const CompressWork&, const TensorView& tokens, std::int64_t i, std::int64_t g);
  Parameters (*load_parameters)(const NsaProblem&, const PhiTensors<TensorView>& phi, std::int64_t g);
  float (*activation)(reference::Activation kind, float x);
  std::vector<float> (*compress)(const Stages&, const CompressWork&, const Parameters& phi, const Rows& x);
  // Backward of compression: the activation's derivative; the gradients of one block's tokens, adding those of the
  // parameters; their sum over the blocks of a token, from `begin` on; the sum over the kv heads that share parameters;
  // the gradients of the parameters from these sums.
  float (*slope)(reference::Activation kind, float x);
  Rows (*compress_backward)(const Stages&, const CompressWork&, const Parameters& phi, const Rows& x,
                            const std::vector<float>& d_row, ParameterSums& sums);
  void (*add_to_tokens)(const Rows& d_x, std::int64_t begin, Rows& sums);
  void (*add_to_parameters)(const Arithmetic&, const ParameterSums& of_head, ParameterSums& sums);
  void (*finish_parameters)(const NsaProblem&, const Arithmetic&, const Parameters& phi, ParameterSums& sums);
  // NSA as a whole: what the attention of a branch reads and writes, and what its backward reads. Then, for all rows of
  // one query head, with gates [rows, 3]: the sum of the branches, the gradient of one branch's output, the gradients
  // of the gates, and dq.
  BranchCall (*branch)(const NsaCall&, Branch);
  BranchCall (*branch_backward)(const NsaCall&, Branch);
  Rows (*combine)(const Rows& gates, const PerBranch<Rows>& o);
  Rows (*branch_gradient)(const Rows& gates, const Rows& d_o, Branch);
  Rows (*gate_gradients)(const Rows& gates, const Rows& d_o, const PerBranch<Rows>& o);
  Rows (*add_queries)(const Arithmetic&, const PerBranch<Rows>& dq);
};

/// Rows of q or of k as the products with them take them: where this operand holds the softmax scale, multiplied by it
/// and rounded.
Rows operand_rows(const Stages& stages, const Work& work, ScaledOperand which, Rows rows);

/// What a product of such rows is multiplied by to be a score.
float score_factor(const Stages& stages, const Work& work);

/// What sums of dS times rows of q or of k are multiplied by to be dk or dq.
float gradient_factor(const Work& work, ScaledOperand which);

/// The stages as the report has them.
const Stages& correct_stages();

}  // namespace attnspec::verify::model
