// Cases print and parse back, and bad ones get one line that names the key and the value.

#include "verify/cases/case.hpp"

#include <gtest/gtest.h>
#include <rapidcheck.h>

#include <fstream>

#include "verify/cases/regimes.hpp"
#include "verify/laws/laws.hpp"
#include "verify/selftest/cases/any_case.hpp"
#include "verify/selftest/testing.hpp"

namespace attnspec::verify {
namespace {

std::string rejection(const std::string& text) {
  return message_of<std::invalid_argument>([&] { parse_case(text); });
}

TEST(Case, ParsesBackToItself) {
  EXPECT_TRUE(rc::check([] {
    const Case c = *any_case();
    RC_ASSERT(parse_case(print(c)) == c);
    RC_ASSERT(print(parse_case(print(c))) == print(c));
  }));
}

TEST(Case, LeavesOutDefaultsAndKeepsDeclarationOrder) {
  EXPECT_EQ(print(parse_case("moba()")), "moba()");
  EXPECT_EQ(print(parse_case(" moba( seed=7, regime=near_tie, dtype=bf16, top_k=3, block=32, dv=64, dk=64, kv_heads=2, "
                             "heads=4, lens=193+64+1 ) ")),
            "moba(lens=193+64+1,heads=4,kv_heads=2,block=32,regime=near_tie,seed=7)");
  EXPECT_EQ(print(parse_case("dense(lens=5,q_lens=5,scale=0.125)")), "dense(lens=5)");
  EXPECT_EQ(parse_case("dense(lens=3*7+2)").lens, (std::vector<std::int64_t>{7, 7, 7, 2}));
  EXPECT_EQ(print(parse_case("dense(lens=9+2*9+9+3,q_lens=5*1)")), "dense(lens=4*9+3,q_lens=5*1)");
  EXPECT_EQ(print(parse_case("dense(lens=3*9)")), "dense(lens=9+9+9)");
  EXPECT_EQ(print(parse_case("selected(q_lens=1,lens=9,selection=kv_head,causal=0)")),
            "selected(lens=9,q_lens=1,selection=kv_head,causal=0)");
}

TEST(Case, RejectsBadTextNamingKeyAndValue) {
  EXPECT_EQ(rejection("moba"), "case 'moba': is not of the form operator(key=value,...)");
  EXPECT_EQ(rejection(""), "case '': is not of the form operator(key=value,...)");
  EXPECT_EQ(rejection("nsa_compressed(compress_stride=5)"),
            "compress_stride=5: must divide compress_block=32 and block=64");
  EXPECT_EQ(rejection("window(window=0)"), "window=0: must be at least 1");
  EXPECT_EQ(
      rejection("mobba(lens=4)"),
      "operator 'mobba': is none of dense, selected, moba_select, moba, nsa_compress, nsa_compressed, window, nsa, "
      "msa_select, dsa_select, qsa_select");
  EXPECT_EQ(
      rejection("moba(blok=4)"),
      "case key 'blok' with value '4': moba has the keys lens, q_lens, heads, kv_heads, dk, dv, block, top_k, gate, "
      "causal, scale, dtype, layout, regime, numbers, seed, sample, session, law");
  EXPECT_EQ(rejection("dense(block=4)").substr(0, 34), "case key 'block' with value '4': d");
  EXPECT_EQ(rejection("moba(block=4x)"), "block=4x: is not a whole number");
  EXPECT_EQ(rejection("moba(block=)"), "block=: is not a whole number");
  EXPECT_EQ(rejection("moba(block=99999999999999)"), "block=99999999999999: is larger than 2^40");
  EXPECT_EQ(rejection("moba(scale=big)"), "scale=big: is not a number");
  EXPECT_EQ(rejection("moba(seed=-1)"), "seed=-1: is not a whole number");
  EXPECT_EQ(rejection("moba(dtype=fp8)"), "dtype=fp8: is none of bf16, fp16, fp32");
  EXPECT_EQ(rejection("moba(session=contents+later)"),
            "session=contents+later: 'later' is none of contents, moved, shape, offsets, again");
  EXPECT_EQ(rejection("moba(gate=random)"), "gate=random: is none of top_k, window, sink");
  EXPECT_EQ(rejection("moba(block=4,block=4)"), "case key 'block': is given twice");
  EXPECT_EQ(rejection("moba(block)"), "case key 'block': has no '='");
  EXPECT_EQ(rejection("moba(regime=odd)").substr(0, 30), "regime=odd: is none of normal,");
  EXPECT_EQ(rejection("moba(regime=normal:x)").substr(0, 20), "regime=normal:x: is ");
}

TEST(Case, RejectsLawsThatTheOperatorDoesNotHave) {
  EXPECT_EQ(rejection("moba(law=fast)"),
            "law=fast: is none of none, repeat, future, unselected, heads, strides, packing, decode, power, negation, "
            "reciprocal, slots, groups, prefix, all_blocks, own_block, whole_window, as_moba, one_hot, mass, dk_sum, "
            "dv_sum, one_row");
  EXPECT_EQ(rejection("dense(law=unselected)"),
            "law=unselected: dense has the laws repeat, future, heads, strides, packing, decode, power, negation, "
            "reciprocal, groups, prefix, dk_sum, dv_sum, one_row");
  EXPECT_EQ(rejection("moba_select(law=power)"),
            "law=power: moba_select has the laws repeat, future, heads, strides, packing, decode, negation, "
            "reciprocal, groups, prefix");
  EXPECT_EQ(rejection("dense(session=again,law=heads)"),
            "law=heads: has calls of its own, beside which there is no session");
  EXPECT_EQ(rejection("dense(causal=0,law=future)"), "law=future: needs causal=1, else every query sees the future");
}

TEST(Case, RejectsSamplesWithoutRoomForWhatIsAlwaysInThem) {
  EXPECT_EQ(rejection("moba(lens=9+9,heads=4,sample=15)"),
            "sample=15: must be 0, or at least 16: the first and the last row of every sequence and head are always "
            "judged");
  EXPECT_EQ(rejection("dense(sample=-1)"),
            "sample=-1: must be 0, or at least 2: the first and the last row of every sequence and head are always "
            "judged");
  EXPECT_EQ(rejection("dense(sample=x)"), "sample=x: is not a whole number");
  EXPECT_EQ(rejection("dense(sample=9,law=heads)"), "sample=9: a law compares every row, and has no sample");
  EXPECT_EQ(rejection("nsa_compress(sample=9)").substr(0, 36), "case key 'sample' with value '9': ns");
}

TEST(Case, RejectsInvalidProblems) {
  EXPECT_EQ(rejection("moba(heads=3,kv_heads=2)"), "heads=3: must be a multiple of kv_heads=2");
  EXPECT_EQ(rejection("moba(top_k=0)"), "top_k=0: must be at least 1");
  EXPECT_EQ(rejection("moba(lens=5+-3)"), "lens=5+-3: a length is negative, so that the offsets would decrease");
  EXPECT_EQ(rejection("moba(lens=5+)"), "lens=: is not a whole number");
  EXPECT_EQ(rejection("moba(lens=0*5)"), "lens=0*5: a length comes 1 to 1048576 times");
  EXPECT_EQ(rejection("moba(lens=2*)"), "lens=: is not a whole number");
  EXPECT_EQ(rejection("moba(lens=5,q_lens=5+1)"), "q_lens=5+1: must have as many sequences as lens, 1");
  EXPECT_EQ(rejection("moba(scale=inf)"), "scale=inf: must be a finite number of fp32, in which kernels compute");
  EXPECT_EQ(rejection("moba(lens=1099511627776)"),
            "lens=1099511627776: a tensor would have 7.04e+13 elements, more than 2^36");
  EXPECT_EQ(rejection("selected(lens=1000000,top_k=1000000)"),
            "top_k=1000000: the selection would have 1e+12 entries, more than 2^36");
  EXPECT_EQ(rejection("moba(causal=0,gate=sink)"),
            "causal=0: the window and sink gates select recent blocks and need causality");
}

TEST(Case, RejectsPlainNumbersOfNoTensor) {
  EXPECT_EQ(rejection("dense(numbers=q)"), "numbers=q: 'q' is none of zeros, ones, positions, one_hot, whole");
  EXPECT_EQ(rejection("dense(numbers=ones+zeros)"), "numbers=ones+zeros: has all twice");
  EXPECT_EQ(rejection("dense(numbers=q:some)"),
            "numbers=q:some: 'some' is none of zeros, ones, positions, one_hot, whole");
  EXPECT_EQ(rejection("dense(numbers=q:ones+x:zeros)"), "numbers=q:ones+x:zeros: 'x' is none of q, k, v, d_o");
  EXPECT_EQ(rejection("dense(numbers=q:ones+q:ones)"), "numbers=q:ones+q:ones: has q twice");
  EXPECT_EQ(rejection("dense(numbers=q:ones,law=heads)"), "numbers=q:ones: a law has numbers of its own");
  EXPECT_EQ(rejection("dense(numbers=q:ones,dtype=fp16)"), "numbers=q:ones: fp16 does not hold sums of plain numbers");
  EXPECT_NO_THROW(parse_case("nsa(numbers=selected.k:ones)"));
  EXPECT_EQ(rejection("nsa(numbers=selected.k:ones,shared_kv=1)").substr(0, 58),
            "numbers=selected.k:ones: 'selected.k' is none of q, gates,");
}

TEST(Case, RejectsCapturedSlicesThatDoNotFit) {
  EXPECT_EQ(rejection("moba(regime=captured:layer4,lens=1025)"), "lens=1025: captured:layer4 has 1024 tokens");
  EXPECT_EQ(rejection("moba(regime=captured:layer4,dk=65,dv=3)"), "dk=65: captured:layer4 has 64 features");
  EXPECT_EQ(rejection("moba(regime=captured:layer9)"),
            "regime=captured:layer9: no captured activations of that name; there are: layer0, layer4");
  EXPECT_EQ(rejection("moba(regime=captured:../activations/layer4)").substr(0, 30), "regime=captured:../activations");
  EXPECT_EQ(rejection("moba(regime=captured)").substr(0, 16), "regime=captured:");
}

TEST(CaseFile, NamesFileAndLine) {
  const TemporaryPath file("some.cases");
  std::ofstream(file.path()) << "# why\n\nmoba(lens=4) # tiny\n  dense(lens=5)\n";
  EXPECT_EQ(read_case_file(file.string()).size(), 2u);
  std::ofstream(file.path()) << "moba(lens=4)\nmoba(lens=x)\n";
  EXPECT_EQ(message_of<std::invalid_argument>([&] { read_case_file(file.string()); }),
            file.string() + ":2: lens=x: is not a whole number");
  EXPECT_THROW(read_case_file(TemporaryPath("none.cases").string()), std::runtime_error);
}

}  // namespace
}  // namespace attnspec::verify
