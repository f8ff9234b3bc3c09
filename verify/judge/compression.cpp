#include "verify/judge/compression.hpp"
namespace attnspec::verify {
void judge_compressed_rows(const reference::Profile&, const CompressionStage&, const TensorView&, const RowObserver&, CaseResult&) {}
void judge_compression_gradients(const reference::Profile&, const CompressionStage&, const reference::Tensor&, const TensorView&, const PhiTensors<TensorView>&, const RowObserver&, CaseResult&) {}
}
