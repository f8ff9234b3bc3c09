#include "verify/laws/calls.hpp"

#include <fmt/format.h>
#include <fmt/ranges.h>

#include <algorithm>
#include <bit>
#include <cmath>

#include "verify/judge/selection.hpp"
#include "verify/run/calls/calls.hpp"

namespace attnspec::verify {

namespace {

using reference::Selection;
using reference::Tensor;

/// Whether a kernel writes a selection that is judged.
bool exports_selection(const Kernel& kernel, Operator op) {
  return has_importance(op) || (selects(op) && kernel.exports_selection);
}

void add_outputs(const std::vector<NamedTensor>& tensors, Outputs& outputs) {
  for (const auto& [name, tensor, rows] : tensors) {
    const TensorView view = tensor.get().view();
    outputs.tensors.push_back({name, rows, view.format, load(view)});
  }
}

/// Whether every row of the selection names blocks of its sequence, each once.
bool is_well_formed(const Case& c, const Selection& selection, CaseResult& result) {
  bool is_good = true;
  for_each_row(c, RowsOf::queries, selection.tokens, selection.heads, [&](const RowPlace& row, std::int64_t token) {
    const std::int64_t keys = c.lens[static_cast<std::size_t>(row.sequence)];
    const std::string wrong = malformed(selection.row(token, row.head), (keys + c.block - 1) / c.block);
    if (wrong.empty()) return;
    if (is_good)
      result.add({.verdict = Verdict::selection_mismatch,
                  .output = "selection",
                  .sequence = row.sequence,
                  .token = row.token,
                  .head = row.head,
                  .detail = wrong});
    is_good = false;
  });
  return is_good;
}

}  // namespace

Outputs call_once(const Kernel& kernel, const Case& c, const Inputs& inputs, bool with_backward, CaseResult& result) {
  Calls calls(kernel, c, inputs);
  Outputs outputs;
  result.add(calls.forward());
  add_outputs(calls.forward_outputs(), outputs);
  if (exports_selection(kernel, c.op)) {
    outputs.selection = calls.exported();
    if (!is_well_formed(c, outputs.selection, result)) return outputs;
  }
  if (!with_backward || !calls.has_backward() || (selects(c.op) && !kernel.exports_selection)) return outputs;
  result.add(calls.backward(reads_selection(c.op) ? inputs.selection : outputs.selection));
  add_outputs(calls.backward_outputs(), outputs);
  return outputs;
}

namespace {

std::string with_bits(double x, Format format) {
  const auto bits = format == Format::fp32   ? std::bit_cast<std::uint32_t>(static_cast<float>(x))
                    : format == Format::bf16 ? encode_bf16(x)
                                             : encode_fp16(x);
  return fmt::format("{:a} ({:.6g}, bits {:0{}x})", x, x, bits, 2 * bytes_of(format));
}

/// Whether the number is x times a power of two, or its negative, to the bit, but for the sign of a zero, which may
/// come from a product with weight 0. Where x was scaled, what is below twice the smallest normal number may have lost
/// bits (X2).
bool is_equal(double number, double x, double factor, Format format) {
  if (std::isnan(number) && std::isnan(x)) return true;
  const double expected = x * factor;
  const int exponent = std::ilogb(factor);
  if (exponent == 0) return number == expected;
  const double least = reference::power_of_two(reference::min_exponent(format) + 1 + std::abs(exponent));
  if (std::max(std::abs(number), std::abs(expected)) < least) return true;
  return number == expected;
}

/// The rows of one output, and where the packed rows of a follow_up begin.
class Comparison {
 public:
  Comparison(const SourceCall& source, const FollowUp& follow_up, const char* law, std::string output, RowsOf of,
             std::int64_t tokens)
      : source_(source), follow_up_(follow_up), law_(law), offsets_(row_offsets(follow_up.c, of, tokens)), of_(of) {
    summary_.output = std::move(output);
  }

  /// differs(token, head, follow_up's token, follow_up's head): of a packed row; the text and d of a finding, or
  /// nothing.
  template <class Differs>
  void run(std::int64_t tokens, std::int64_t heads, const Differs& differs, CaseResult& result) {
    for_each_row(source_.c, of_, tokens, heads, [&](const RowPlace& row, std::int64_t token) {
      const auto place = follow_up_.move(row);
      if (!place || !follow_up_.speaks_of(summary_.output, row)) return;
      ++summary_.rows;
      const std::int64_t there = offsets_[static_cast<std::size_t>(place->sequence)] + place->token;
      const auto [text, d] = differs(token, row.head, there, place->head);
      if (text.empty()) return;
      ++summary_.findings;
      result.verdict = std::max(result.verdict, Verdict::law_broken);
      if (result.findings.size() < kMaxFindings)
        result.findings.push_back({.verdict = Verdict::law_broken,
                                   .output = summary_.output,
                                   .sequence = of_ == RowsOf::parameters ? -1 : row.sequence,
                                   .token = row.token,
                                   .head = row.head,
                                   .d = d,
                                   .detail = fmt::format("law {}: {}", law_, text)});
    });
    add_to(result);
  }

 private:
  /// Rows of several follow_ups are counted together.
  void add_to(CaseResult& result) {
    auto& all = result.outputs;
    const auto same = std::find_if(all.begin(), all.end(), [&](const auto& o) { return o.output == summary_.output; });
    if (same == all.end()) return all.push_back(summary_);
    same->rows += summary_.rows;
    same->findings += summary_.findings;
  }

  const SourceCall& source_;
  const FollowUp& follow_up_;
  const char* law_;
  std::vector<std::int64_t> offsets_;
  RowsOf of_;
  OutputSummary summary_;
};

struct Difference {
  std::string text;
  std::int64_t d = -1;
};

/// " times 2^3"; nothing of 1.
std::string times(double factor) {
  if (factor == 1) return "";
  const std::string sign = factor < 0 ? "-" : "";
  return std::abs(factor) == 1 ? " times -1" : fmt::format(" times {}2^{}", sign, std::ilogb(factor));
}

Difference difference(const Output& source, std::int64_t token, std::int64_t head, const Output& other,
                      std::int64_t there, std::int64_t other_head, double factor) {
  const double *x = source.values.at(token, head), *y = other.values.at(there, other_head);
  for (std::int64_t d = 0; d < source.values.dim; ++d)
    if (!is_equal(y[d], x[d], factor, source.format))
      return {fmt::format("{} where the source call has {}{}", with_bits(y[d], other.format),
                          with_bits(x[d], source.format), times(factor)),
              d};
  return {};
}

/// The blocks of a row, ascending.
std::vector<std::int32_t> blocks_of(std::span<const std::int32_t> row) {
  std::vector<std::int32_t> blocks;
  std::copy_if(row.begin(), row.end(), std::back_inserter(blocks), [](std::int32_t b) { return b >= 0; });
  std::sort(blocks.begin(), blocks.end());
  return blocks;
}

Difference difference(std::span<const std::int32_t> source, std::span<const std::int32_t> other) {
  const auto before = blocks_of(source), now = blocks_of(other);
  if (before == now) return {};
  return {fmt::format("blocks {} where the source call has {}", fmt::join(now, " "), fmt::join(before, " ")), -1};
}

}  // namespace

void compare(const SourceCall& source, const FollowUp& follow_up, const Outputs& outputs, const char* law,
             CaseResult& result) {
  for (std::size_t i = 0; i < source.outputs.tensors.size(); ++i) {
    const Output &before = source.outputs.tensors[i], &now = outputs.tensors[i];
    const double factor = follow_up.factor ? follow_up.factor(before.name) : 1;
    Comparison(source, follow_up, law, before.name, before.rows, now.values.tokens)
        .run(
            before.values.tokens, before.values.heads,
            [&](std::int64_t token, std::int64_t head, std::int64_t there, std::int64_t other_head) {
              return difference(before, token, head, now, there, other_head, factor);
            },
            result);
  }
  const Selection& before = source.outputs.selection;
  if (before.blocks.empty()) return;
  Comparison(source, follow_up, law, "selection", RowsOf::queries, 0)
      .run(
          before.tokens, before.heads,
          [&](std::int64_t token, std::int64_t head, std::int64_t there, std::int64_t other_head) {
            return difference(before.row(token, head), outputs.selection.row(there, other_head));
          },
          result);
}

}  // namespace attnspec::verify
