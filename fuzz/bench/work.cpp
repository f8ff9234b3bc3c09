#include "fuzz/bench/work.hpp"

#include <algorithm>
#include <map>
#include <vector>

#include "reference/dense.hpp"
#include "reference/nsa/nsa_compression.hpp"
#include "verify/operators/operator.hpp"
#include "verify/operators/reach.hpp"

namespace attnspec::fuzz {

namespace {

using namespace reference;
using namespace verify;

// ---- What queries need of keys ----

struct Reading {
  std::int64_t entries = 0;           // of score matrices, over all query heads
  std::int64_t keys = 0, values = 0;  // rows of k and v, over all key/value heads, that some query reads, at least
};

/// The positions of a sequence's queries that stand at a key: first .. last; none where first > last.
struct Positions {
  std::int64_t first, last;
};

Positions positions(const Sequence& sequence) {
  return {std::max<std::int64_t>(0, sequence.position(sequence.q_begin)), sequence.position(sequence.q_end - 1)};
}

/// Adds up of_query(sequence, t) over all queries that stand at a key.
template <class OfQuery>
std::int64_t sum_over_queries(const AttentionProblem& problem, const OfQuery& of_query) {
  std::int64_t sum = 0;
  for (const Sequence& sequence : sequences(problem))
    for (auto [t, last] = positions(sequence); t <= last; ++t) sum += of_query(sequence, t);
  return sum;
}

/// Adds up of_sequence(sequence, positions of its queries) over all key/value heads of sequences that have any.
template <class OfSequence>
std::int64_t sum_over_sequences(const AttentionProblem& problem, const OfSequence& of_sequence) {
  std::int64_t sum = 0;
  for (const Sequence& sequence : sequences(problem))
    if (const Positions t = positions(sequence); t.first <= t.last) sum += of_sequence(sequence, t);
  return problem.kv_heads * sum;
}

/// Keys within reach in the blocks of a selection. Queries follow each other, so that what they read of a block is one
/// range.
Reading selected_reading(const AttentionProblem& problem, std::int64_t block, const Selection& selection,
                         const Reach& reach) {
  Reading reading;
  for (const Sequence& sequence : sequences(problem)) {
    const std::int64_t blocks = num_blocks(sequence.num_keys(), block);
    std::vector<KeyRange> read(static_cast<std::size_t>(problem.kv_heads * blocks), {sequence.num_keys(), 0});
    for (std::int64_t token = sequence.q_begin; token < sequence.q_end; ++token)
      for (std::int64_t head = 0; head < problem.heads; ++head)
        for (const KeyRange& keys : visible_keys(selected_blocks(problem, selection, token, head),
                                                 reach(sequence, token), sequence.num_keys(), block)) {
          const std::int64_t kv_head = head / (problem.heads / problem.kv_heads);
          KeyRange& all = read[static_cast<std::size_t>(kv_head * blocks + keys.begin / block)];
          all = {std::min(all.begin, keys.begin), std::max(all.end, keys.end)};
          reading.entries += keys.end - keys.begin;
        }
    for (const KeyRange& keys : read) reading.keys += std::max<std::int64_t>(0, keys.end - keys.begin);
  }
  reading.values = reading.keys;
  return reading;
}

/// All keys within reach.
Reading reached_reading(const AttentionProblem& problem, const Reach& reach) {
  const auto [block, selection] = whole_sequence(problem);
  return selected_reading(problem, block, selection, reach);
}

/// Keys of the query's own block up to its own, and of whole blocks before it: max_blocks blocks in all. The rows are
/// those of all own blocks, and of the blocks before them that the first query takes.
Reading past_reading(const AttentionProblem& problem, std::int64_t block, std::int64_t max_blocks) {
  const auto acausal = [&](const Sequence& sequence) { return std::min(max_blocks * block, sequence.num_keys()); };
  const auto before = [&](std::int64_t t) { return std::min(max_blocks - 1, t / block) * block; };
  Reading reading;
  reading.entries = problem.heads * sum_over_queries(problem, [&](const Sequence& sequence, std::int64_t t) {
                      return problem.causal ? before(t) + t % block + 1 : acausal(sequence);
                    });
  reading.keys = reading.values = sum_over_sequences(problem, [&](const Sequence& sequence, const Positions& t) {
    return problem.causal ? before(t.first) + t.last + 1 - t.first / block * block : acausal(sequence);
  });
  return reading;
}

/// Whether MoBA's means are needed: its gate goes by scores, and there is more to take than a query's own block.
bool has_scores(const MobaProblem& problem) {
  return problem.gate == Gate::top_k && (problem.top_k > 1 || !problem.attention.causal);
}

/// Blocks whose scores a query of MoBA compares; the keys of all blocks that any query does.
Reading select_reading(const MobaProblem& problem) {
  const AttentionProblem& attention = problem.attention;
  Reading reading;
  if (problem.gate == Gate::top_k)
    reading.entries = attention.heads * sum_over_queries(attention, [&](const Sequence& sequence, std::int64_t t) {
                        return attention.causal ? t / problem.block : num_blocks(sequence.num_keys(), problem.block);
                      });
  if (has_scores(problem))
    reading.keys = sum_over_sequences(attention, [&](const Sequence& sequence, const Positions& t) {
      return attention.causal ? t.last / problem.block * problem.block : sequence.num_keys();
    });
  return reading;
}

/// The keys of all blocks in the past, where they are compared, and of those that are attended to.
Reading moba_reading(const MobaProblem& problem) {
  const AttentionProblem& attention = problem.attention;
  Reading reading = past_reading(attention, problem.block, problem.top_k);
  if (has_scores(problem))
    reading.keys = sum_over_sequences(attention, [&](const Sequence& sequence, const Positions& t) {
      return attention.causal ? t.last + 1 : sequence.num_keys();
    });
  return reading;
}

Selection selection_of(const SelectionView& view) {
  Selection selection(view.tokens, view.heads, view.slots);
  for (std::int64_t token = 0; token < view.tokens; ++token)
    for (std::int64_t head = 0; head < view.heads; ++head)
      std::copy_n(view.row(token, head), view.slots, selection.row(token, head).begin());
  return selection;
}

Reading compressed_reading(const NsaProblem& nsa) {
  return reached_reading(compressed_problem(nsa), compressed_reach(nsa));
}

/// What a call reads: of its attention, or of one branch of nsa.
struct Readings {
  Reading all;
  std::map<Branch, Reading> of_branch;

  const Reading& of(const TensorInfo& tensor) const { return tensor.branch ? of_branch.at(*tensor.branch) : all; }
  std::int64_t entries() const {
    std::int64_t sum = all.entries;
    for (const auto& [branch, reading] : of_branch) sum += reading.entries;
    return sum;
  }
};

Readings readings_of(const AnyCall& call) {
  const MobaProblem& moba = call.problem;
  const NsaProblem& nsa = call.nsa;
  if (!has_queries(call.op)) return {};
  if (has_branches(call.op))
    return {{},
            {{Branch::compressed, compressed_reading(nsa)},
             {Branch::selected, past_reading(nsa.attention, nsa.block, nsa.top_n)},
             {Branch::window, reached_reading(nsa.attention, window_reach(nsa))}}};
  if (selects(call.op)) return {attends(call.op) ? moba_reading(moba) : select_reading(moba), {}};
  const Reach reach = page_of(call.op).reach(moba, nsa);
  if (reads_selection(call.op))
    return {selected_reading(moba.attention, moba.block, selection_of(call.selection), reach), {}};
  const bool reads_compressed = key_rows(call.op) == RowsOf::compressed_rows;
  return {reached_reading(reads_compressed ? compressed_problem(nsa) : call.attention(), reach), {}};
}

// ---- Bytes ----

/// Whether a row of the tensor is read only where some query needs it: keys and values. The compressed branch of nsa
/// reads every token.
bool is_read_in_part(const AnyCall& call, const TensorInfo& tensor) {
  return has_queries(call.op) && tensor.role == Role::input && tensor.heads == Heads::kv && tensor.part == nullptr &&
         tensor.branch != Branch::compressed;
}

/// The bytes that a call has to read or write of its tensors, each counted once: branches of nsa may share theirs.
double bytes_of_tensors(const AnyCall& call, const Readings& readings) {
  std::map<const void*, std::int64_t> bytes;
  const std::vector<TensorInfo>& tensors = page_of(call.op).tensors;
  for (std::size_t i = 0; i < tensors.size(); ++i) {
    const TensorInfo& tensor = tensors[i];
    const TensorView& x = call.tensors[i];
    if (call.is_backward && tensor.in_backward == InBackward::unread) continue;
    std::int64_t rows = x.tokens * x.heads;
    if (is_read_in_part(call, tensor)) {
      // The selection of a backward is given, so that keys are read as values are.
      const Reading& reading = readings.of(tensor);
      rows = tensor.dim == Dim::dk && !call.is_backward ? reading.keys : reading.values;
    }
    std::int64_t& most = bytes[x.data];
    most = std::max(most, rows * x.dim * verify::bytes_of(x.format));
  }
  double sum = static_cast<double>(call.selection.tokens * call.selection.heads * call.selection.slots *
                                   static_cast<std::int64_t>(sizeof(std::int32_t)));
  for (const auto& [data, of_tensor] : bytes) sum += static_cast<double>(of_tensor);
  return sum;
}

}  // namespace

Work work_of(const AnyCall& call) {
  const AttentionProblem& problem = call.attention();
  const std::int64_t products = call.is_backward   ? 6 * problem.dk + 4 * problem.dv
                                : attends(call.op) ? 2 * (problem.dk + problem.dv)
                                                   : 2 * problem.dk;
  const Readings readings = readings_of(call);
  const std::int64_t entries = readings.entries();
  return {entries, static_cast<double>(entries) * static_cast<double>(products), bytes_of_tensors(call, readings)};
}

Roofline roofline_of(const Work& work, Format format, const cuda::DevicePeaks& peaks) {
  const double rate = peaks.operations_per_second / (format == Format::fp32 ? 2 : 1);
  return {rate > 0 ? 1e3 * work.operations / rate : 0, 1e3 * work.bytes / peaks.bytes_per_second};
}

Roofline uncached_roofline_of(const Work& work, Format format, const cuda::DevicePeaks& peaks) {
  Work uncached = work;
  uncached.bytes = std::max(0.0, work.bytes - static_cast<double>(peaks.cache_bytes));
  return roofline_of(uncached, format, peaks);
}

}  // namespace attnspec::fuzz
