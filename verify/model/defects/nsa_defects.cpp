#include <algorithm>
#include <cmath>
#include <limits>
#include <numeric>

#include "verify/model/defects/planting.hpp"

namespace attnspec::verify::model {

namespace {

/// Mistakes in the mask of a window: of nsa's other branches the masks are right.
bool sees_one_key_before_the_window(const Work& work, std::int64_t t, std::int64_t j) {
  return correct_stages().is_visible(work, t, j) || (has_window(work.op) && j <= t && t - j == work.nsa.window);
}

bool misses_the_first_key_of_the_window(const Work& work, std::int64_t t, std::int64_t j) {
  return correct_stages().is_visible(work, t, j) && (!has_window(work.op) || j == t || t - j < work.nsa.window - 1);
}

bool has_no_window(const Work& work, std::int64_t t, std::int64_t j) {
  return has_window(work.op) ? j <= t : correct_stages().is_visible(work, t, j);
}

/// Mistakes in the mask of compressed rows, likewise.
bool sees_rows_that_have_begun(const Work& work, std::int64_t t, std::int64_t j) {
  return has_importance(work.op) ? j * work.nsa.compress_stride <= t : correct_stages().is_visible(work, t, j);
}

bool sees_rows_whose_stride_is_over(const Work& work, std::int64_t t, std::int64_t j) {
  return has_importance(work.op) ? (j + 1) * work.nsa.compress_stride - 1 <= t
                                 : correct_stages().is_visible(work, t, j);
}

bool hides_the_row_that_ends_at_the_query(const Work& work, std::int64_t t, std::int64_t j) {
  return correct_stages().is_visible(work, t, j) &&
         (!has_importance(work.op) || j * work.nsa.compress_stride + work.nsa.compress_block - 1 < t);
}

/// Weights of rows that are seen too early would fall into blocks that the query has not begun; they are lost.
void add_importance_of_begun_blocks(const Work& work, const std::vector<float>& scores, float lse,
                                    std::vector<float>& importance) {
  std::vector<float> all(importance.size() + static_cast<std::size_t>(work.nsa.compress_block));
  std::copy(importance.begin(), importance.end(), all.begin());
  correct_stages().add_importance(work, scores, lse, all);
  std::copy_n(all.begin(), importance.size(), importance.begin());
}

/// The stages of NSA's compressed attention with compressed rows visible too early.
Stages seeing_early(bool (*is_visible)(const Work&, std::int64_t, std::int64_t)) {
  Stages stages = with(&Stages::is_visible, is_visible);
  stages.add_importance = &add_importance_of_begun_blocks;
  return stages;
}

Partial merge_dividing_by_zero(const Work& work, const std::vector<Partial>& partials) {
  Partial merged = correct_stages().merge(work, partials);
  if (partials.empty())
    for (float& x : merged.o) x = std::numeric_limits<float>::quiet_NaN();
  return merged;
}

void attend_backward_without_the_window(const Stages& stages, const Work& work, const BlockQueries& list,
                                        const BackwardRows& rows, Gradients& sums) {
  Stages causal = stages;
  causal.is_visible = has_no_window;
  correct_stages().attend_backward(causal, work, list, rows, sums);
}

/// Eq. 9 with some reading of its indices: block j adds up p[l'/d j + sign (m + n)] for m < l'/d, n < l/d.
void add_by_indices(const Work& work, const std::vector<float>& scores, float lse, std::vector<float>& importance,
                    std::int64_t sign) {
  const std::int64_t ratio = work.nsa.block / work.nsa.compress_stride;
  for (std::int64_t j = 0; j < std::ssize(importance); ++j) {
    for (std::int64_t m = 0; m < ratio; ++m) {
      for (std::int64_t n = 0; n < work.nsa.compress_block / work.nsa.compress_stride; ++n) {
        const std::int64_t i = ratio * j + sign * (m + n);
        if (i >= 0 && i < std::ssize(scores))
          importance[static_cast<std::size_t>(j)] += std::exp(scores[static_cast<std::size_t>(i)] - lse);
      }
    }
  }
}

void add_importance_minus(const Work& work, const std::vector<float>& scores, float lse,
                          std::vector<float>& importance) {
  add_by_indices(work, scores, lse, importance, -1);
}

void add_importance_plus(const Work& work, const std::vector<float>& scores, float lse,
                         std::vector<float>& importance) {
  add_by_indices(work, scores, lse, importance, 1);
}

void add_largest_weight(const Work& work, const std::vector<float>& scores, float lse, std::vector<float>& importance) {
  std::vector<float> largest(importance.size());
  for (std::int64_t i = 0; i < std::ssize(scores); ++i) {
    const std::int64_t begin = i * work.nsa.compress_stride, end = begin + work.nsa.compress_block;
    const float p = std::exp(scores[static_cast<std::size_t>(i)] - lse);
    for (std::int64_t j = begin / work.nsa.block; j * work.nsa.block < end; ++j)
      largest[static_cast<std::size_t>(j)] = std::max(largest[static_cast<std::size_t>(j)], p);
  }
  for (std::size_t j = 0; j < importance.size(); ++j) importance[j] += largest[j];
}

void add_first_head_only(const Work& work, const std::vector<float>& scores, float lse,
                         std::vector<float>& importance) {
  if (std::all_of(importance.begin(), importance.end(), [](float x) { return x == 0; }))
    correct_stages().add_importance(work, scores, lse, importance);
}

void add_first_tile_only(const Work& work, const std::vector<float>& scores, float lse,
                         std::vector<float>& importance) {
  const auto tile = static_cast<std::ptrdiff_t>(std::min<std::size_t>(scores.size(), 16));
  correct_stages().add_importance(work, {scores.begin(), scores.begin() + tile}, lse, importance);
}

void add_logits(const Work& work, const std::vector<float>& scores, float, std::vector<float>& importance) {
  for (std::size_t i = 0; i < scores.size(); ++i)
    importance[i * static_cast<std::size_t>(work.nsa.compress_stride) / static_cast<std::size_t>(work.nsa.block)] +=
        scores[i];
}

void add_in_half(const Work& work, const std::vector<float>& scores, float lse, std::vector<float>& importance) {
  correct_stages().add_importance(work, scores, lse, importance);
  for (float& x : importance) x = static_cast<float>(reference::round_to(x, reference::Format::fp16));
}

/// The selection with other numbers of forced blocks.
Blocks select_forcing(const Work& work, const std::vector<float>& importance, std::int64_t initial,
                      std::int64_t local) {
  NsaProblem nsa = work.nsa;
  nsa.initial_blocks = initial;
  nsa.local_blocks = local;
  return correct_stages().select_important(on(work, work.problem, nsa), importance);
}

Blocks select_without_initial_blocks(const Work& work, const std::vector<float>& importance) {
  return select_forcing(work, importance, 0, work.nsa.local_blocks);
}

Blocks select_with_the_own_block_only(const Work& work, const std::vector<float>& importance) {
  return select_forcing(work, importance, work.nsa.initial_blocks, 1);
}

Blocks select_filling_with_block_zero(const Work& work, const std::vector<float>& importance) {
  Blocks blocks = correct_stages().select_important(work, importance);
  blocks.resize(static_cast<std::size_t>(work.nsa.top_n), 0);
  return blocks;
}

std::int64_t block_start_side_by_side(const CompressWork& work, std::int64_t i) {
  return work.first_token + std::min(i * work.nsa.compress_block, work.num_tokens - work.nsa.compress_block);
}

std::int64_t block_start_across_sequences(const CompressWork& work, std::int64_t i) {
  return (work.first_row + i) * work.nsa.compress_stride;
}

Parameters load_without_position(const NsaProblem& nsa, const PhiTensors<TensorView>& phi, std::int64_t g) {
  Parameters parameters = correct_stages().load_parameters(nsa, phi, g);
  parameters.position = Rows(parameters.position.count, parameters.position.dim);
  return parameters;
}

Parameters load_without_biases(const NsaProblem& nsa, const PhiTensors<TensorView>& phi, std::int64_t g) {
  Parameters parameters = correct_stages().load_parameters(nsa, phi, g);
  for (Rows* bias : {&parameters.b1, &parameters.b2}) *bias = Rows(bias->count, bias->dim);
  return parameters;
}

Parameters load_those_of_the_first_head(const NsaProblem& nsa, const PhiTensors<TensorView>& phi, std::int64_t) {
  return correct_stages().load_parameters(nsa, phi, 0);
}

/// Row s features + f of the weights is read from row f l + s.
Parameters load_feature_by_feature(const NsaProblem& nsa, const PhiTensors<TensorView>& phi, std::int64_t g) {
  Parameters parameters = correct_stages().load_parameters(nsa, phi, g);
  const std::int64_t l = parameters.position.count, features = parameters.position.dim;
  for (Rows* weights : {&parameters.w, &parameters.w1}) {
    const Rows stored = *weights;
    for (std::int64_t r = 0; r < stored.count; ++r)
      std::copy_n(stored.row(r % features * l + r / features), stored.dim, weights->row(r));
  }
  return parameters;
}

std::vector<float> compress_over_the_stride(const Stages& stages, const CompressWork& work, const Parameters& phi,
                                            const Rows& x) {
  std::vector<float> row = correct_stages().compress(stages, work, phi, x);
  if (work.nsa.phi == reference::Phi::mean)
    for (float& f : row) f *= static_cast<float>(x.count) / static_cast<float>(work.nsa.compress_stride);
  return row;
}

float gelu_by_tanh(reference::Activation kind, float x) {
  if (kind != reference::Activation::gelu) return correct_stages().activation(kind, x);
  return 0.5f * x * (1 + std::tanh(0.79788456f * (x + 0.044715f * x * x * x)));
}

float no_slope(reference::Activation, float) { return 1; }

float silu_slope_without_product_rule(reference::Activation kind, float x) {
  return kind == reference::Activation::silu ? 1 / (1 + std::exp(-x)) : correct_stages().slope(kind, x);
}

Rows compress_backward_without_position(const Stages& stages, const CompressWork& work, const Parameters& phi,
                                        const Rows& x, const std::vector<float>& d_row, ParameterSums& sums) {
  const Rows position = sums.position;
  const Rows d_x = correct_stages().compress_backward(stages, work, phi, x, d_row, sums);
  sums.position = position;
  return d_x;
}

void finish_parameters_without_position(const NsaProblem& nsa, const Arithmetic& arithmetic, const Parameters& phi,
                                        ParameterSums& sums) {
  const Rows position = sums.position;
  correct_stages().finish_parameters(nsa, arithmetic, phi, sums);
  sums.position = position;
}

/// The stages of compression with a position encoding that has no gradient, whether it is added to tokens or is a bias.
Stages without_position_gradient() {
  Stages stages = with(&Stages::compress_backward, &compress_backward_without_position);
  stages.finish_parameters = &finish_parameters_without_position;
  return stages;
}

void overwrite_tokens(const Rows& d_x, std::int64_t begin, Rows& sums) {
  std::copy(d_x.values.begin(), d_x.values.end(), sums.row(begin));
}

void overwrite_parameters(const Arithmetic&, const ParameterSums& of_head, ParameterSums& sums) { sums = of_head; }

BranchCall branch_on_shared_tokens(const NsaCall& call, Branch branch) {
  BranchCall result = correct_stages().branch(call, branch);
  if (branch == Branch::compressed) return result;
  result.k = call.compressed.k;
  result.v = call.compressed.v;
  return result;
}

BranchCall branch_with_lse_of_selected(const NsaCall& call, Branch branch) {
  BranchCall result = correct_stages().branch_backward(call, branch);
  if (branch == Branch::window) result.lse = call.selected.lse;
  return result;
}

Rows combine_with_gates_swapped(const Rows& gates, const PerBranch<Rows>& o) {
  return correct_stages().combine(gates, {o[0], o[2], o[1]});
}

Rows combine_with_gates_normalised(const Rows& gates, const PerBranch<Rows>& o) {
  Rows normalised = gates;
  for (std::int64_t i = 0; i < gates.count; ++i) {
    const float sum = std::accumulate(gates.row(i), gates.row(i) + gates.dim, 0.0f);
    for (std::int64_t b = 0; sum != 0 && b < gates.dim; ++b) normalised.row(i)[b] /= sum;
  }
  return correct_stages().combine(normalised, o);
}

Rows combine_with_gates_clamped(const Rows& gates, const PerBranch<Rows>& o) {
  Rows clamped = gates;
  for (float& g : clamped.values) g = std::clamp(g, 0.0f, 1.0f);
  return correct_stages().combine(clamped, o);
}

Rows combine_after_another_sigmoid(const Rows& gates, const PerBranch<Rows>& o) {
  Rows squashed = gates;
  for (float& g : squashed.values) g = 1 / (1 + std::exp(-g));
  return correct_stages().combine(squashed, o);
}

Rows branch_gradient_without_gate(const Rows& gates, const Rows& d_o, Branch branch) {
  return branch == Branch::window ? d_o : correct_stages().branch_gradient(gates, d_o, branch);
}

Rows gate_gradients_of_the_sum(const Rows& gates, const Rows& d_o, const PerBranch<Rows>& o) {
  const Rows sum = correct_stages().combine(gates, o);
  return correct_stages().gate_gradients(gates, d_o, {sum, sum, sum});
}

Rows add_queries_without_compressed(const Arithmetic& arithmetic, const PerBranch<Rows>& dq) {
  const Rows none(dq[0].count, dq[0].dim);
  return correct_stages().add_queries(arithmetic, {none, dq[1], dq[2]});
}

Rows keep_the_last_queries(const Arithmetic&, const PerBranch<Rows>& dq) { return dq.back(); }

}  // namespace

std::vector<Defect> nsa_defects() {
  return {
      {"window_of_one_more", "the window holds w + 1 keys", "window", "more than w keys",
       "k_{t-w:t} read with both ends included", Operator::window,
       with(&Stages::is_visible, &sees_one_key_before_the_window)},
      {"window_of_one_less", "the window holds w - 1 keys", "window", "w above 1",
       "an off-by-one at the window's start", Operator::window,
       with(&Stages::is_visible, &misses_the_first_key_of_the_window)},
      {"window_without_start", "the window is the whole past", "window", "more than w keys",
       "only the causal side of the mask is applied", Operator::window, with(&Stages::is_visible, &has_no_window)},
      {"backward_without_window", "the forward masks by the window, the backward by causality alone", "window",
       "more than w keys", "two masks written twice", Operator::window,
       with(&Stages::attend_backward, &attend_backward_without_the_window)},
      {"compressed_from_its_start", "a compressed row is visible from its first token on", "visibility",
       "a query within a compression block", "block start against block end", Operator::nsa_compressed,
       seeing_early(&sees_rows_that_have_begun)},
      {"compressed_from_its_stride", "a compressed row is visible once its first d tokens are", "visibility",
       "l above d", "(i + 1) d - 1 <= t in a public reference", Operator::nsa_compressed,
       seeing_early(&sees_rows_whose_stride_is_over)},
      {"compressed_strictly_past", "a compressed row is hidden from the query at its last token", "visibility",
       "a query at the end of a compression block", "< for <=", Operator::nsa_compressed,
       with(&Stages::is_visible, &hides_the_row_that_ends_at_the_query)},
      {"nothing_visible_is_nan", "rows without a visible compressed row divide 0 by 0", "empty rows", "t < l - 1",
       "softmax over nothing", Operator::nsa_compressed, with(&Stages::merge, &merge_dividing_by_zero)},
      {"compressed_lse_in_base_two", "lse is returned in base 2", "merge", "any", "kernels that compute with exp2",
       Operator::nsa_compressed, with(&Stages::merge, &merge_with_base_two_lse)},
      {"importance_minus", "eq. 9 with its 1-based indices counted from 0", "selection", "l' above d",
       "- m - n read literally", Operator::nsa_compressed, with(&Stages::add_importance, &add_importance_minus)},
      {"importance_plus", "eq. 9 with + m + n", "selection", "l above d", "the mirrored reading of eq. 9",
       Operator::nsa_compressed, with(&Stages::add_importance, &add_importance_plus)},
      {"importance_largest", "a block is as important as its largest weight", "selection",
       "several compressed rows in a block", "max pooling in a public kernel", Operator::nsa_compressed,
       with(&Stages::add_importance, &add_largest_weight)},
      {"importance_of_one_head", "the first head of a group decides for all", "grouped heads", "group above 1",
       "a public reference", Operator::nsa_compressed, with(&Stages::add_importance, &add_first_head_only)},
      {"importance_of_one_tile", "only the first 16 compressed rows are weighed", "tiles",
       "more than 16 compressed rows", "an importance kernel that always reads key tile 0", Operator::nsa_compressed,
       with(&Stages::add_importance, &add_first_tile_only)},
      {"importance_of_logits", "scores are added up instead of their softmax", "selection", "any",
       "a public implementation", Operator::nsa_compressed, with(&Stages::add_importance, &add_logits)},
      {"importance_in_half", "importances are kept in fp16", "selection", "importances that differ by less than 2^-11",
       "public kernels", Operator::nsa_compressed, with(&Stages::add_importance, &add_in_half)},
      {"initial_blocks_not_forced", "the first blocks compete like any other", "selection", "initial blocks",
       "readings of \"1 initial block\"", Operator::nsa_compressed,
       with(&Stages::select_important, &select_without_initial_blocks)},
      {"own_block_only_forced", "of the local blocks only the query's own is forced", "selection",
       "more than one local block", "readings of \"2 local blocks\"", Operator::nsa_compressed,
       with(&Stages::select_important, &select_with_the_own_block_only)},
      {"empty_slot_is_block_zero", "slots that stay empty name block 0", "selection", "fewer visible blocks than n",
       "unselectable slots written as 0", Operator::nsa_compressed,
       with(&Stages::select_important, &select_filling_with_block_zero)},
      {"blocks_side_by_side", "compression blocks start every l tokens", "compression",
       "l above d, a sequence of at least l + d tokens", "l taken for the stride", Operator::nsa_compress,
       with(&Stages::block_start, &block_start_side_by_side)},
      {"blocks_across_sequences", "compression blocks are counted on from one sequence into the next", "packing",
       "two sequences, the first with tokens after its last block or l above d", "d times the row's packed index",
       Operator::nsa_compress, with(&Stages::block_start, &block_start_across_sequences)},
      {"position_forgotten", "phi reads the tokens without their position encoding", "compression", "phi linear or mlp",
       "implementations without an encoding", Operator::nsa_compress,
       with(&Stages::load_parameters, &load_without_position)},
      {"biases_forgotten", "both layers of the MLP have no bias", "compression", "phi mlp", "layers made without bias",
       Operator::nsa_compress, with(&Stages::load_parameters, &load_without_biases)},
      {"phi_of_the_first_head", "every kv head is compressed by the parameters of the first", "grouped heads",
       "phi linear or mlp, per head, several kv heads", "shared and unshared parameters mixed up",
       Operator::nsa_compress, with(&Stages::load_parameters, &load_those_of_the_first_head)},
      {"weights_feature_by_feature", "row f l + s of the weights is taken for token s, feature f", "compression",
       "phi linear or mlp, l and the number of features above 1", "tokens flattened in the other order",
       Operator::nsa_compress, with(&Stages::load_parameters, &load_feature_by_feature)},
      {"mean_over_stride", "the mean of a block is its sum divided by d", "compression", "phi mean, l above d",
       "the two sizes of compression confused", Operator::nsa_compress,
       with(&Stages::compress, &compress_over_the_stride)},
      {"gelu_by_tanh", "gelu is computed in its tanh form", "compression", "phi mlp, gelu",
       "the default of some libraries", Operator::nsa_compress, with(&Stages::activation, &gelu_by_tanh)},
      {"slope_forgotten", "the backward passes the activation as if it were linear", "backward", "phi mlp",
       "one factor of the chain rule left out", Operator::nsa_compress, with(&Stages::slope, &no_slope)},
      {"silu_slope_is_sigmoid", "the slope of silu is the sigmoid alone", "backward", "phi mlp, silu",
       "x sigmoid(x) differentiated without the product rule", Operator::nsa_compress,
       with(&Stages::slope, &silu_slope_without_product_rule)},
      {"position_gradient_missing", "the gradient of the position encoding is 0", "backward", "phi linear or mlp",
       "an encoding taken for a constant", Operator::nsa_compress, without_position_gradient()},
      {"token_gradient_of_last_block", "a token has the gradient of the last block it is in", "backward", "l above d",
       "a store where blocks overlap", Operator::nsa_compress, with(&Stages::add_to_tokens, &overwrite_tokens)},
      {"shared_phi_of_last_head", "the gradient of shared parameters is that of the last kv head", "backward",
       "phi shared by several kv heads", "a missing reduction over the heads", Operator::nsa_compress,
       with(&Stages::add_to_parameters, &overwrite_parameters)},
      {"branches_share_tokens", "all branches read the k and v of the compressed branch", "branches",
       "k and v per branch", "implementations with one pair of k and v", Operator::nsa,
       with(&Stages::branch, &branch_on_shared_tokens)},
      {"window_reads_lse_of_selected", "the backward of the window reads the lse of the selected branch", "backward",
       "a window that differs from the selection", "one lse kept where two were written", Operator::nsa,
       with(&Stages::branch_backward, &branch_with_lse_of_selected)},
      {"gates_swapped", "the gates of the selected branch and of the window change places", "gates",
       "gates that differ", "two orders of the branches", Operator::nsa,
       with(&Stages::combine, &combine_with_gates_swapped)},
      {"gates_normalised", "the gates of a row are divided by their sum", "gates", "gates that do not sum to 1",
       "a softmax over the branches", Operator::nsa, with(&Stages::combine, &combine_with_gates_normalised)},
      {"gates_clamped", "gates below 0 count as 0, above 1 as 1", "gates", "gates outside 0 to 1",
       "gates taken for the output of a sigmoid", Operator::nsa, with(&Stages::combine, &combine_with_gates_clamped)},
      {"gates_through_sigmoid_again", "the gates pass through another sigmoid", "gates", "any",
       "gates taken for their logits", Operator::nsa, with(&Stages::combine, &combine_after_another_sigmoid)},
      {"gate_missing_in_backward", "the window's gradient is do, without its gate", "gates",
       "a gate of the window other than 1", "the gate left out of one of three backward calls", Operator::nsa,
       with(&Stages::branch_gradient, &branch_gradient_without_gate)},
      {"gate_gradient_of_the_sum", "every gate's gradient is <do, o>", "gates", "any",
       "the output at hand is the combined one", Operator::nsa,
       with(&Stages::gate_gradients, &gate_gradients_of_the_sum)},
      {"dq_without_compressed", "dq misses the compressed branch", "backward", "t of at least l - 1",
       "a compressed branch detached along with its selection", Operator::nsa,
       with(&Stages::add_queries, &add_queries_without_compressed)},
      {"dq_of_the_last_branch", "dq is that of the window alone", "backward", "any",
       "a buffer overwritten by each branch", Operator::nsa, with(&Stages::add_queries, &keep_the_last_queries)},
  };
}

}  // namespace attnspec::verify::model
