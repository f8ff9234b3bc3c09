#include "fuzz/generate.hpp"

#include <fmt/format.h>
#include <fmt/ranges.h>
#include <rapidcheck/state.h>

#include <algorithm>
#include <memory>
#include <numeric>
#include <string>
#include <utility>

#include "verify/laws/laws.hpp"
#include "verify/regimes.hpp"
#include "verify/session.hpp"

namespace attnspec::fuzz {

namespace {

using namespace verify;
using reference::Gate;

/// Steps of a session that follow its first call.
constexpr int kMaxSteps = 5;

/// A whole number from least to most, both included.
std::int64_t between(std::int64_t least, std::int64_t most) {
  return *rc::gen::inRange<std::int64_t>(least, std::max(least, most) + 1);
}

template <class T>
T one_of(std::vector<T> values) {
  return *rc::gen::elementOf(std::move(values));
}

bool always(Operator) { return true; }
bool has_queries(Operator op) { return op != Operator::nsa_compress; }
bool has_slots(Operator op) { return selects(op) || op == Operator::selected; }
bool has_compression(Operator op) { return has_importance(op) || compresses(op); }
bool has_gate(Operator op) { return selects(op); }
bool has_causality(Operator op) { return !is_nsa(op); }
bool is_selected(Operator op) { return op == Operator::selected; }
bool is_whole_nsa(Operator op) { return op == Operator::nsa; }

/// An alternative that sets one member.
template <class Value>
Alternative sets(std::string name, Value Case::*member, Value value, int weight = 1) {
  return {std::move(name), weight, [=](Draft& draft) { draft.c.*member = value; }};
}

Axis size_axis() {
  return {"size",
          always,
          {{"tens", 14, [](Draft& draft) { draft.room = between(8, 104); }},
           {"hundreds", 1, [](Draft& draft) { draft.room = between(96, 400); }}},
          true};
}

void set_heads(Draft& draft, std::int64_t kv_heads, std::int64_t group) {
  draft.c.kv_heads = kv_heads;
  draft.c.heads = kv_heads * group;
}

Axis head_axis() {
  return {"heads",
          always,
          {{"one", 2, [](Draft& draft) { set_heads(draft, 1, 1); }},
           {"several", 1, [](Draft& draft) { set_heads(draft, between(2, 4), 1); }},
           {"one group", 1, [](Draft& draft) { set_heads(draft, 1, between(2, 5)); }},
           {"groups", 1, [](Draft& draft) {
              const std::int64_t kv_heads = between(2, 3);
              set_heads(draft, kv_heads, between(2, 3));
            }}}};
}

void set_features(Draft& draft, std::int64_t dk, std::int64_t dv) {
  draft.c.dk = dk;
  draft.c.dv = dv;
}

Axis feature_axis() {
  return {"features",
          always,
          {{"multiples of 8", 3,
            [](Draft& draft) {
              const auto d = one_of<std::int64_t>({8, 16, 24, 32});
              set_features(draft, d, d);
            }},
           {"64", 1, [](Draft& draft) { set_features(draft, 64, 64); }},
           {"few", 2,
            [](Draft& draft) {
              const std::int64_t dk = between(1, 7);
              set_features(draft, dk, between(1, 7));
            }},
           {"odd", 1,
            [](Draft& draft) {
              const std::int64_t dk = 2 * between(4, 20) + 1;
              set_features(draft, dk, 2 * between(4, 20) + 1);
            }},
           {"unequal", 1,
            [](Draft& draft) {
              const std::int64_t dk = 8 * between(1, 8);
              set_features(draft, dk, 8 * between(1, 8));
            }},
           {"wide", 1, [](Draft& draft) {
              const auto dk = one_of<std::int64_t>({80, 96, 128, 192});
              set_features(draft, dk, one_of<std::int64_t>({64, 128}));
            }}}};
}

Axis block_axis() {
  return {"block",
          has_slots,
          {{"one token", 1, [](Draft& draft) { draft.c.block = 1; }},
           {"few tokens", 2, [](Draft& draft) { draft.c.block = between(2, 7); }},
           {"power of two", 2,
            [](Draft& draft) {
              draft.c.block = one_of<std::int64_t>({4, 8, 16, 32});
            }},
           {"no power of two", 1,
            [](Draft& draft) {
              draft.c.block = one_of<std::int64_t>({6, 9, 10, 12, 20, 24});
            }},
           {"large", 1, [](Draft& draft) {
              draft.c.block = one_of<std::int64_t>({48, 64, 100, 512});
            }}}};
}

/// l = stride * rows, l' = stride * ratio, ratio >= rows.
void set_compression(Draft& draft, std::int64_t stride, std::int64_t rows, std::int64_t ratio) {
  draft.c.compress_stride = stride;
  draft.c.compress_block = stride * rows;
  draft.c.block = stride * ratio;
}

Axis compression_axis() {
  return {"compression",
          has_compression,
          {{"of one token", 1, [](Draft& draft) { set_compression(draft, 1, 1, between(1, 8)); }},
           {"stride 1", 1,
            [](Draft& draft) {
              const std::int64_t rows = between(2, 6);
              set_compression(draft, 1, rows, rows + between(0, 6));
            }},
           {"overlapping", 3,
            [](Draft& draft) {
              const std::int64_t rows = between(2, 4);
              const std::int64_t stride = between(2, 4);
              set_compression(draft, stride, rows, rows + between(0, 2));
            }},
           {"side by side", 2,
            [](Draft& draft) {
              const std::int64_t stride = between(2, 8);
              set_compression(draft, stride, 1, between(1, 3));
            }},
           {"32 by 16 of 64", 1, [](Draft& draft) { set_compression(draft, 16, 2, 4); }}}};
}

Axis sequence_axis() {
  return {"sequences",
          always,
          {{"one", 2, [](Draft& draft) { draft.sequences = 1; }},
           {"few", 2, [](Draft& draft) { draft.sequences = between(2, 3); }},
           {"many", 1, [](Draft& draft) { draft.sequences = between(4, 8); }}}};
}

/// Tokens that the next sequence may have.
std::int64_t room_left(const Draft& draft) {
  const std::int64_t used = std::accumulate(draft.c.lens.begin(), draft.c.lens.end(), std::int64_t{0});
  return std::max<std::int64_t>(1, 2 * draft.room / (draft.c.heads + 1) - used);
}

void add_length(Draft& draft, std::int64_t length) { draft.c.lens.push_back(std::max<std::int64_t>(0, length)); }

/// A length on an edge of tiles of so many tokens, or one token beside it; about as long as there is room.
void add_edge(Draft& draft, std::int64_t tile) {
  const std::int64_t edge = tile * between(1, room_left(draft) / tile);
  add_length(draft, edge + between(-1, 1));
}

/// Tokens between edges of blocks; of tiles where an operator has no blocks.
std::int64_t block_tokens(const Case& c) {
  if (has_compression(c.op)) return one_of<std::int64_t>({c.block, c.compress_block, c.compress_stride});
  return has_slots(c.op) ? c.block : 8;
}

void add_many_blocks(Draft& draft) {
  const std::int64_t block = has_slots(draft.c.op) ? draft.c.block : draft.c.compress_stride;
  if (block > 2) return add_length(draft, between(1, room_left(draft)));
  const std::int64_t blocks = between(127, 140);
  add_length(draft, block * blocks + between(0, 1));
}

Axis length_axis() {
  return {"lengths",
          always,
          {{"any", 3, [](Draft& draft) { add_length(draft, between(1, room_left(draft))); }},
           {"at a block's edge", 4, [](Draft& draft) { add_edge(draft, block_tokens(draft.c)); }},
           {"at a tile's edge", 1,
            [](Draft& draft) {
              std::vector<std::int64_t> tiles{16};
              for (const std::int64_t tile : {32, 64, 128})
                if (tile <= 2 * room_left(draft)) tiles.push_back(tile);
              add_edge(draft, one_of(tiles));
            }},
           {"one token", 1, [](Draft& draft) { add_length(draft, 1); }},
           {"empty", 1, [](Draft& draft) { add_length(draft, 0); }},
           {"many blocks", 1, [](Draft& draft) { add_many_blocks(draft); }}},
          false,
          true};
}

void add_queries(Draft& draft, std::int64_t queries) { draft.c.q_lens.push_back(queries); }

/// Keys of the sequence whose queries come next.
std::int64_t keys_of_next(const Draft& draft) { return draft.c.lens[draft.c.q_lens.size()]; }

Axis query_axis() {
  return {"queries",
          has_queries,
          {{"as keys", 6, [](Draft& draft) { add_queries(draft, keys_of_next(draft)); }},
           {"one", 1, [](Draft& draft) { add_queries(draft, 1); }},
           {"fewer", 1, [](Draft& draft) { add_queries(draft, between(0, keys_of_next(draft))); }},
           {"more", 1,
            [](Draft& draft) {
              const std::int64_t keys = keys_of_next(draft);
              add_queries(draft, keys + between(1, 9));
            }}},
          false,
          true};
}

/// Blocks of the longest sequence.
std::int64_t max_blocks(const Case& c) { return (longest(c) + c.block - 1) / c.block; }

/// Blocks per query, in slots or n of NSA.
void set_count(Draft& draft, std::int64_t count) {
  draft.c.top_k = std::max<std::int64_t>(1, count);
  draft.c.top_n = std::max(draft.c.initial + draft.c.local, count);
}

Axis count_axis() {
  return {"blocks per query",
          [](Operator op) { return has_slots(op) || has_importance(op); },
          {{"one", 2, [](Draft& draft) { set_count(draft, 1); }},
           {"some", 4,
            [](Draft& draft) { set_count(draft, between(2, std::min<std::int64_t>(8, max_blocks(draft.c) - 1))); }},
           {"all but one", 1, [](Draft& draft) { set_count(draft, max_blocks(draft.c) - 1); }},
           {"all", 1, [](Draft& draft) { set_count(draft, max_blocks(draft.c)); }},
           {"more than all", 1, [](Draft& draft) { set_count(draft, max_blocks(draft.c) + between(1, 9)); }}}};
}

Axis forced_axis() {
  const auto forced = [](std::int64_t initial, std::int64_t local) {
    return [=](Draft& draft) { draft.c.initial = initial, draft.c.local = local; };
  };
  return {"forced blocks",
          has_importance,
          {{"1 and 2", 2, forced(1, 2)},
           {"0 and 1", 1, forced(0, 1)},
           {"0 and 3", 1, forced(0, 3)},
           {"2 and 1", 1, forced(2, 1)}}};
}

Axis window_axis() {
  return {"window",
          has_window,
          {{"one key", 1, [](Draft& draft) { draft.c.window = 1; }},
           {"shorter", 4, [](Draft& draft) { draft.c.window = between(2, longest(draft.c) - 1); }},
           {"at a tile's edge", 1,
            [](Draft& draft) {
              const std::int64_t tile = one_of<std::int64_t>({8, 16, 32, 64});
              draft.c.window = tile + between(-1, 1);
            }},
           {"as long", 1, [](Draft& draft) { draft.c.window = std::max<std::int64_t>(1, longest(draft.c)); }},
           {"longer", 1, [](Draft& draft) { draft.c.window = longest(draft.c) + between(1, 99); }}}};
}

Axis phi_axis() {
  const auto mlp = [](reference::Activation activation) {
    return [=](Draft& draft) {
      draft.c.phi = reference::Phi::mlp;
      draft.c.activation = activation;
      draft.c.hidden = between(1, 17);
    };
  };
  return {"phi",
          compresses,
          {sets("mean", &Case::phi, reference::Phi::mean, 2),
           sets("linear", &Case::phi, reference::Phi::linear, 2),
           {"mlp with relu", 1, mlp(reference::Activation::relu)},
           {"mlp with silu", 1, mlp(reference::Activation::silu)},
           {"mlp with gelu", 1, mlp(reference::Activation::gelu)}}};
}

Axis flag_axis(const char* name, bool (*has)(Operator), bool Case::*member, int weight_of_no, int weight_of_yes) {
  return {name, has, {sets("no", member, false, weight_of_no), sets("yes", member, true, weight_of_yes)}};
}

void set_gate(Draft& draft, Gate gate) {
  if (!draft.c.causal) return;  // which gives "recent" its meaning
  draft.c.gate = gate;
  if (gate == Gate::sink) draft.c.top_k = std::max<std::int64_t>(2, draft.c.top_k);
}

Axis gate_axis() {
  return {"gate",
          has_gate,
          {{"top_k", 3, [](Draft& draft) { set_gate(draft, Gate::top_k); }},
           {"window", 1, [](Draft& draft) { set_gate(draft, Gate::window); }},
           {"sink", 1, [](Draft& draft) { set_gate(draft, Gate::sink); }}}};
}

Axis scale_axis() {
  return {"scale",
          attends,
          {{"default", 4, [](Draft& draft) { draft.c.scale = default_scale(draft.c.dk); }},
           sets("0", &Case::scale, 0.0),
           {"negative", 1,
            [](Draft& draft) {
              draft.c.scale = one_of<double>({-0.1, -0.5, -1});
            }},
           {"other", 2, [](Draft& draft) {
              draft.c.scale = one_of<double>({0.01, 0.1, 0.3, 1, 1.5});
            }}}};
}

Axis dtype_axis() {
  return {"dtype",
          always,
          {sets("bf16", &Case::dtype, Format::bf16), sets("fp16", &Case::dtype, Format::fp16),
           sets("fp32", &Case::dtype, Format::fp32)}};
}

Axis layout_axis() {
  return {"layout",
          always,
          {sets("strided", &Case::layout, Layout::strided), sets("contiguous", &Case::layout, Layout::contiguous)}};
}

/// A slice of a captured file, where the case fits into it.
Alternative captured(const std::string& file) {
  const CapturedSizes sizes = captured_sizes(file);
  return {"captured:" + file, 1, [=](Draft& draft) {
            const Case& c = draft.c;
            const std::int64_t queries = c.q_lens.empty() ? 0 : *std::max_element(c.q_lens.begin(), c.q_lens.end());
            const bool fits = c.dk <= sizes.dk && c.dv <= sizes.dv && std::max(longest(c), queries) <= sizes.tokens;
            draft.c.regime = fits ? "captured:" + file : "normal";
          }};
}

Axis regime_axis() {
  Axis axis{"regime", always, {}};
  for (const Regime& regime : regimes())
    if (std::string(regime.name) != "captured")
      axis.alternatives.push_back(sets<std::string>(regime.name, &Case::regime, regime.name, 3));
  for (const std::string& file : captured_names()) axis.alternatives.push_back(captured(file));
  return axis;
}

/// A law, and what it needs to have something to say.
void set_law(Draft& draft, Law law) {
  Case& c = draft.c;
  c.law = law;
  c.session.clear();  // a law has calls of its own
  if (law == Law::future) c.causal = true;
  if (law == Law::unselected) c.shared_kv = false;
  if (law == Law::heads && c.kv_heads == 1 && (c.heads == 1 || is_nsa(c.op))) c.heads *= 2, c.kv_heads = 2;
  if (law == Law::packing && c.lens.size() == 1) {
    c.lens.push_back(c.lens[0]);
    c.q_lens.push_back(c.q_lens[0]);
  }
  if (law == Law::power && compresses(c.op) && c.phi != reference::Phi::mean && c.dtype == Format::fp16)
    c.dtype = Format::bf16;
  if (law == Law::decode && c.op != Operator::nsa_compress) c.q_lens[0] = std::max<std::int64_t>(2, c.q_lens[0]);
  if (law == Law::decode && c.op == Operator::nsa_compress)
    c.lens[0] = c.q_lens[0] = std::max(c.lens[0], c.compress_block + c.compress_stride);
}

Axis law_axis() {
  Axis axis{"law", always, {sets("none", &Case::law, Law::none, 40)}, true};
  for (const Law law : kLaws)
    axis.alternatives.push_back(
        {name(law), 1, [=](Draft& draft) { set_law(draft, law); }, [=](Operator op) { return has_law(op, law); }});
  return axis;
}

/// Draws the axis out of the alternatives that the swarm enables.
void draw(const Axis& axis, const std::vector<bool>& enabled, Draft& draft) {
  const auto weight = [&](std::size_t i) {
    const Alternative& one = axis.alternatives[i];
    return enabled[i] && (!one.has || one.has(draft.c.op)) ? one.weight : 0;
  };
  std::int64_t sum = 0;
  for (std::size_t i = 0; i < enabled.size(); ++i) sum += weight(i);
  if (sum == 0) return;  // the operator has none of what the swarm has
  std::int64_t left = between(0, sum - 1);
  for (std::size_t i = 0; i < enabled.size(); ++i) {
    left -= weight(i);
    if (left < 0) return axis.alternatives[i].draw(draft);
  }
}

/// Halves what a case has too much of: its groups, then its heads, then its features.
void fit(Draft& draft) {
  Case& c = draft.c;
  const auto queries = [&] { return std::accumulate(c.q_lens.begin(), c.q_lens.end(), std::int64_t{0}) * c.heads; };
  const std::int64_t most = std::max<std::int64_t>(128, 2 * draft.room);
  if (queries() > most) c.heads = c.kv_heads;
  if (queries() > most) c.heads = c.kv_heads = 1;
  while (queries() * (c.dk + c.dv) > 64 * most && c.dk + c.dv > 16) set_features(draft, (c.dk + 1) / 2, (c.dv + 1) / 2);
}

/// What depends on all of the shape, so that it is drawn after it fits.
void complete_shape(Draft& draft) {
  if (draft.c.q_lens.size() != draft.c.lens.size()) draft.c.q_lens = draft.c.lens;
  const bool is_empty = longest(draft.c) == 0;
  if (is_empty && between(0, 7) > 0) draft.c.lens[0] = draft.c.q_lens[0] = between(1, 20);
  fit(draft);
}

Case draw_case(Operator op, const Swarm& swarm) {
  Draft draft;
  draft.c.op = op;
  draft.c.lens.clear();
  draft.c.q_lens.clear();
  for (std::size_t i = 0; i < axes().size(); ++i) {
    const Axis& axis = axes()[i];
    if (axis.has(op))
      for (std::int64_t times = axis.is_per_sequence ? draft.sequences : 1; times > 0; --times)
        draw(axis, swarm.enabled[i], draft);
    if (axis.name == "queries") complete_shape(draft);
  }
  if (op == Operator::nsa_compress) draft.c.heads = 1;  // the default that its kv_heads would follow
  draft.c.seed = static_cast<std::uint64_t>(between(0, 999999));
  return draft.c;
}

Swarm draw_swarm() {
  Swarm swarm;
  for (const Axis& axis : axes()) {
    std::vector<bool> enabled(axis.alternatives.size(), true);
    const bool is_whole = between(0, 1) == 0 || axis.is_always_whole;
    for (std::size_t i = 0; !is_whole && i < enabled.size(); ++i) enabled[i] = between(0, 2) > 0;
    const auto kept = static_cast<std::size_t>(between(0, std::ssize(enabled) - 1));
    enabled[kept] = true;
    swarm.enabled.push_back(std::move(enabled));
  }
  return swarm;
}

/// A step as RapidCheck's stateful generation has it: the model is the call before, what runs is the list of steps.
class Step : public rc::state::Command<Case, std::vector<SessionStep>> {
 public:
  explicit Step(SessionStep step) : step_(step) {}

  /// Lengths can only change places where they differ.
  void checkPreconditions(const Case& before) const override {
    RC_PRE(step_ != SessionStep::offsets || after(before).lens != before.lens);
  }
  void apply(Case& call) const override { call = after(call); }
  void run(const Case&, std::vector<SessionStep>& steps) const override { steps.push_back(step_); }

 private:
  Case after(const Case& before) const {
    Case session = before;
    session.session = {step_};
    return session_calls(session).back().c;
  }

  SessionStep step_;
};

std::vector<SessionStep> draw_session(const Case& c) {
  const auto any_step = [](const Case&) {
    return rc::gen::map(rc::gen::inRange<std::size_t>(0, std::size(kSessionSteps)), [](std::size_t step) {
      return std::shared_ptr<const Step::CommandType>(std::make_shared<Step>(static_cast<SessionStep>(step)));
    });
  };
  const auto commands = *rc::gen::resize(kMaxSteps - 1, rc::state::gen::commands(c, any_step));
  std::vector<SessionStep> steps;
  for (const auto& command : commands) command->run(c, steps);
  return steps;
}

Axis session_axis() {
  return {"session", always, {{"one call", 29, [](Draft&) {}}, {"several calls", 1, [](Draft& draft) {
                                                                  draft.c.session = draw_session(draft.c);
                                                                }}}};
}

}  // namespace

const std::vector<Axis>& axes() {
  static const std::vector<Axis> all{size_axis(),
                                     head_axis(),
                                     feature_axis(),
                                     block_axis(),
                                     compression_axis(),
                                     sequence_axis(),
                                     length_axis(),
                                     query_axis(),
                                     forced_axis(),
                                     count_axis(),
                                     window_axis(),
                                     phi_axis(),
                                     flag_axis("shared phi", compresses, &Case::shared_phi, 1, 1),
                                     flag_axis("shared k and v", is_whole_nsa, &Case::shared_kv, 1, 1),
                                     flag_axis("selection per kv head", is_selected, &Case::shared_selection, 1, 1),
                                     flag_axis("causal", has_causality, &Case::causal, 1, 2),
                                     gate_axis(),
                                     scale_axis(),
                                     dtype_axis(),
                                     layout_axis(),
                                     regime_axis(),
                                     session_axis(),
                                     law_axis()};
  return all;
}

Swarm whole_swarm() {
  Swarm swarm;
  for (const Axis& axis : axes()) swarm.enabled.emplace_back(axis.alternatives.size(), true);
  return swarm;
}

rc::Gen<Swarm> any_swarm() { return rc::gen::exec(draw_swarm); }

void keep_laws(const std::vector<Law>& laws, Swarm& swarm) {
  const auto law = static_cast<std::size_t>(
      std::find_if(axes().begin(), axes().end(), [](const Axis& axis) { return axis.name == "law"; }) - axes().begin());
  for (std::size_t i = 0; i < swarm.enabled[law].size(); ++i)
    swarm.enabled[law][i] =
        std::any_of(laws.begin(), laws.end(), [&](Law kept) { return axes()[law].alternatives[i].name == name(kept); });
}

std::string describe(const Swarm& swarm, const std::vector<Operator>& operators) {
  std::vector<std::string> parts;
  for (std::size_t i = 0; i < axes().size(); ++i) {
    std::vector<std::string> names;
    for (std::size_t k = 0; k < swarm.enabled[i].size(); ++k)
      if (swarm.enabled[i][k]) names.push_back(axes()[i].alternatives[k].name);
    const bool is_used = std::any_of(operators.begin(), operators.end(), axes()[i].has);
    if (is_used && names.size() < swarm.enabled[i].size())
      parts.push_back(fmt::format("{}: {}", axes()[i].name, fmt::join(names, ", ")));
  }
  return parts.empty() ? "everything" : fmt::format("{}", fmt::join(parts, "; "));
}

rc::Gen<Case> any_case(Operator op, const Swarm& swarm) {
  return rc::gen::exec([=] { return draw_case(op, swarm); });
}

Case normalised(const Case& c) { return parse_case(print(c)); }

}  // namespace attnspec::fuzz
