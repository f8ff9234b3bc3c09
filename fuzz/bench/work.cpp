#include "fuzz/bench/work.hpp"

#include <algorithm>
#include <map>
#include <type_traits>
#include <variant>

#include "reference/dense.hpp"
#include "reference/nsa_compression.hpp"
#include "reference/nsa_window.hpp"

namespace attnspec::fuzz {

namespace {

using namespace reference;
using namespace verify;

/// Adds up of_query(sequence, t) over all queries that stand at a key.
template <class OfQuery>
std::int64_t sum_over_queries(const AttentionProblem& problem, const OfQuery& of_query) {
  std::int64_t sum = 0;
  for (const Sequence& sequence : sequences(problem))
    for (std::int64_t token = sequence.q_begin; token < sequence.q_end; ++token)
      if (const std::int64_t t = sequence.position(token); t >= 0) sum += of_query(sequence, t);
  return sum;
}

/// Keys within reach in the blocks of a selection, over all query heads.
std::int64_t selected_entries(const AttentionProblem& problem, std::int64_t block, const Selection& selection,
                              const Reach& reach) {
  std::int64_t entries = 0;
  for (const Sequence& sequence : sequences(problem))
    for (std::int64_t token = sequence.q_begin; token < sequence.q_end; ++token)
      for (std::int64_t head = 0; head < problem.heads; ++head)
        for (const KeyRange& keys : visible_keys(selected_blocks(problem, selection, token, head),
                                                 reach(sequence, token), sequence.num_keys(), block))
          entries += keys.end - keys.begin;
  return entries;
}

/// All keys within reach.
std::int64_t reached_entries(const AttentionProblem& problem, const Reach& reach) {
  const auto [block, selection] = whole_sequence(problem);
  return selected_entries(problem, block, selection, reach);
}

std::int64_t compressed_entries(const NsaProblem& nsa) {
  return reached_entries(compressed_problem(nsa), compressed_reach(nsa));
}

/// Keys of the query's own block up to its own, and of the whole blocks before it: most_blocks blocks in all.
std::int64_t past_entries(const AttentionProblem& problem, std::int64_t block, std::int64_t most_blocks) {
  return problem.heads * sum_over_queries(problem, [&](const Sequence& sequence, std::int64_t t) {
           if (!problem.causal) return std::min(most_blocks * block, sequence.num_keys());
           return std::min(most_blocks - 1, t / block) * block + t % block + 1;
         });
}

/// Blocks whose scores a query of MoBA compares.
std::int64_t compared_blocks(const MobaProblem& problem) {
  if (problem.gate != Gate::top_k) return 0;
  return problem.attention.heads * sum_over_queries(problem.attention, [&](const Sequence& sequence, std::int64_t t) {
           return problem.attention.causal ? t / problem.block : num_blocks(sequence.num_keys(), problem.block);
         });
}

Selection selection_of(const SelectionView& view) {
  Selection selection(view.tokens, view.heads, view.slots);
  std::copy_n(view.data, selection.blocks.size(), selection.blocks.begin());
  return selection;
}

std::int64_t entries_of(const ForwardCall& call) {
  const AttentionProblem& problem = call.problem.attention;
  switch (call.op) {
    case Operator::dense: return reached_entries(problem, causal_reach(problem));
    case Operator::selected:
      return selected_entries(problem, call.problem.block, selection_of(call.selection), causal_reach(problem));
    case Operator::moba_select: return compared_blocks(call.problem);
    case Operator::moba: return past_entries(problem, call.problem.block, call.problem.top_k);
    case Operator::nsa_compressed: return compressed_entries(call.nsa);
    case Operator::window: return reached_entries(call.nsa.attention, window_reach(call.nsa));
    case Operator::nsa_compress:
    case Operator::nsa: break;  // have calls of their own
  }
  return 0;
}
std::int64_t entries_of(const CompressCall&) { return 0; }
std::int64_t entries_of(const NsaCall& call) {
  return compressed_entries(call.nsa) + past_entries(call.nsa.attention, call.nsa.block, call.nsa.top_n) +
         reached_entries(call.nsa.attention, window_reach(call.nsa));
}

// ---- Bytes ----

/// The bytes of tensors, each counted once: branches of nsa may share theirs.
class TensorBytes {
 public:
  template <class Call>
  explicit TensorBytes(const Call& call) {
    add(call);
  }

  double sum() const {
    std::int64_t all = 0;
    for (const auto& [data, bytes] : of_) all += bytes;
    return static_cast<double>(all);
  }

 private:
  void add(const TensorView& x) { of_[x.data] = x.tokens * x.heads * x.dim * bytes_of(x.format); }
  void add(const SelectionView& x) {
    of_[x.data] = x.tokens * x.heads * x.slots * static_cast<std::int64_t>(sizeof(std::int32_t));
  }
  void add(const PhiTensors<TensorView>& phi) {
    for (const auto& part : kPhiParts<TensorView>) add(phi.*part.tensor);
  }
  template <class... Parts>
  void add_all(const Parts&... parts) {
    (add(parts), ...);
  }
  void add(const BranchCall& x) { add_all(x.k, x.v, x.o, x.lse); }
  void add(const BranchGradientViews& x) { add_all(x.dk, x.dv); }
  void add(const ForwardCall& x) { add_all(x.q, x.k, x.v, x.selection, x.o, x.lse); }
  void add(const CompressCall& x) { add_all(x.tokens, x.phi, x.rows); }
  void add(const NsaCall& x) {
    add_all(x.q, x.compressed, x.selected, x.window, x.gates, x.phi_k, x.phi_v, x.k_compressed, x.v_compressed,
            x.selection, x.o);
  }
  void add(const BackwardCall& x) { add_all(x.forward, x.d_o, x.dq, x.dk, x.dv); }
  void add(const CompressBackwardCall& x) { add_all(x.forward.tokens, x.forward.phi, x.d_rows, x.d_tokens, x.d_phi); }
  void add(const NsaBackwardCall& x) {
    NsaCall read = x.forward;
    read.o = {};
    add_all(read, x.d_o, x.dq, x.compressed, x.selected, x.window, x.d_gates, x.dk_compressed, x.dv_compressed,
            x.d_phi_k, x.d_phi_v);
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
  const std::int64_t entries = entries_of(forward);
  return {entries, static_cast<double>(entries) * static_cast<double>(products), TensorBytes(call).sum()};
}

}  // namespace

Work work_of(const AnyCall& call) {
  return std::visit([](const auto& c) { return work(c); }, call);
}

Floor floor_of(const Work& work, Format format, const cuda::Ceilings& ceilings) {
  const double rate = ceilings.operations_per_second / (format == Format::fp32 ? 2 : 1);
  return {rate > 0 ? 1e3 * work.operations / rate : 0, 1e3 * work.bytes / ceilings.bytes_per_second};
}

Floor hard_floor_of(const Work& work, Format format, const cuda::Ceilings& ceilings) {
  Work uncached = work;
  uncached.bytes = std::max(0.0, work.bytes - static_cast<double>(ceilings.cache_bytes));
  return floor_of(uncached, format, ceilings);
}

}  // namespace attnspec::fuzz
