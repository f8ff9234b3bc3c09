#include "verify/xray/xray.hpp"

#include <algorithm>

#include "verify/xray/kernel_xray.hpp"
#include "verify/xray/subject.hpp"

namespace attnspec::verify {

using namespace reference;

bool Xray::is_clean() const {
  return std::all_of(attentions.begin(), attentions.end(), [](const AttentionXray& one) { return one.is_clean(); });
}

bool Xray::is_whole() const {
  return std::all_of(attentions.begin(), attentions.end(), [](const AttentionXray& one) {
    return one.forward.why_not.empty() && one.backward.why_not.empty();
  });
}

Xray xray(const Kernel& kernel, const Case& c) { return KernelXray(kernel, c).run(); }

namespace {

/// The weights of every row on its selection, exactly.
Matrix exact_weights(const Attention& attention, const Selection& selection, const Tensor& q, const Tensor& k) {
  Matrix weights = Matrix::Zero(attention.query_rows(), attention.columns());
  const Tensor no_values(k.tokens, k.heads, 1);
  for_each_query(attention.problem, [&](const Sequence& sequence, std::int64_t token, std::int64_t head) {
    const auto ranges = visible_keys(attention, selection, sequence, token, head);
    const AttendedRow row =
        attend(rows_of(attention.problem, {q, k, no_values}, sequence, token, head), ranges, attention.problem.scale);
    const std::int64_t begin = kv_head(attention.problem, head) * attention.keys() + sequence.k_begin;
    Eigen::Index i = 0;
    for (const auto& [first, last] : ranges)
      for (std::int64_t key = first; key < last; ++key)
        weights(token * attention.problem.heads + head, begin + key) = row.weights[i++];
  });
  return weights;
}

}  // namespace

Xray xray(const Case& c) {
  const XraySubject subject(c, {});
  Xray result{.c = subject.c};
  const Tensor compressed =
      has_branches(c.op) ? compress(subject.nsa, phi_heads(subject.inputs.phi_k), subject.inputs.k) : Tensor();
  for (Attention& attention : attentions_of(subject.c)) {
    AttentionXray& one = result.attentions.emplace_back();
    one.rules = subject.rules(attention, compressed);
    if (!attention.has_blocks) {
      one.selection = whole_sequence(attention.problem).selection;
    } else if (reads_selection(c.op)) {
      one.source = SelectionSource::given;
      one.selection = subject.inputs.selection;
    } else {
      one.source = SelectionSource::specification;
      one.selection = attention.branch ? nsa_select(subject.nsa, subject.inputs.q, compressed)
                                       : moba_select(subject.problem, subject.inputs.q, subject.inputs.k);
    }
    const Tensor& k = attention.is_compressed() ? compressed : *find_input(*attention.k, subject.inputs);
    one.forward.expected = exact_weights(attention, one.selection, subject.inputs.q, k);
    one.forward.observed = one.forward.expected;
    one.attention = std::move(attention);
  }
  return result;
}

}  // namespace attnspec::verify
