// Limits say which cases lie outside, and move those inside, near to where they were.

#include "verify/cases/limits.hpp"

#include <gtest/gtest.h>
#include <rapidcheck.h>

#include <algorithm>
#include <set>

#include "verify/cases/levels.hpp"
#include "verify/selftest/cases/any_case.hpp"

namespace attnspec::verify {
namespace {

using reference::Gate;
using reference::Phi;

/// What many kernels of GPUs can do.
Limits tiled() {
  Limits limits;
  limits.dk.set = limits.dv.set = {64, 128};
  limits.only_equal_dims = limits.only_causal = true;
  limits.group.set = {16};
  limits.block.set = {64};
  limits.dtypes = {Format::bf16};
  return limits;
}

std::string moved(const Limits& limits, const std::string& text) { return print(inside(limits, parse_case(text))); }
std::string why(const Limits& limits, const std::string& text) {
  return outside(limits, parse_case(text)).value_or("");
}

/// A limit of a size, of which there is always a value up to some hundreds.
rc::Gen<SizeLimit> any_size(std::int64_t typical) {
  return rc::gen::exec([=] {
    SizeLimit limit;
    switch (*rc::gen::inRange(0, 16)) {
      case 15: limit.set = {typical, 2 * typical}; break;
      case 14: limit.largest = *rc::gen::inRange(typical, 4 * typical); break;
      case 13: limit.multiple_of = *rc::gen::inRange<std::int64_t>(1, typical + 1); break;
      case 12: limit.smallest = typical, limit.power_of_two = true; break;
      default: break;
    }
    return limit;
  });
}

template <class T>
std::vector<T> some_of(std::vector<T> all) {
  if (*rc::gen::inRange(0, 4) < 3) return {};
  return *rc::gen::suchThat(rc::gen::unique<std::vector<T>>(rc::gen::elementOf(all)),
                            [](const auto& some) { return !some.empty(); });
}

rc::Gen<Limits> any_limits() {
  return rc::gen::exec([] {
    const auto flag = [] { return *rc::gen::inRange(0, 8) == 7; };
    Limits limits;
    limits.only_equal_dims = flag();
    limits.dk = *any_size(64);
    limits.dv = limits.only_equal_dims ? limits.dk : *any_size(64);
    limits.group = *any_size(4);
    limits.block = *any_size(64);
    limits.only_equal_blocks = flag();
    limits.compress_block = limits.only_equal_blocks ? limits.block : *any_size(32);
    limits.top_k = *any_size(8);
    limits.window_size = *any_size(64);
    limits.queries = *any_size(32);
    limits.keys = *rc::gen::element(limits.queries, SizeLimit{});
    limits.sequences = *any_size(2);
    limits.dtypes = some_of<Format>({Format::bf16, Format::fp16, Format::fp32});
    limits.gates = some_of<Gate>({Gate::top_k, Gate::window, Gate::sink});
    limits.phis = some_of<Phi>({Phi::mean, Phi::linear, Phi::mlp});
    if (flag()) limits.scale = *rc::gen::element(ScaleLimit::positive, ScaleLimit::default_only);
    if (flag()) limits.equal_lengths = *rc::gen::element(EqualLengths::all, EqualLengths::where_causal);
    if (flag()) limits.selection_per = *rc::gen::element(SelectionPer::head, SelectionPer::kv_head);
    if (flag()) limits.selection_order = *rc::gen::element(SelectionOrder::packed, SelectionOrder::own_last);
    if (flag()) limits.forced_blocks = ForcedBlocks{1, 2};
    limits.only_causal = flag();
    limits.no_empty_sequences = flag();
    limits.no_rows_without_keys = flag();
    return limits;
  });
}

TEST(Limits, MoveAnyCaseInside) {
  EXPECT_TRUE(rc::check([] {
    const Limits limits = *any_limits();
    const Case c = *any_case();
    const bool is_inside = !outside(limits, c);
    const Case moved = inside(limits, c);
    RC_TAG(is_inside ? "inside" : "outside");
    RC_ASSERT(outside(limits, moved).value_or("") == "");
    RC_ASSERT(moved.op == c.op);
    if (is_inside) RC_ASSERT(moved == c);
    RC_ASSERT(parse_case(print(moved)) == moved);  // which validates it
  }));
}

TEST(Limits, MoveASizeToTheSmallerOfTwoAsNear) {
  Limits limits;
  limits.dk.multiple_of = 16;
  EXPECT_EQ(inside(limits, parse_case("dense(dk=24)")).dk, 16);
}

TEST(Limits, NameTheFieldAndTheValue) {
  const auto of = [](auto set) {
    Limits limits;
    set(limits);
    return limits;
  };
  EXPECT_EQ(why(tiled(), "dense(heads=16,kv_heads=1)"), "");
  EXPECT_EQ(why(tiled(), "dense(heads=16,kv_heads=1,dk=96)"), "dk 96 is none of 64, 128");
  EXPECT_EQ(why(of([](Limits& l) { l.group.smallest = 4; }), "dense(heads=6,kv_heads=2)"),
            "group 3 is below its limit 4");
  const Limits between = of([](Limits& l) { l.dk.smallest = 32, l.dk.largest = 96; });
  EXPECT_EQ(why(between, "dense(dk=31)"), "dk 31 is below its limit 32");
  EXPECT_EQ(why(between, "dense(dk=32)"), "");
  EXPECT_EQ(why(between, "dense(dk=96)"), "");
  EXPECT_EQ(why(between, "dense(dk=97)"), "dk 97 is above its limit 96");
  EXPECT_EQ(why(of([](Limits& l) { l.group.power_of_two = true; }), "dense(heads=6,kv_heads=2)"),
            "group 3 is no power of two");
  EXPECT_EQ(why(of([](Limits& l) { l.scale = ScaleLimit::positive; }), "dense(scale=0)"), "scale 0 is not above 0");
  EXPECT_EQ(why(of([](Limits& l) { l.scale = ScaleLimit::default_only; }), "dense(scale=1)"),
            "scale 1 is not the default one");
  EXPECT_EQ(why(of([](Limits& l) { l.equal_lengths = EqualLengths::where_causal; }), "dense(q_lens=3)"),
            "q_lens 3: it needs as many queries as keys");
  EXPECT_EQ(why(of([](Limits& l) { l.equal_lengths = EqualLengths::where_causal; }), "dense(q_lens=3,causal=0)"), "");
  EXPECT_EQ(why(of([](Limits& l) { l.equal_lengths = EqualLengths::of_backwards; }), "dense(q_lens=3)"), "");
  EXPECT_EQ(why(of([](Limits& l) { l.no_empty_sequences = true; }), "window(lens=3+0)"),
            "lens 0: it needs keys in every sequence");
  EXPECT_EQ(why(of([](Limits& l) { l.no_rows_without_keys = true; }), "dense(lens=3,q_lens=4)"),
            "q_lens 4: it needs a key for every query, and there are 3");
  EXPECT_EQ(why(of([](Limits& l) { l.selection_per = SelectionPer::kv_head; }), "selected()"),
            "selection head is none of its own");
  const Limits packed = of([](Limits& l) { l.selection_order = SelectionOrder::packed; });
  EXPECT_EQ(why(packed, "selected()"), "selection_order any is not packed");
  EXPECT_EQ(why(packed, "selected(selection_order=own_last)"), "");
  EXPECT_EQ(why(of([](Limits& l) {
                  l.forced_blocks = {1, 2};
                }),
                "nsa(initial_blocks=0)"),
            "forced blocks 0 and 2 are not 1 and 2");
  EXPECT_EQ(why(of([](Limits& l) { l.only_equal_blocks = true; }), "nsa()"),
            "it needs compress_block = compress_stride = block, not 32, 16 and 64");
  EXPECT_EQ(why(of([](Limits& l) { l.keys.multiple_of = 64; }), "dense(lens=128+0+65)"),
            "lens 65 is not a multiple of 64");
  EXPECT_EQ(why(of([](Limits& l) { l.sequences.largest = 1; }), "dense(lens=1+1)"), "sequences 2 is above its limit 1");
}

TEST(Limits, KeepThePlaceOfLengthsBesideTheEdgesOfBlocks) {
  Limits limits;
  limits.block.set = {64};
  EXPECT_EQ(moved(limits, "moba(lens=32+33+31+1+0+48,block=16)"), "moba(lens=128+129+127+1+0+192)");
  EXPECT_EQ(moved(limits, "moba(lens=17,q_lens=2,block=16)"), "moba(lens=65,q_lens=2)");
  EXPECT_EQ(moved(limits, "moba(lens=32,q_lens=35,block=16)"), "moba(lens=128,q_lens=131)");
  EXPECT_EQ(moved(limits, "moba(lens=1023,block=512)"), "moba(lens=127)");
  EXPECT_EQ(moved(limits, "nsa_compressed(lens=33,compress_block=4,compress_stride=2,block=16,top_n=3)"),
            "nsa_compressed(lens=129,compress_block=4,compress_stride=2,top_n=3)");
}

TEST(Limits, ShortenWhatWouldBeDear) {
  const Case c = inside(tiled(), parse_case("moba(lens=260,heads=4,kv_heads=2,dk=128,block=2)"));
  EXPECT_LE(c.lens.front(), 300);
  EXPECT_EQ(c.lens.front() % 64, 0);
  EXPECT_EQ(c.kv_heads, 2);
}

TEST(Limits, UseEveryFormatAndGateThatIsLeft) {
  Limits limits;
  limits.dtypes = {Format::bf16, Format::fp16};
  limits.gates = {Gate::window, Gate::sink};
  std::set<std::string> seen;
  for (int seed = 0; seed < 40; ++seed) {
    const Case c = inside(limits, parse_case(fmt::format("moba(dtype=fp32,seed={})", seed)));
    seen.insert(std::string(reference::name(c.dtype)) + name(c.gate));
  }
  EXPECT_EQ(seen.size(), 4u);
}

TEST(Limits, LeaveAHundredCasesOfEveryOperator) {
  for (const Operator op : kOperators) {
    std::set<std::string> names;
    std::set<std::vector<std::int64_t>> lengths;
    for (const Case& c : level_cases(op, 1, tiled())) {
      EXPECT_FALSE(outside(tiled(), c)) << print(c);
      names.insert(print(c));
      lengths.insert(c.lens);
    }
    EXPECT_GE(names.size(), 100u) << name(op);
    EXPECT_GE(lengths.size(), 10u) << name(op);
    EXPECT_EQ(level_cases(op, 1, Limits{}), level_cases(op, 1));
  }
}

TEST(Limits, AreSaidInOneLine) {
  EXPECT_EQ(describe(tiled()), "dk 64 128, dv 64 128, block 64, group 16, bf16, causal, dk = dv");
  EXPECT_EQ(describe(Limits{}), "");
  EXPECT_EQ(limits_line({Operator::dense}, {}), "");
  Limits half;
  half.only_causal = true;
  const double share = share_inside({Operator::dense}, half);
  EXPECT_GT(share, 0.4);
  EXPECT_LT(share, 0.8);
  EXPECT_EQ(limits_line({Operator::dense}, half),
            fmt::format("limits: {:.0f} % of the cases of level 1 lie inside; the others were moved inside (causal)\n",
                        100 * share));
}

}  // namespace
}  // namespace attnspec::verify
