#include "fuzz/bench/work.hpp"

#include <algorithm>
#include <map>
#include <type_traits>
#include <variant>
#include <vector>

#include "reference/dense.hpp"
#include "reference/nsa/nsa_compression.hpp"
#include "reference/nsa/nsa_window.hpp"
#include "verify/judge/reach.hpp"

namespace attnspec::fuzz {

namespace {

using namespace reference;
using namespace verify;

// ---- What queries need of keys ----

struct Reading {
  std::int64_t entries = 0;           // of score matrices, over all query heads
  std::int64_t keys = 0, values = 0;  // rows of k and v, over all key/value heads, that some query reads, at least
};

/// What the branches of NSA need.
struct NsaReading {
  Reading compressed, selected, window;
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

Reading reading_of(const ForwardCall& call) {
  const AttentionProblem& problem = call.problem.attention;
  switch (call.op) {
    case Operator::dense: return reached_reading(problem, causal_reach(problem));
    case Operator::selected:
      return selected_reading(problem, call.problem.block, selection_of(call.selection), causal_reach(problem));
    case Operator::moba_select: return select_reading(call.problem);
    case Operator::moba: return moba_reading(call.problem);
    case Operator::nsa_compressed: return compressed_reading(call.nsa);
    case Operator::window: return reached_reading(call.nsa.attention, window_reach(call.nsa));
    case Operator::nsa_compress:
    case Operator::nsa: break;  // have calls of their own
  }
  return {};
}
Reading reading_of(const CompressCall&) { return {}; }
NsaReading reading_of(const NsaCall& call) {
  return {compressed_reading(call.nsa), past_reading(call.nsa.attention, call.nsa.block, call.nsa.top_n),
          reached_reading(call.nsa.attention, window_reach(call.nsa))};
}

std::int64_t entries_of(const Reading& reading) { return reading.entries; }
std::int64_t entries_of(const NsaReading& reading) {
  return reading.compressed.entries + reading.selected.entries + reading.window.entries;
}

// ---- Bytes ----

/// The bytes that a call has to read or write of its tensors, each counted once: branches of nsa may share theirs.
class TensorBytes {
 public:
  template <class Call, class OfCall>
  TensorBytes(const Call& call, const OfCall& reading) {
    add(call, reading);
  }

  double sum() const {
    std::int64_t all = 0;
    for (const auto& [data, bytes] : of_) all += bytes;
    return static_cast<double>(all);
  }

 private:
  void add_bytes(const void* data, std::int64_t bytes) { of_[data] = std::max(of_[data], bytes); }
  /// Rows of a token and head.
  void add_rows(const TensorView& x, std::int64_t rows) { add_bytes(x.data, rows * x.dim * bytes_of(x.format)); }
  void add(const TensorView& x) { add_rows(x, x.tokens * x.heads); }
  void add(const SelectionView& x) {
    add_bytes(x.data, x.tokens * x.heads * x.slots * static_cast<std::int64_t>(sizeof(std::int32_t)));
  }
  void add(const PhiTensors<TensorView>& phi) {
    for (const auto& part : kPhiParts<TensorView>) add(phi.*part.tensor);
  }
  template <class... Parts>
  void add_all(const Parts&... parts) {
    (add(parts), ...);
  }
  void add(const BranchCall& x) { add_all(x.k, x.v, x.o, x.lse); }
  void add(const BranchCall& x, const Reading& reading) {
    add_rows(x.k, reading.keys), add_rows(x.v, reading.values);
    add_all(x.o, x.lse);
  }
  void add(const BranchGradientViews& x) { add_all(x.dk, x.dv); }
  void add(const ForwardCall& x, const Reading& reading) {
    add_rows(x.k, reading.keys), add_rows(x.v, reading.values);
    add_all(x.q, x.selection, x.o, x.lse);
  }
  void add(const CompressCall& x, const Reading&) { add_all(x.tokens, x.phi, x.rows); }
  void add(const NsaCall& x, const NsaReading& reading) {
    add(x.selected, reading.selected), add(x.window, reading.window);
    add_all(x.q, x.compressed, x.gates, x.phi_k, x.phi_v, x.k_compressed, x.v_compressed, x.selection, x.o);
  }
  void add(const BackwardCall& x, Reading reading) {
    reading.keys = reading.values;  // the selection is given
    add(x.forward, reading);
    add_all(x.d_o, x.dq, x.dk, x.dv);
  }
  void add(const CompressBackwardCall& x, const Reading&) {
    add_all(x.forward.tokens, x.forward.phi, x.d_rows, x.d_tokens, x.d_phi);
  }
  void add(const NsaBackwardCall& x, const NsaReading& reading) {
    NsaCall read = x.forward;
    read.o = {};
    add(read, reading);
    add_all(x.d_o, x.dq, x.compressed, x.selected, x.window, x.d_gates, x.dk_compressed, x.dv_compressed, x.d_phi_k,
            x.d_phi_v);
  }

  std::map<const void*, std::int64_t> of_;
};

const AttentionProblem& attention_of(const ForwardCall& call) {
  return is_nsa(call.op) ? call.nsa.attention : call.problem.attention;
}
const AttentionProblem& attention_of(const CompressCall& call) { return call.nsa.attention; }
const AttentionProblem& attention_of(const NsaCall& call) { return call.nsa.attention; }

template <class Call>
bool only_selects(const Call& call) {
  if constexpr (std::is_same_v<Call, ForwardCall>) return call.op == Operator::moba_select;
  return false;
}

template <class Call>
Work work(const Call& call) {
  constexpr bool kIsBackward = requires { call.forward; };
  const auto& forward = [&]() -> const auto& {
    if constexpr (kIsBackward)
      return call.forward;
    else
      return call;
  }
  ();
  const AttentionProblem& problem = attention_of(forward);
  const std::int64_t products = kIsBackward             ? 6 * problem.dk + 4 * problem.dv
                                : only_selects(forward) ? 2 * problem.dk
                                                        : 2 * (problem.dk + problem.dv);
  const auto reading = reading_of(forward);
  const std::int64_t entries = entries_of(reading);
  return {entries, static_cast<double>(entries) * static_cast<double>(products), TensorBytes(call, reading).sum()};
}

}  // namespace

Work work_of(const AnyCall& call) {
  return std::visit([](const auto& c) { return work(c); }, call);
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
