// What public kernels round, played by the model kernel on the cases that accused them: it passes under the arithmetic
// they declare, and fails under the plain one where that was so.

#include <gtest/gtest.h>

#include <string>

#include "verify/judge/judge.hpp"
#include "verify/kernels.hpp"

namespace attnspec::verify {
namespace {

struct Accused {
  const char* arithmetic;
  const char* text;
  bool fails_plainly;  // the model's own roundings are not the public kernel's, so that some cases only just pass
};

constexpr Accused kAccused[] = {
    // FlashAttention-2
    {"rounded_head_gradients", "dense(lens=129,heads=4,kv_heads=1,dk=72,scale=0.3,seed=210609)", false},
    {"rounded_head_gradients", "window(lens=260,heads=3,kv_heads=1,dk=16,window=31,scale=0,dtype=fp16)", false},
    // FlashMoBA, XunhaoLai, mdy666
    {"rounded_head_gradients", "selected(lens=1024,heads=6,kv_heads=2,regime=captured:layer0)", false},
    // cuDNN
    {"rounded_head_gradients+scaled_ds",
     "dense(lens=64+128,heads=2,kv_heads=1,dk=72,dv=16,scale=-0.1,dtype=fp16,layout=contiguous,regime=subnormal,"
     "seed=141920)",
     true},
    // PyTorch's memory-efficient attention
    {"scaled_ds+rounded_p_in_ds",
     "dense(lens=200+129,q_lens=1+129,dk=128,dv=8,scale=1,dtype=fp16,layout=contiguous,regime=spiky,seed=756589)",
     true},
    {"rounded_head_gradients+scaled_ds+rounded_p_in_ds",
     "dense(lens=50,heads=4,kv_heads=2,dk=192,dv=128,scale=-0.1,dtype=fp16,regime=very_negative)", false},
    {"tf32x3", "dense(lens=37,dk=2,dv=4,causal=0,scale=-1,dtype=fp32,regime=spiky,seed=506180)", false},
    // XunhaoLai's compression
    {"position_bias", "nsa_compress(lens=15+16+17,compress_block=16,compress_stride=8,phi=linear)", true},
    // fla's selected attention
    {"scaled_q", "selected(lens=300,heads=16,kv_heads=1,scale=0.3,selection=kv_head)", true},
    // autograd
    {"softmax_delta+fp32_weights", "dense(lens=200,heads=2,regime=spiky)", true},
    // Calibration: features with equal parts have one error, and the bias is a sum of its own
    {"rounded_partials+rounded_head_gradients+rounded_block_gradients+bf16_partials+scaled_ds",
     "moba(lens=36+20,heads=6,kv_heads=3,dk=16,dv=48,block=4,top_k=2,causal=0,scale=0.5,dtype=fp16,regime=token_tagged,"
     "seed=37)",
     false},
    {"scaled_q+softmax_delta+rounded_head_gradients+position_bias",
     "nsa_compress(lens=38+16,dk=16,compress_block=1,compress_stride=1,phi=linear,hidden=12,shared_phi=1,dtype=fp32,"
     "regime=descending_magnitude,seed=21)",
     false},
};

TEST(PublicArithmetic, PassesWhereItIsDeclared) {
  for (const auto& [arithmetic, text, fails_plainly] : kAccused) {
    const Case c = parse_case(text);
    const Kernel kernel = find_kernel(std::string(is_nsa(c.op) ? "model:nsa+" : "model:moba+") + arithmetic);
    EXPECT_EQ(judge(kernel, c).verdict, Verdict::pass) << arithmetic << " " << text;
    if (!fails_plainly) continue;
    Kernel plain = kernel;  // still plays its options
    plain.arithmetic = {};
    EXPECT_EQ(judge(plain, c).verdict, Verdict::value_out_of_bound) << arithmetic << " " << text;
  }
}

/// Of a kernel that exports no selection, and o and lse of a row that fit several: its gradients are nobody's to judge.
TEST(HiddenSelection, LeavesGradientsOfAmbiguousRowsUndecided) {
  Kernel kernel = find_kernel("model:moba+rounded_means");
  kernel.exports_selection = false;
  const CaseResult result = judge(kernel, parse_case("moba(lens=260,block=2,dtype=fp16,regime=large)"));
  EXPECT_EQ(result.verdict, Verdict::undecided);
  for (const OutputSummary& output : result.outputs)
    EXPECT_EQ(output.undecided > 0, output.output == "dq" || output.output == "dk" || output.output == "dv")
        << output.output;
}

}  // namespace
}  // namespace attnspec::verify
