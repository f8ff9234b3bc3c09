#include "verify/xray/kernel_xray.hpp"

#include <fmt/format.h>

#include <algorithm>
#include <cmath>
#include <deque>
#include <utility>

#include "verify/xray/faults.hpp"
#include "verify/xray/indicators.hpp"
#include "verify/xray/recovered_selection.hpp"

namespace attnspec::verify {

using namespace reference;

namespace {

std::int64_t num_calls(std::int64_t columns, std::int64_t of_a_call) { return (columns + of_a_call - 1) / of_a_call; }

/// How far rounding can move each element of a row.
Vector bounds(const RowNoise& noise) { return noise.worst.cwiseMin(kKappa * noise.variance.cwiseSqrt()) + noise.floor; }

/// Whether an element is further off than that, or the largest error of a row that is.
bool is_off(const ObservedRow& row, Eigen::Index d, double bound) {
  if (row.comparison.fault == RowFault::row && row.comparison.d == d) return true;
  return !(std::abs(row.observed[d] - row.expected[d]) <= bound);
}

}  // namespace

KernelXray::KernelXray(const Kernel& kernel, const Case& c) : kernel_(kernel), subject_(c, kernel.arithmetic) {
  if (const auto why = implements(kernel, c.op) ? kernel.unsupported(c) : "does not implement the operator")
    refuse_xray(c, fmt::format("{}: {}", kernel.name, *why));
}

Xray KernelXray::run() {
  const Case& c = subject_.c;
  Xray result{.c = c, .kernel = kernel_.name, .arithmetic = describe(c.dtype, kernel_.arithmetic)};
  const bool with_backward = has_backward(kernel_, c.op) && allows_backward(kernel_.limits, c);
  std::int64_t calls = with_backward ? num_calls(c.heads * subject_.inputs.q.tokens, c.dv) : 0;
  for (Attention& attention : attentions_of(c)) {
    calls += num_calls(attention.columns(), columns_of_a_call(c, attention));
    result.attentions.push_back({.attention = std::move(attention)});
  }
  if (calls > kMaxXrayCalls)
    refuse_xray(c, fmt::format("dv={} needs {} calls, the limit is {}", c.dv, calls, kMaxXrayCalls));
  for (AttentionXray& one : result.attentions) expose_values(one);
  if (with_backward) expose_gradients(result.attentions);
  result.notes.assign(notes_.begin(), notes_.end());
  return result;
}

void KernelXray::note(const std::vector<MemoryFault>& faults) {
  for (const MemoryFault& fault : faults)
    notes_.insert(fmt::format("{}: {} => {}", name(fault.verdict), fault.tensor, fault.what));
}

// ---- Forward ----

void KernelXray::take_selection(const Calls& calls, AttentionXray& one) const {
  const Attention& attention = one.attention;
  if (!attention.has_blocks) {
    one.selection = whole_sequence(attention.problem).selection;
  } else if (reads_selection(subject_.c.op)) {
    one.source = SelectionSource::given;
    one.selection = subject_.inputs.selection;
  } else {
    const bool is_exported = attention.branch || kernel_.exports_selection;
    one.source = is_exported ? SelectionSource::exported : SelectionSource::recovered;
    one.selection = calls.exported();
    one.rules = subject_.rules(attention, compressed_keys_);
  }
}

bool KernelXray::take_units(const TensorView& values, std::int64_t first, std::int64_t width, Vector& units) {
  for (std::int64_t head = 0; head < values.heads; ++head)
    for (std::int64_t row = 0; row < values.tokens; ++row)
      for (std::int64_t d = 0; d < values.dim; ++d) {
        const double value = values.load(row, head, d);
        const bool is_unit = d < width && first + d == head * values.tokens + row;
        if (is_unit) units[first + d] = value;
        if (is_unit ? !(std::abs(value) > 0 && std::isfinite(value)) : value != 0) return false;
      }
  return true;
}

void KernelXray::expose_values(AttentionXray& one) {
  const Attention& attention = one.attention;
  const std::int64_t width = columns_of_a_call(subject_.c, attention), columns = attention.columns();
  Exposure exposure{{}, Vector::Ones(columns)};
  Selection first_selection;
  // Without a key there is one call too, for the selection.
  for (std::int64_t first = 0; first == 0 || first < columns; first += width) {
    Inputs inputs = subject_.inputs;
    set_indicator_values(subject_.c, attention, first, width, inputs);
    Calls calls(kernel_, subject_.c, inputs);
    note(calls.forward());
    ++one.forward.calls;
    if (first == 0) {
      if (attention.branch) compressed_keys_ = load(calls.view("k_compressed"));
      take_selection(calls, one);
      first_selection = one.selection;
    } else if (one.source == SelectionSource::exported && calls.exported().blocks != first_selection.blocks) {
      notes_.insert("selection => differs between calls that differ in v alone");
    }
    if (attention.is_compressed() && !take_units(calls.view("v_compressed"), first, width, exposure.units)) {
      one.forward.why_not = "v_compressed is not made as the specification says, so its rows cannot be told apart";
      return;
    }
    exposure.o.push_back(load(calls.view(attention.names.o)));
  }
  one.forward.observed = Matrix::Zero(attention.query_rows(), columns);
  for (std::int64_t column = 0; column < columns; ++column) {
    const Tensor& o = exposure.o[static_cast<std::size_t>(column / width)];
    for (std::int64_t row = 0; row < attention.query_rows(); ++row)
      one.forward.observed(row, column) = o.at(row / o.heads, row % o.heads)[column % width] / exposure.units[column];
  }
  if (one.source == SelectionSource::recovered) recover_selection(one);
  if (!one.rules.empty()) one.forward.findings = find_selection_faults(attention, one.rules, one.selection);
  compare_values(exposure, width, one);
}

void KernelXray::recover_selection(AttentionXray& one) const {
  const Attention& attention = one.attention;
  const Qkv in{subject_.inputs.q, subject_.inputs.k, subject_.inputs.v};
  for_each_query(attention.problem, [&](const Sequence& sequence, std::int64_t token, std::int64_t head) {
    const KeyRange reach = attention.reach(sequence, token);
    const std::int64_t row = token * attention.problem.heads + head,
                       begin = kv_head(attention.problem, head) * attention.keys() + sequence.k_begin;
    Blocks with_weight;
    for (std::int64_t key = reach.begin; key < reach.end; ++key) {
      const auto block = static_cast<std::int32_t>(key / attention.block);
      if (one.forward.observed(row, begin + key) != 0 && (with_weight.empty() || with_weight.back() != block))
        with_weight.push_back(block);
    }
    const auto weight = [&](const Blocks& blocks, std::int32_t of) {
      const auto ranges = reference::visible_keys(blocks, reach, sequence.num_keys(), attention.block);
      const AttendedRow attended =
          attend(rows_of(attention.problem, in, sequence, token, head), ranges, attention.problem.scale);
      double sum = 0;
      Eigen::Index i = 0;
      for (const KeyRange& range : ranges) {
        const Eigen::Index keys = range.end - range.begin;
        if (range.begin / attention.block == of) sum += attended.weights.segment(i, keys).sum();
        i += keys;
      }
      return sum;
    };
    const Blocks selected = recovered_selection(one.rules[static_cast<std::size_t>(row)], with_weight, weight);
    const auto slots = one.selection.row(token, head);
    std::fill(slots.begin(), slots.end(), -1);
    std::copy_n(selected.begin(), std::min(selected.size(), slots.size()), slots.begin());
  });
}

AttentionStage KernelXray::stage(const AttentionXray& one, const Tensor& k, const Tensor& v, const TensorView& o,
                                 const TensorView& lse) const {
  const Case& c = subject_.c;
  const Attention& attention = one.attention;
  return {attention.names,
          attention.problem,
          attention.block,
          attention.reach,
          subject_.inputs.q,
          k,
          v,
          one.selection,
          o,
          lse,
          judged_queries(c, attention.problem, c.heads),
          judged_keys(c, attention.problem),
          kernel_.exports_lse,
          selects(c.op) && c.causal};
}

void KernelXray::compare_values(const Exposure& exposure, std::int64_t width, AttentionXray& one) const {
  const Attention& attention = one.attention;
  Weights& weights = one.forward;
  const std::int64_t columns = attention.columns(), heads = attention.problem.heads;
  weights.expected = Matrix::Zero(attention.query_rows(), columns);
  weights.bound = weights.expected;
  Wrong wrong(static_cast<std::size_t>(attention.query_rows() * columns));
  const Tensor& k = attention.is_compressed() ? compressed_keys_ : *find_input(*attention.k, subject_.inputs);
  const std::vector<Sequence> all = sequences(attention.problem);
  HostTensor no_lse(Format::fp32, Layout::contiguous, subject_.inputs.q.tokens, heads, 1);
  for (std::int64_t first = 0; first < columns; first += width) {
    const Tensor v = indicator_values(attention, first, width, exposure.units);
    HostTensor o(subject_.arithmetic.output, Layout::contiguous, exposure.o[static_cast<std::size_t>(first / width)]);
    AttentionStage compared = stage(one, k, v, o.view(), no_lse.view());
    compared.has_lse = true;  // which nobody looks at
    AttentionJudge judge(subject_.arithmetic, std::move(compared));
    CaseResult unused;
    judge.judge_outputs(
        {}, false,
        [&](const ObservedRow& row) {
          if (row.kind != "o") return;
          const auto& [sequence, token, head] = row.place;
          const std::int64_t r = (all[static_cast<std::size_t>(sequence)].q_begin + token) * heads + head;
          const Vector bound = bounds(row.noise);
          for (std::int64_t d = 0; d < width && first + d < columns; ++d) {
            weights.expected(r, first + d) = row.expected[d] / exposure.units[first + d];
            weights.bound(r, first + d) = bound[d] / std::abs(exposure.units[first + d]);
            wrong[static_cast<std::size_t>(r * columns + first + d)] = is_off(row, d, bound[d]);
          }
        },
        unused);
  }
  find_weight_faults(attention, one.selection, wrong, weights);
}

// ---- Backward ----

void KernelXray::expose_gradients(std::vector<AttentionXray>& all) {
  const auto leave_out = [&](const std::string& why_not) {
    for (AttentionXray& one : all) one.backward = {.why_not = why_not};
  };
  const Selection* selection = &all.front().selection;
  for (const AttentionXray& one : all) {
    if (one.attention.has_blocks) selection = &one.selection;
    for (const WeightFinding& finding : one.forward.findings)
      if (finding.fault == WeightFault::malformed_selection)
        return leave_out("the selection that it would be given is malformed");
  }
  const std::int64_t rows = subject_.inputs.q.tokens * subject_.c.heads;
  std::vector<Wrong> wrong;
  for (AttentionXray& one : all) {
    one.backward.observed = one.backward.expected = one.backward.bound = Matrix::Zero(rows, one.attention.columns());
    wrong.emplace_back(static_cast<std::size_t>(rows * one.attention.columns()));
  }
  for (std::int64_t first = 0; first < rows; first += subject_.c.dv)
    if (const std::string why_not = expose_gradients(first, *selection, all, wrong); !why_not.empty())
      return leave_out(why_not);
  for (std::size_t i = 0; i < all.size(); ++i)
    find_weight_faults(all[i].attention, all[i].selection, wrong[i], all[i].backward);
}

std::string KernelXray::expose_gradients(std::int64_t first, const Selection& selection,
                                         std::vector<AttentionXray>& all, std::vector<Wrong>& wrong) {
  Inputs inputs = subject_.inputs;
  set_indicator_gradients(subject_.c, first, inputs);
  Calls calls(kernel_, subject_.c, inputs);
  note(calls.forward());
  std::deque<Tensor> stored;  // rows that the compressed branch attends to
  std::deque<AttentionJudge> judges;
  CaseResult unused;
  for (const AttentionXray& one : all) {
    const Tensor *k = find_input(*one.attention.k, inputs), *v = find_input(*one.attention.v, inputs);
    if (one.attention.is_compressed()) {
      k = &stored.emplace_back(load(calls.view("k_compressed")));
      v = &stored.emplace_back(load(calls.view("v_compressed")));
    }
    const AttentionNames& names = one.attention.names;
    AttentionJudge& judge =
        judges.emplace_back(subject_.arithmetic, stage(one, *k, *v, calls.view(names.o), calls.view(names.lse)));
    if (!kernel_.exports_lse) judge.judge_outputs({}, false, {}, unused);  // fills its lse
    std::string why_not = judge.why_no_backward();
    if (why_not.empty()) why_not = judge.why_gradients_overflow(inputs.d_o);
    if (!why_not.empty()) return why_not;
  }
  note(calls.backward(selection));
  for (std::size_t i = 0; i < all.size(); ++i) {
    AttentionXray& one = all[i];
    Weights& weights = one.backward;
    ++weights.calls;
    const std::int64_t columns = one.attention.columns();
    const std::vector<Sequence> sequences_of_keys = sequences(one.attention.problem);
    judges[i].begin_backward(inputs.d_o);
    judges[i].judge_key_gradients(
        calls.view(one.attention.names.dk), calls.view(one.attention.names.dv),
        [&](const ObservedRow& row) {
          if (row.kind != "dv") return;
          const auto& [sequence, key, g] = row.place;
          const std::int64_t column =
              g * one.attention.keys() + sequences_of_keys[static_cast<std::size_t>(sequence)].k_begin + key;
          const Vector bound = bounds(row.noise);
          for (std::int64_t d = 0; d < subject_.c.dv && first + d < weights.observed.rows(); ++d) {
            weights.observed(first + d, column) = row.observed[d];
            weights.expected(first + d, column) = row.expected[d];
            weights.bound(first + d, column) = bound[d];
            wrong[i][static_cast<std::size_t>((first + d) * columns + column)] = is_off(row, d, bound[d]);
          }
        },
        unused);
  }
  return "";
}

}  // namespace attnspec::verify
