// Cases for properties.
#pragma once

#include <rapidcheck.h>

#include <string>
#include <vector>

#include "verify/cases/case.hpp"
#include "verify/laws/laws.hpp"

namespace attnspec::verify {

/// Any valid case.
inline rc::Gen<Case> any_case() {
  return rc::gen::exec([] {
    Case c;
    c.op = *rc::gen::elementOf(std::vector<Operator>(std::begin(kOperators), std::end(kOperators)));
    c.lens = *rc::gen::nonEmpty(rc::gen::container<std::vector<std::int64_t>>(rc::gen::inRange<std::int64_t>(0, 300)));
    c.q_lens = c.lens;
    if (c.op != Operator::nsa_compress && *rc::gen::arbitrary<bool>())
      for (std::int64_t& length : c.q_lens) length = *rc::gen::inRange<std::int64_t>(0, 300);
    c.kv_heads = has_key(c.op, "kv_heads") ? *rc::gen::inRange(1, 5) : 1;
    c.heads = c.op == Operator::nsa_compress ? 1 : c.kv_heads * *rc::gen::inRange(1, 5);
    c.dk = *rc::gen::inRange(1, 200);
    c.scale = default_scale(c.dk);
    c.dtype = *rc::gen::element(Format::bf16, Format::fp16, Format::fp32);
    c.layout = *rc::gen::element(Layout::strided, Layout::contiguous);
    c.causal = !has_key(c.op, "causal") || *rc::gen::arbitrary<bool>();
    c.regime = *rc::gen::element<std::string>("normal", "tie", "near_tie", "very_negative");
    c.seed = *rc::gen::arbitrary<std::uint64_t>();
    c.session = *rc::gen::container<std::vector<SessionStep>>(rc::gen::element(
        SessionStep::contents, SessionStep::moved, SessionStep::shape, SessionStep::offsets, SessionStep::again));
    c.dv = c.dk;
    if (attends(c.op)) {
      c.dv = *rc::gen::inRange(1, 200);
      if (*rc::gen::arbitrary<bool>()) c.scale = *rc::gen::element(0.0, -0.1, 1e-30, 1.0 / 3, 3e38);
    }
    if (compresses(c.op)) {
      c.phi = *rc::gen::element(reference::Phi::mean, reference::Phi::linear, reference::Phi::mlp);
      c.activation =
          *rc::gen::element(reference::Activation::relu, reference::Activation::silu, reference::Activation::gelu);
      c.hidden = *rc::gen::inRange(1, 100);
      c.shared_phi = *rc::gen::arbitrary<bool>();
    }
    if (c.op == Operator::nsa) c.shared_kv = *rc::gen::arbitrary<bool>();
    if (c.op == Operator::window || c.op == Operator::nsa) c.window = *rc::gen::inRange(1, 1000);
    if (is_nsa(c.op) && c.op != Operator::window) {
      c.compress_stride = *rc::gen::inRange(1, 20);
      c.compress_block = c.compress_stride * *rc::gen::inRange(1, 4);
    }
    if (c.op == Operator::nsa_compressed || c.op == Operator::nsa) {
      c.block = c.compress_stride * *rc::gen::inRange(3, 9);
      c.initial = *rc::gen::inRange(0, 3);
      c.local = *rc::gen::inRange(1, 4);
      c.top_n = c.initial + c.local + *rc::gen::inRange(0, 20);
    } else if (selects(c.op) || c.op == Operator::selected) {
      c.block = has_blocks(c.op) ? *rc::gen::inRange(1, 600) : 1;
      c.top_k = *rc::gen::inRange(2, 100);
    }
    if (has_key(c.op, "gate") && c.causal)
      c.gate = *rc::gen::element(reference::Gate::top_k, reference::Gate::window, reference::Gate::sink);
    if (c.op == Operator::selected) {
      c.shared_selection = *rc::gen::arbitrary<bool>();
      c.selection_order = *rc::gen::element(SelectionOrder::any, SelectionOrder::packed, SelectionOrder::ascending,
                                            SelectionOrder::own_last);
    }
    const Law law = *rc::gen::elementOf(std::vector<Law>(std::begin(kLaws), std::end(kLaws)));
    if (has_law(c.op, law) && c.session.empty() && (c.causal || !needs_causality(law))) c.law = law;
    if (c.op != Operator::nsa_compress && c.law == Law::none && *rc::gen::arbitrary<bool>())
      c.sample = 2 * c.heads * std::ssize(c.lens) + *rc::gen::inRange(0, 100);
    return c;
  });
}

}  // namespace attnspec::verify
