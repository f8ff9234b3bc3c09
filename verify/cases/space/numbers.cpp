// What the tensors hold, and the flags of the operators.

#include <algorithm>

#include "verify/cases/inputs/captured.hpp"
#include "verify/cases/regimes.hpp"
#include "verify/cases/space/axes.hpp"

namespace attnspec::verify::space {

namespace {

using reference::Activation;
using reference::Phi;

Value mlp(const char* name, Activation activation) {
  return {name, 1,
          [=](Draft& draft) {
            draft.c.phi = Phi::mlp;
            draft.c.activation = activation;
            draft.c.hidden = draft.between(1, 17);
          },
          [=](const Case& c) { return c.phi == Phi::mlp && c.activation == activation; }};
}

Axis flag_axis(const char* name, bool (*has)(Operator), bool Case::*member, int weight_of_yes = 1) {
  return {name, has, {sets("no", member, false), sets("yes", member, true, weight_of_yes)}};
}

/// A slice of a captured file, where the case fits into it.
Value captured(const std::string& file) {
  const CapturedSizes sizes = captured_sizes(file);
  return {"captured:" + file, 1, [=](Draft& draft) {
            const Case& c = draft.c;
            const std::int64_t queries = c.q_lens.empty() ? 0 : *std::max_element(c.q_lens.begin(), c.q_lens.end());
            const bool fits = c.dk <= sizes.dk && c.dv <= sizes.dv && std::max(longest(c), queries) <= sizes.tokens;
            draft.c.regime = fits ? "captured:" + file : "normal";
          }};
}

}  // namespace

Axis phi_axis() {
  return {"phi",
          compresses,
          {sets("mean", &Case::phi, Phi::mean, 2), sets("linear", &Case::phi, Phi::linear, 2),
           mlp("mlp with relu", Activation::relu), mlp("mlp with silu", Activation::silu),
           mlp("mlp with gelu", Activation::gelu)}};
}

Axis shared_phi_axis() { return flag_axis("shared phi", compresses, &Case::shared_phi); }

Axis shared_kv_axis() {
  return flag_axis(
      "shared k and v", [](Operator op) { return has_key(op, "shared_kv"); }, &Case::shared_kv);
}

Axis shared_selection_axis() { return flag_axis("selection per kv head", reads_selection, &Case::shared_selection); }

Axis causal_axis() {
  return flag_axis(
      "causal", [](Operator op) { return has_key(op, "causal"); }, &Case::causal, 2);
}

Axis scale_axis() {
  return {"scale",
          attends,
          {{"default", 4, [](Draft& draft) { draft.c.scale = default_scale(draft.c.dk); },
            [](const Case& c) { return c.scale == default_scale(c.dk); }},
           sets("0", &Case::scale, 0.0),
           {"tiny", 1,
            [](Draft& draft) {
              draft.c.scale = draft.one_of<double>({0x1p-24, 0x1p-60});
            },
            [](const Case& c) { return c.scale > 0 && c.scale < 0x1p-20; }},
           {"negative", 1,
            [](Draft& draft) {
              draft.c.scale = draft.one_of<double>({-0.1, -0.5, -1});
            },
            [](const Case& c) { return c.scale < 0; }},
           {"large", 1,
            [](Draft& draft) {
              draft.c.scale = draft.one_of<double>({8, 20, 64});
            },
            [](const Case& c) { return c.scale >= 8; }},
           {"other", 2,
            [](Draft& draft) {
              draft.c.scale = draft.one_of<double>({0.01, 0.1, 0.3, 1, 1.5});
            },
            [](const Case& c) { return c.scale > 0 && c.scale != default_scale(c.dk); }}}};
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

Axis regime_axis() {
  Axis axis{"regime", always, {}};
  for (const Regime& regime : regimes()) {
    if (std::string(regime.name) == "captured") continue;
    axis.values.push_back(sets<std::string>(regime.name, &Case::regime, regime.name, 3));
    axis.values.back().has = regime.has;
    if (regime.name == std::string("very_negative"))  // in fp16, times a large scale, no backward can be judged: A8
      axis.values.back().draw = [](Draft& draft) {
        draft.c.regime = "very_negative";
        if (draft.c.dtype == Format::fp16 && draft.c.scale >= 8) draft.c.scale = default_scale(draft.c.dk);
      };
  }
  for (const std::string& file : captured_names()) axis.values.push_back(captured(file));
  axis.values.push_back(seen("captured", [](const Case& c) { return c.regime.starts_with("captured:"); }));
  return axis;
}

}  // namespace attnspec::verify::space
