#include "verify/judge/compression.hpp"

#include <functional>
#include <utility>

#include "reference/noise/compression_gradient_noise.hpp"

namespace attnspec::verify {

using namespace reference;

namespace {

/// Every row of the gradient of one parameter, of one set.
void judge_parameter(const Arithmetic& arithmetic, const TensorView& view, std::int64_t set,
                     const std::function<PredictedRow(std::int64_t row)>& predict, Tally& tally) {
#pragma omp parallel for schedule(dynamic)
  for (std::int64_t i = 0; i < view.tokens; ++i)
    tally.add({-1, i, set}, predict(i), view.row(i, set), arithmetic.output);
}

}  // namespace

void judge_compressed_rows(const Arithmetic& arithmetic, const CompressionStage& stage, const TensorView& rows,
                           const RowObserver& observe, CaseResult& result) {
  const NsaProblem& problem = stage.problem;
  Tally tally(observe, "rows", stage.names.rows);
  std::vector<CompressionNoise> noise;  // [sets]
  for (const PhiParameters& parameters : stage.phi) noise.emplace_back(arithmetic, problem, parameters);
  const std::vector<CompressionBlock> blocks = compression_blocks(problem);
  const std::vector<std::int64_t> offsets = compressed_offsets(problem);
  for (const Sequence& sequence : sequences(problem.attention)) {
    const auto s = static_cast<std::size_t>(sequence.index);
#pragma omp parallel for collapse(2) schedule(dynamic)
    for (std::int64_t g = 0; g < problem.attention.kv_heads; ++g) {
      for (std::int64_t row = offsets[s]; row < offsets[s + 1]; ++row) {
        const CompressionBlock& block = blocks[static_cast<std::size_t>(row)];
        tally.add({sequence.index, row - offsets[s], g},
                  noise[phi_index(problem, g)].row(stage.tokens.rows(block.begin, block.end, g)), rows.row(row, g),
                  arithmetic.input);
      }
    }
  }
  tally.finish(result);
}

void judge_compression_gradients(const Arithmetic& arithmetic, const CompressionStage& stage, const Tensor& d_rows,
                                 const TensorView& d_tokens, const PhiTensors<TensorView>& d_phi,
                                 const RowObserver& observe, CaseResult& result) {
  const NsaProblem& problem = stage.problem;
  std::vector<PhiBackward> backward;  // [sets]
  for (std::size_t set = 0; set < stage.phi.size(); ++set)
    backward.push_back(
        phi_backward(arithmetic, problem, stage.phi, stage.tokens, d_rows, static_cast<std::int64_t>(set)));
  Tally tokens(observe, "d_tokens", stage.names.d_tokens);
  for (const Sequence& sequence : sequences(problem.attention)) {
#pragma omp parallel for collapse(2) schedule(dynamic)
    for (std::int64_t g = 0; g < problem.attention.kv_heads; ++g)
      for (std::int64_t token = sequence.k_begin; token < sequence.k_end; ++token)
        tokens.add({sequence.index, token - sequence.k_begin, g},
                   token_gradient(backward[phi_index(problem, g)], token, g), d_tokens.row(token, g),
                   arithmetic.output);
  }
  tokens.finish(result);
  for (const auto& [name, part] : kPhiParts<TensorView>) {
    const TensorView& view = d_phi.*part;
    if (view.tokens == 0) continue;
    Tally tally(observe, "d_phi", stage.names.d_phi + "." + name);
    for (std::size_t set = 0; set < backward.size(); ++set)
      judge_parameter(
          arithmetic, view, static_cast<std::int64_t>(set),
          [&, part = part](std::int64_t i) {
            using Views = PhiTensors<TensorView>;
            const PhiBackward& of = backward[set];
            if (part == &Views::position) return position_gradient(of, i);
            if (part == &Views::w) return w_gradient(of, i);
            if (part == &Views::w1) return w1_gradient(of, i);
            if (part == &Views::b1) return b1_gradient(of);
            if (part == &Views::w2) return w2_gradient(of, i);
            return b2_gradient(of);
          },
          tally);
    tally.finish(result);
  }
}

}  // namespace attnspec::verify
