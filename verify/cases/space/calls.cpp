// Cases of several calls: sessions and laws.

#include <algorithm>
#include <cmath>

#include "verify/cases/law.hpp"
#include "verify/cases/session.hpp"
#include "verify/cases/space/axes.hpp"

namespace attnspec::verify::space {

namespace {

/// Steps of a session that follow its first call.
constexpr std::int64_t kMaxSteps = 5;

/// The lengths of the last call of a session.
std::vector<std::int64_t> last_lengths(const Case& c) { return session_calls(c).back().c.lens; }

/// Steps of any kind; lengths change places only where they differ.
void draw_session(Draft& draft) {
  Case& c = draft.c;
  if (draft.is_extreme) return;
  for (std::int64_t steps = draft.between(1, kMaxSteps); steps > 0; --steps) {
    const std::vector<std::int64_t> before = last_lengths(c);
    c.session.push_back(static_cast<SessionStep>(draft.between(0, std::ssize(kSessionSteps) - 1)));
    if (c.session.back() == SessionStep::offsets && last_lengths(c) == before) c.session.back() = SessionStep::contents;
  }
}

/// Blocks that tie, of which a query selects some: which ones may depend on anything.
void let_blocks_tie(Case& c) {
  c.regime = "tie";
  c.gate = reference::Gate::top_k;
  c.block = std::min(c.block, std::max<std::int64_t>(1, longest(c) / 8));
  c.top_k = std::max<std::int64_t>(2, std::min(c.top_k, max_blocks(c) / 2));
}

/// Whether the law holds the bits of a row to other queries or sequences beside it.
bool changes_neighbours(Law law) { return law == Law::packing || law == Law::decode; }

/// A law, with the sizes without which it says nothing.
void set_law(Draft& draft, Law law) {
  Case& c = draft.c;
  if (draft.is_extreme) return;
  c.law = law;
  c.session.clear();                                                            // a law has calls of its own
  if (has_queries(c.op)) c.q_lens[0] = std::max<std::int64_t>(1, c.q_lens[0]);  // and rows to compare
  if (needs_causality(law)) c.causal = true;
  if (law == Law::unselected) c.shared_kv = false;
  if (law == Law::heads && c.kv_heads == 1 && (c.heads == 1 || is_nsa(c.op)))
    c.heads *= 2, c.kv_heads = has_indexer(c.op) ? 1 : 2;
  if (law == Law::packing && c.lens.size() == 1) {
    c.lens.push_back(c.lens[0]);
    c.q_lens.push_back(c.q_lens[0]);
  }
  if (law == Law::power && c.scale != 0 && std::abs(c.scale) < kMinPowerScale) c.scale = default_scale(c.dk);
  if (law == Law::power && compresses(c.op) && c.phi != reference::Phi::mean && c.dtype == Format::fp16)
    c.dtype = Format::bf16;
  if (law == Law::negation || law == Law::reciprocal) c.phi = reference::Phi::mean;
  if (law == Law::reciprocal && compresses(c.op) && c.dtype == Format::fp16) c.dtype = Format::bf16;
  if (law == Law::groups && c.heads == c.kv_heads) c.heads *= 2;
  if (law == Law::all_blocks) c.top_k = std::max(c.top_k, max_blocks(c));
  if (law == Law::own_block) c.top_k = 1, c.gate = reference::Gate::top_k;
  if (law == Law::whole_window) c.window = std::max<std::int64_t>(1, longest(c));
  if (law == Law::as_moba) {
    c.heads = c.kv_heads, c.compress_block = c.compress_stride = c.block, c.phi = reference::Phi::mean;
    c.initial = 0, c.local = 1, c.shared_kv = true, c.scale = default_scale(c.dk);
  }
  if (law == Law::slots) c.selection_order = std::min(c.selection_order, SelectionOrder::packed);
  if (law == Law::prefix)
    c.lens[0] = std::max<std::int64_t>(2, c.lens[0]), c.q_lens[0] = std::max<std::int64_t>(2, c.q_lens[0]);
  if (law == Law::mass) {
    if (c.compress_stride == c.block) set_compression(draft, std::max<std::int64_t>(1, c.block / 4), 2, 4);
    c.top_n = std::min(c.top_n, c.initial + c.local + 2);
    for (std::int64_t& length : c.lens) length = std::min(length, c.dv * c.block);
  }
  if (law == Law::mass || law == Law::dk_sum || law == Law::dv_sum) {
    c.scale = default_scale(c.dk);
    for (std::int64_t& queries : c.q_lens) queries = std::max<std::int64_t>(1, queries);
  }
  if (law == Law::decode && has_queries(c.op)) c.q_lens[0] = std::max<std::int64_t>(2, c.q_lens[0]);
  if (law == Law::decode && !has_queries(c.op))
    c.lens[0] = c.q_lens[0] = std::max(c.lens[0], c.compress_block + c.compress_stride);
  if (changes_neighbours(law) && selects(c.op) && (!attends(c.op) || draft.between(0, 1) == 0)) let_blocks_tie(c);
}

}  // namespace

Axis session_axis() {
  return {"calls",
          always,
          {{"one", 29, [](Draft&) {}, [](const Case& c) { return c.session.empty(); }},
           {"several", 1, draw_session, [](const Case& c) { return !c.session.empty(); }}}};
}

Axis law_axis() {
  Axis axis{"law", always, {sets("none", &Case::law, Law::none, 90)}, true};
  for (const Law law : kLaws)
    axis.values.push_back({name(law), 1, [=](Draft& draft) { set_law(draft, law); },
                           [=](const Case& c) { return c.law == law; }, [=](Operator op) { return has_law(op, law); }});
  return axis;
}

}  // namespace attnspec::verify::space
