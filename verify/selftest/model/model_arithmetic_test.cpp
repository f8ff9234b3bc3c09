// The model kernel plays every arithmetic option: an option changes the outputs that it says and no others, and what it
// computes is what a hand-written computation gives.

#include <gtest/gtest.h>

#include <algorithm>
#include <cmath>
#include <functional>
#include <map>
#include <numbers>
#include <set>
#include <string>
#include <vector>

#include "verify/kernels.hpp"
#include "verify/model/products.hpp"
#include "verify/run/calls/calls.hpp"

namespace attnspec::verify {
namespace {

using model::cut_to_tf32;
using model::round_to_tf32;
using reference::Selection;
using reference::Tensor;
using Outputs = std::map<std::string, std::vector<std::byte>>;

Kernel model_of(Operator op, const std::string& options) {
  return find_kernel((is_nsa(op) ? "model:nsa" : "model:moba") + (options.empty() ? "" : "+" + options));
}

/// The bits of everything that a kernel writes, by the names of the judge.
Outputs outputs_of(const Kernel& kernel, const Case& c) {
  const Inputs inputs = make_inputs(c);
  Calls calls(kernel, c, inputs);
  Outputs outputs;
  const auto add = [&](const std::vector<NamedTensor>& tensors) {
    for (const NamedTensor& tensor : tensors) outputs[tensor.name] = tensor.tensor.get().rows();
  };
  EXPECT_TRUE(calls.forward().empty());
  add(calls.forward_outputs());
  if (c.op == Operator::moba || c.op == Operator::nsa || c.op == Operator::nsa_compressed) {
    const Selection selected = calls.exported();
    const auto bytes = std::as_bytes(std::span(selected.blocks));
    outputs["selection"] = {bytes.begin(), bytes.end()};
  }
  if (calls.has_backward()) {
    EXPECT_TRUE(calls.backward(calls.exported()).empty());
    add(calls.backward_outputs());
  }
  return outputs;
}

std::string names_of_changes(const Outputs& before, const Outputs& after) {
  std::string names;
  for (const auto& [name, bits] : before)
    if (after.at(name) != bits) names += (names.empty() ? "" : " ") + name;
  return names;
}

/// What changes when options are added to others, by name, sorted.
std::string changes(const std::string& text, const std::string& added, const std::string& others = "") {
  const Case c = parse_case(text);
  const std::string all = others.empty() ? added : others + "+" + added;
  return names_of_changes(outputs_of(model_of(c.op, others), c), outputs_of(model_of(c.op, all), c));
}

constexpr const char *kDense = "dense(lens=40,heads=4,kv_heads=2,dk=24,dv=16",
                     *kMoba = "moba(lens=90+17,heads=4,kv_heads=2,dk=24,dv=16,block=16,top_k=3",
                     *kSelected = "selected(lens=90+17,heads=4,kv_heads=2,dk=24,dv=16,block=16,top_k=3",
                     *kWindow = "window(lens=50,heads=4,kv_heads=2,dk=24,window=20",
                     *kCompress = "nsa_compress(lens=40+23,kv_heads=3,dk=12,compress_block=6,compress_stride=3",
                     *kNsa =
                         "nsa(lens=70+3,heads=4,kv_heads=2,dk=24,dv=16,block=16,compress_block=8,"
                         "compress_stride=4,top_n=3,initial_blocks=1,local_blocks=1,window=20";

struct Change {
  const char* call;  // and more of it
  const char* rest;
  const char* options;  // that are there before
  const char* option;
  const char* outputs;  // that change; all others keep their bits
};

constexpr Change kChanges[] = {
    {kDense, ")", "", "rounded_head_gradients", "dk dv"},
    {kMoba, ",dtype=fp16)", "", "rounded_head_gradients", "dk dv"},
    {kCompress, ",phi=mlp,hidden=8,shared_phi=1)", "", "rounded_head_gradients",
     "d_phi.b1 d_phi.b2 d_phi.position d_phi.w1 d_phi.w2"},
    {kCompress, ",phi=linear,shared_phi=1)", "", "rounded_head_gradients", "d_phi.position d_phi.w"},
    {kNsa, ",phi=linear)", "", "rounded_head_gradients",
     "d_compressed.dk d_compressed.dv d_phi_k.position d_phi_k.w d_phi_v.position d_phi_v.w d_selected.dk "
     "d_selected.dv d_window.dk d_window.dv dk_compressed dv_compressed"},
    {kMoba, ")", "", "rounded_block_gradients", "dq"},
    {kSelected, ",dtype=fp16)", "", "rounded_block_gradients", "dq"},
    {kNsa, ")", "", "rounded_block_gradients", "dq"},
    {kMoba, ")", "", "own_block_apart", "dk dq dv"},
    {kMoba, ")", "rounded_head_gradients+rounded_block_gradients", "own_block_apart", "dk dv"},
    {kMoba, ")", "own_block_apart", "rounded_head_gradients", "dk dv"},
    {kMoba, ")", "own_block_apart", "rounded_block_gradients", "dq"},
    {"dense(lens=40,heads=4,kv_heads=1,dk=24", ")", "rounded_head_gradients", "rounded_gradient_sums", "dk dv"},
    {kSelected, ")", "rounded_block_gradients", "rounded_gradient_sums", "dq"},
    {kMoba, ")", "own_block_apart+rounded_head_gradients", "rounded_gradient_sums", "dk dv"},
    {kNsa, ")", "", "rounded_gradient_sums", "dq"},
    {kCompress, ",phi=mlp,hidden=8,shared_phi=1)", "rounded_head_gradients", "rounded_gradient_sums",
     "d_phi.b1 d_phi.b2 d_phi.position d_phi.w1 d_phi.w2"},
    {kMoba, ",dtype=fp16)", "rounded_partials", "bf16_partials", "dk dq o"},
    {kMoba, ",dtype=fp16)", "rounded_head_gradients", "bf16_partials", "dk dv"},
    {kMoba, ",dtype=fp16)", "rounded_block_gradients", "bf16_partials", "dq"},
    {kDense, ")", "", "scaled_ds", "dk dq"},
    {kMoba, ")", "", "rounded_p_in_ds", "dk dq"},
    {kMoba, ")", "scaled_ds", "rounded_p_in_ds", "dk dq"},
    {kMoba, ")", "", "softmax_delta", "dk dq"},
    {kWindow, ")", "", "softmax_delta", "dk dq"},
    {kMoba, ")", "", "scaled_q", "dk dq dv lse o"},
    {kMoba, ")", "", "scaled_q_log2", "dk dq dv lse o"},
    {kDense, ",dtype=fp32)", "", "scaled_q", "dk dq dv lse o"},
    {kMoba, ")", "", "scaled_k", "dk dq dv"},
    {kMoba, ")", "", "scaled_k_log2", "dk dq dv"},
    {kCompress, ",phi=linear)", "", "position_bias", "d_phi.position d_phi.w rows"},
    {kCompress, ",phi=linear,shared_phi=1,dtype=fp16)", "", "position_bias", "d_phi.position d_phi.w rows"},
    {kCompress, ",phi=linear,shared_phi=1)", "position_bias", "rounded_head_gradients", "d_phi.w"},
    {kDense, ",dtype=fp32)", "", "tf32", "dk dq dv lse o"},
    {kDense, ",dtype=fp32)", "", "tf32_truncated", "dk dq dv lse o"},
    {kDense, ",dtype=fp32)", "", "tf32x3", "dk dq dv lse o"},
    {kCompress, ",phi=mlp,hidden=8,dtype=fp32)", "", "tf32", "d_phi.b1 d_phi.position d_phi.w1 d_phi.w2 d_tokens rows"},
    {kCompress, ",phi=mlp,hidden=8,dtype=fp32)", "", "tf32_truncated",
     "d_phi.b1 d_phi.position d_phi.w1 d_phi.w2 d_tokens rows"},
    {kCompress, ",phi=linear,dtype=fp32)", "", "tf32x3", "d_phi.position d_phi.w d_tokens rows"},
};

TEST(ModelArithmetic, AnOptionChangesItsOutputsAlone) {
  for (const Change& change : kChanges)
    EXPECT_EQ(changes(std::string(change.call) + change.rest, change.option, change.options), change.outputs)
        << change.call << change.rest << " " << change.options << " and " << change.option;
}

/// Options of branches reach the whole of NSA, the scores of its selection included.
TEST(ModelArithmetic, ScaledQueriesReachEveryBranch) {
  const std::string changed = changes(std::string(kNsa) + ")", "scaled_q");
  for (const char* branch : {"compressed", "selected", "window"})
    for (const char* output : {"o", "lse", "dk", "dv"})
      EXPECT_NE(changed.find(std::string(branch) + "." + output), std::string::npos) << branch << output;
}

TEST(ModelArithmetic, WithNothingToActOnAnOptionChangesNothing) {
  const Change kept[] = {
      {"dense(lens=40,heads=3,dk=24", ")", "", "rounded_head_gradients", ""},
      {kCompress, ",phi=mlp,hidden=8)", "", "rounded_head_gradients", ""},
      {kCompress, ",shared_phi=1)", "", "rounded_head_gradients", ""},
      {kDense, ",dtype=fp16,regime=subnormal,scale=-0.2)", "", "rounded_block_gradients", ""},
      {kWindow, ")", "", "rounded_block_gradients", ""},
      {"moba(lens=90,heads=4,dk=24,block=16,top_k=1,dtype=fp16,regime=subnormal,scale=-0.2", ")", "",
       "rounded_block_gradients", ""},
      {"moba(lens=90,heads=4,dk=24,block=16,top_k=1,dtype=fp16,regime=subnormal,scale=-0.2", ")", "", "own_block_apart",
       ""},
      {"moba(lens=90,heads=4,dk=24,block=16,top_k=2,causal=0", ")", "", "own_block_apart", ""},
      {kSelected, ")", "", "own_block_apart", ""},
      {kDense, ")", "", "rounded_gradient_sums", ""},
      {kNsa, ")", "fp32_out", "rounded_gradient_sums", ""},
      {kCompress, ",phi=mlp,hidden=8,shared_phi=1)", "", "rounded_gradient_sums", ""},
      {kMoba, ")", "rounded_head_gradients+rounded_partials", "bf16_partials", ""},
      {"dense(lens=40,heads=2,dk=24,scale=0.25", ")", "", "scaled_ds", ""},
      {"dense(lens=40,heads=2,dk=24,scale=0.25", ")", "", "scaled_q", ""},
      {"dense(lens=40,heads=2,dk=24,scale=0.25", ")", "", "scaled_k", ""},
      {kMoba, ",dtype=fp32)", "", "rounded_p_in_ds", ""},
      {kCompress, ")", "", "position_bias", ""},
      {kCompress, ",phi=mlp,hidden=8)", "", "position_bias", ""},
      {kCompress, ",dtype=fp32)", "", "tf32", ""},
      {kMoba, ")", "", "tf32", ""},
      {kMoba, ",dtype=fp16)", "", "tf32_truncated", ""},
      {kNsa, ")", "", "tf32x3", ""},
  };
  for (const Change& change : kept)
    EXPECT_EQ(changes(std::string(change.call) + change.rest, change.option, change.options), "")
        << change.call << change.rest << " " << change.options << " and " << change.option;
}

/// Planted defects show beside the option of their stage as they do without it.
TEST(ModelArithmetic, DefectsStayWhenOptionsAreDeclared) {
  const struct {
    const char *defect, *option, *call, *rest, *outputs;
  } planted[] = {
      {"dk_of_one_head", "rounded_head_gradients", kMoba, ")", "dk"},
      {"dk_of_one_head", "own_block_apart", kMoba, ")", "dk"},
      {"delta_missing", "softmax_delta", kMoba, ")", "dk dq"},
      {"delta_missing", "scaled_ds", kMoba, ")", "dk dq"},
      {"scale_off", "scaled_q", kMoba, ")", "dk dq dv lse o"},
      {"scale_off", "scaled_q_log2", kMoba, ",dtype=fp16)", "dk dq dv lse o"},
      {"scale_off", "scaled_k_log2", kMoba, ",dtype=fp32)", "dk dq dv lse o"},
      {"future_token_visible", "softmax_delta", kMoba, ")", "dk dq dv lse o"},
      {"gradients_of_another_head", "rounded_head_gradients", kDense, ")", "dk dq dv"},
      {"backward_without_window", "softmax_delta", kWindow, ")", "dk dq dv"},
      {"position_gradient_missing", "position_bias", kCompress, ",phi=linear)", "d_phi.position"},
      {"position_gradient_missing", "rounded_head_gradients", kCompress, ",phi=mlp,hidden=8,shared_phi=1)",
       "d_phi.position"},
      {"position_forgotten", "position_bias", kCompress, ",phi=linear)", "d_phi.w rows"},
      {"weights_feature_by_feature", "position_bias", kCompress, ",phi=linear)", "d_phi.position d_tokens rows"},
      {"shared_phi_of_last_head", "position_bias", kCompress, ",phi=linear,shared_phi=1)", "d_phi.position d_phi.w"},
      {"shared_phi_of_last_head", "rounded_head_gradients", kCompress, ",phi=linear,shared_phi=1)",
       "d_phi.position d_phi.w"},
      {"dq_without_compressed", "rounded_gradient_sums", kNsa, ")", "dq"},
      {"dq_of_the_last_branch", "rounded_gradient_sums", kNsa, ")", "dq"},
      {"maximum_before_the_mask", "tf32", kDense, ",dtype=fp32)", "dk dq lse o"},
  };
  for (const auto& [defect, option, call, rest, outputs] : planted) {
    const Case c = parse_case(std::string(call) + rest);
    const Kernel wrong = find_kernel(std::string("defect:") + defect + "+" + option);
    const std::string changed = names_of_changes(outputs_of(model_of(c.op, option), c), outputs_of(wrong, c));
    EXPECT_EQ(changed, outputs) << defect << " " << option;
  }
}

/// What a kernel writes for given inputs; the backward reads the selection that `select` makes of the forward's.
struct Written {
  Tensor o, lse, dq, dk, dv;
};
using Select = std::function<Selection(const Selection&)>;
Written write(const Kernel& kernel, const Case& c, const std::function<void(Inputs&)>& change,
              const Select& select = {}) {
  Inputs inputs = make_inputs(c);
  change(inputs);
  Calls calls(kernel, c, inputs);
  EXPECT_TRUE(calls.forward().empty());
  const Selection selected = calls.exported();
  EXPECT_TRUE(calls.backward(select ? select(selected) : selected).empty());
  const auto values = [&](const char* tensor) { return load(calls.view(tensor)); };
  return {values("o"), values("lse"), values("dq"), values("dk"), values("dv")};
}
Written write(const std::string& options, const std::string& text, const std::function<void(Inputs&)>& change,
              const Select& select = {}) {
  const Case c = parse_case(text);
  return write(model_of(c.op, options), c, change, select);
}
Written write(const std::string& options, const std::string& text) {
  return write(options, text, [](Inputs&) {});
}

void expect_close(const Tensor& actual, const Tensor& expected, double tolerance) {
  double largest = 0;
  for (const double x : expected.values) largest = std::max(largest, std::abs(x));
  for (std::size_t n = 0; n < expected.values.size(); ++n)
    ASSERT_NEAR(actual.values[n], expected.values[n], tolerance * largest) << n;
}

double mean_difference(const Tensor& x, const Tensor& y) {
  double sum = 0;
  for (std::size_t n = 0; n < x.values.size(); ++n) sum += std::abs(x.values[n] - y.values[n]);
  return sum / static_cast<double>(x.values.size());
}

/// Variants differ from the model kernel in the same arithmetic by far less than an option changes. Those that are
/// functions; beside the others roundings fall in another way.
TEST(ModelArithmetic, VariantsPlayTheOptions) {
  for (const char* option : {"scaled_q", "scaled_q_log2", "scaled_k", "scaled_k_log2", "tf32", "tf32_truncated"}) {
    const bool is_tf32 = std::string(option).starts_with("tf32");
    const std::string weights = is_tf32 ? "" : "+fp32_weights+fp32_out";
    Case c = parse_case("moba(lens=90,heads=4,kv_heads=2,dk=24,block=16,top_k=3,scale=0.3)");
    if (is_tf32) c.dtype = Format::fp32;
    const auto run = [&](const std::string& kernel) { return write(find_kernel(kernel), c, [](Inputs&) {}); };
    const Written plain = run("model:moba" + weights), played = run("model:moba" + weights + "+" + option);
    for (const char* variant : {"exp2", "key_by_key", "double_precision", "last_block_first", "short_splits"}) {
      const Written varied = run(std::string("variant:") + variant + weights + "+" + option);
      for (const auto output : {&Written::o, &Written::dq, &Written::dk, &Written::dv})
        EXPECT_LE(mean_difference(varied.*output, played.*output),
                  std::max(1e-6, 0.25 * mean_difference(plain.*output, played.*output)))
            << variant << " " << option;
    }
  }
}

/// Where dS holds the scale, or P is rounded, in the backward in double too.
TEST(ModelArithmetic, TheBackwardInDoubleScalesDs) {
  const Case c = parse_case("moba(lens=90,heads=4,kv_heads=2,dk=24,block=16,top_k=3,scale=0.3)");
  for (const char* option : {"scaled_ds", "rounded_p_in_ds"}) {
    const auto run = [&](const std::string& kernel) { return write(find_kernel(kernel + option), c, [](Inputs&) {}); };
    const Written played = run("model:moba+"), varied = run("variant:double_precision+");
    expect_close(varied.dq, played.dq, 0.01);
    expect_close(varied.dk, played.dk, 0.01);
  }
}

/// The sum of parts in fp32, or in a format, rounded to the output's.
Tensor sum_of(const std::vector<Tensor>& parts, Format sums, Format output) {
  Tensor result = parts.front();
  for (std::size_t n = 0; n < result.values.size(); ++n) {
    for (std::size_t part = 1; part < parts.size(); ++part)
      result.values[n] =
          reference::round_to(static_cast<float>(result.values[n]) + static_cast<float>(parts[part].values[n]), sums);
    result.values[n] = reference::round_to(result.values[n], output);
  }
  return result;
}

constexpr const char* kOneGroup = "moba(lens=50,heads=3,kv_heads=1,dk=8,block=16,top_k=3)";

/// The gradients that one head or some of the blocks give alone. Those of other heads are 0, for their d_o is.
Written part(const std::string& options, std::int64_t head,
             const std::function<bool(std::int64_t, std::int32_t)>& keeps) {
  return write(
      options, kOneGroup,
      [&](Inputs& inputs) {
        for (std::int64_t h = 0; h < inputs.d_o.heads; ++h)
          for (std::int64_t t = 0; h != head && head >= 0 && t < inputs.d_o.tokens; ++t) inputs.d_o.row(t, h).setZero();
      },
      [&](Selection selected) {
        for (std::int64_t t = 0; t < selected.tokens; ++t)
          for (std::int64_t h = 0; h < selected.heads; ++h)
            for (std::int32_t& b : selected.row(t, h)) b = keeps(t, b) ? b : -1;
        return selected;
      });
}

TEST(ModelArithmetic, HeadGradientsAreStoredOneByOne) {
  const auto all = [](std::int64_t, std::int32_t) { return true; };
  std::vector<Tensor> dk, dv;
  for (const std::int64_t h : {0, 1, 2}) {
    const Written of_head = part("", h, all);
    dk.push_back(of_head.dk);
    dv.push_back(of_head.dv);
  }
  for (const auto& [options, format] : {std::pair("rounded_head_gradients", Format::fp32),
                                        {"rounded_head_gradients+rounded_gradient_sums", Format::bf16}}) {
    const Written whole = write(options, kOneGroup);
    EXPECT_EQ(whole.dk.values, sum_of(dk, format, Format::bf16).values) << options;
    EXPECT_EQ(whole.dv.values, sum_of(dv, format, Format::bf16).values) << options;
  }
}

TEST(ModelArithmetic, BlockGradientsAreStoredOneByOne) {
  std::vector<Tensor> dq;
  for (std::int32_t block = 0; block < 4; ++block)
    dq.push_back(part("", -1, [block](std::int64_t, std::int32_t b) { return b == block; }).dq);
  for (const auto& [options, format] : {std::pair("rounded_block_gradients", Format::fp32),
                                        {"rounded_block_gradients+rounded_gradient_sums", Format::bf16}})
    EXPECT_EQ(write(options, kOneGroup).dq.values, sum_of(dq, format, Format::bf16).values) << options;
}

TEST(ModelArithmetic, TheOwnBlockIsAPassOfItsOwn) {
  const auto own = [](std::int64_t t, std::int32_t b) { return b == t / 16; };
  const auto others = [](std::int64_t t, std::int32_t b) { return b != t / 16; };
  const std::vector<Written> passes{part("", -1, own), part("", -1, others)};
  const Written whole = write("own_block_apart", kOneGroup);
  for (const auto gradient : {&Written::dq, &Written::dk, &Written::dv})
    EXPECT_EQ((whole.*gradient).values,
              sum_of({passes[0].*gradient, passes[1].*gradient}, Format::fp32, Format::bf16).values);
  std::vector<Tensor> dk;
  for (const std::int64_t h : {0, 1, 2}) {
    dk.push_back(part("", h, own).dk);
    dk.push_back(part("", h, others).dk);
  }
  EXPECT_EQ(write("own_block_apart+rounded_head_gradients", kOneGroup).dk.values,
            sum_of(dk, Format::fp32, Format::bf16).values);
}

/// RN(x factor) of every element.
void multiply(Tensor& tensor, float factor, Format format) {
  for (double& x : tensor.values) x = reference::round_to(static_cast<float>(x) * factor, format);
}

/// The kernel with q' = RN(scale q), or RN(scale log2(e) q), is the plain kernel of q' and scale 1, or ln 2.
TEST(ModelArithmetic, ScaledQueriesAreRoundedOnce) {
  for (const bool log2 : {false, true}) {
    const double scale = 0.3, factor = log2 ? scale * std::numbers::log2e : scale, rest = log2 ? std::numbers::ln2 : 1;
    const auto text = [](double s) {
      return "dense(lens=50,heads=2,dk=8,layout=contiguous,scale=" + std::to_string(s) + ")";
    };
    const std::string name = log2 ? "scaled_q_log2+fp32_out" : "scaled_q+fp32_out";
    const Written scaled = write(name, text(scale));
    Case plain_case = parse_case(text(1));
    plain_case.scale = rest;
    const Written plain = write("fp32_out", print(plain_case), [factor](Inputs& inputs) {
      multiply(inputs.q, static_cast<float>(factor), Format::bf16);
    });
    for (const auto output : {&Written::o, &Written::lse, &Written::dk, &Written::dv})
      EXPECT_EQ((scaled.*output).values, (plain.*output).values) << name;
    Tensor dq = plain.dq;
    for (double& x : dq.values) x *= scale / rest;
    expect_close(scaled.dq, dq, 0x1p-22);
  }
}

/// The backward with k' = RN(scale k), or RN(scale log2(e) k), is the plain backward of k' and scale 1, or ln 2.
TEST(ModelArithmetic, ScaledKeysAreThoseOfTheBackward) {
  for (const bool log2 : {false, true}) {
    Case c = parse_case("dense(lens=50,heads=2,dk=8,scale=0.3)");
    const double factor = log2 ? c.scale * std::numbers::log2e : c.scale, rest = log2 ? std::numbers::ln2 : 1;
    const Case rest_of_it =
        parse_case("dense(lens=50,heads=2,dk=8,scale=" + std::string(log2 ? "0.6931471805599453)" : "1)"));
    Inputs inputs = make_inputs(c);
    const Kernel kernel = model_of(c.op, log2 ? "scaled_k_log2+fp32_out" : "scaled_k+fp32_out");
    Calls scaled(kernel, c, inputs);
    EXPECT_TRUE(scaled.forward().empty());
    EXPECT_TRUE(scaled.backward({}).empty());
    multiply(inputs.k, static_cast<float>(factor), Format::bf16);
    const Kernel plain_kernel = model_of(c.op, "fp32_out");
    Calls plain(plain_kernel, rest_of_it, inputs);
    EXPECT_TRUE(plain.forward().empty());
    plain.at("o") = HostTensor(Format::fp32, c.layout, load(scaled.view("o")));
    plain.at("lse") = HostTensor(Format::fp32, c.layout, load(scaled.view("lse")));
    EXPECT_TRUE(plain.backward({}).empty());
    EXPECT_EQ(load(scaled.view("dq")).values, load(plain.view("dq")).values);
    EXPECT_EQ(load(scaled.view("dv")).values, load(plain.view("dv")).values);
    Tensor dk = load(plain.view("dk"));
    for (double& x : dk.values) x *= c.scale / rest;
    expect_close(load(scaled.view("dk")), dk, 0x1p-22);
  }
}

/// One head of a dense call without a mask, so few keys that they are one tile.
struct Direct {
  Inputs inputs;
  std::int64_t tokens, dk, dv;
  float scale;

  explicit Direct(const Case& c)
      : inputs(make_inputs(c)), tokens(c.lens[0]), dk(c.dk), dv(c.dv), scale(static_cast<float>(c.scale)) {}

  double dot(const Tensor& x, std::int64_t i, const Tensor& y, std::int64_t j) const {
    return x.row(i, 0).dot(y.row(j, 0));
  }
  /// P of the keys, from the lse given.
  double p(std::int64_t i, std::int64_t j, const Tensor& lse) const {
    return std::exp(scale * dot(inputs.q, i, inputs.k, j) - lse.row(i, 0)[0]);
  }
};

/// dq = scale (P (dP - delta)) k with delta = sum P dP. o is NaN, so that nobody can have read it.
TEST(ModelArithmetic, SoftmaxDeltaIsThatOfAllBlocks) {
  const Case c = parse_case("dense(lens=20,heads=1,dk=8,causal=0)");
  const Case blocks = parse_case("selected(lens=20,heads=1,dk=8,causal=0,block=4,top_k=5)");
  for (const Case& of : {c, blocks}) {
    const Inputs inputs = make_inputs(of);
    const Kernel kernel = model_of(of.op, "softmax_delta+fp32_weights+fp32_out");
    Calls calls(kernel, of, inputs);
    EXPECT_TRUE(calls.forward().empty());
    calls.at("o").fill_rows_with_nan();
    EXPECT_TRUE(calls.backward(inputs.selection).empty());
    Direct direct(of);
    const Tensor lse = load(calls.view("lse"));
    Tensor dq(direct.tokens, 1, direct.dk), dk = dq;
    for (std::int64_t i = 0; i < direct.tokens; ++i) {
      const auto keys = [&](const auto& visit) {
        for (std::int64_t j = 0; j < direct.tokens; ++j) {
          if (of.op == Operator::selected && std::ranges::count(inputs.selection.row(i, 0), j / 4) == 0) continue;
          visit(j, direct.p(i, j, lse), direct.dot(inputs.d_o, i, inputs.v, j));
        }
      };
      double delta = 0;
      keys([&](std::int64_t, double p, double dp) { delta += p * dp; });
      keys([&](std::int64_t j, double p, double dp) {
        dq.row(i, 0) += direct.scale * p * (dp - delta) * inputs.k.row(j, 0);
        dk.row(j, 0) += direct.scale * p * (dp - delta) * inputs.q.row(i, 0);
      });
    }
    expect_close(load(calls.view("dq")), dq, 0x1p-20);
    expect_close(load(calls.view("dk")), dk, 0x1p-20);
  }
}

/// Every operand and every product is rounded or cut; sums are in double here.
TEST(ModelArithmetic, Tf32OperandsAreRoundedOrCut) {
  const Case c = parse_case("dense(lens=20,heads=1,dk=8,causal=0,dtype=fp32)");
  using Narrow = float (*)(float);
  for (const auto& [option, narrow] :
       {std::pair<std::string, Narrow>("tf32", &round_to_tf32), {"tf32_truncated", &cut_to_tf32}}) {
    Direct direct(c);
    const Inputs exact = direct.inputs;
    const Written written = write(option, print(c));
    for (Tensor* tensor : {&direct.inputs.q, &direct.inputs.k, &direct.inputs.v, &direct.inputs.d_o})
      for (double& x : tensor->values) x = narrow(static_cast<float>(x));
    Tensor o(20, 1, 8), dv = o, dq = o;
    for (std::int64_t i = 0; i < 20; ++i) {
      double largest = -1e30, sum = 0;
      for (std::int64_t j = 0; j < 20; ++j)
        largest = std::max(largest, direct.scale * direct.dot(direct.inputs.q, i, direct.inputs.k, j));
      for (std::int64_t j = 0; j < 20; ++j) {
        const double weight = std::exp(direct.scale * direct.dot(direct.inputs.q, i, direct.inputs.k, j) - largest);
        sum += weight;
        o.row(i, 0) += narrow(static_cast<float>(weight)) * direct.inputs.v.row(j, 0);
      }
      o.row(i, 0) /= sum;
      EXPECT_NEAR(written.lse.row(i, 0)[0], largest + std::log(sum), 1e-6);
      const double delta = exact.d_o.row(i, 0).dot(written.o.row(i, 0));  // no product of tensor cores
      for (std::int64_t j = 0; j < 20; ++j) {
        const double p = direct.p(i, j, written.lse), dp = direct.dot(direct.inputs.d_o, i, direct.inputs.v, j);
        dv.row(j, 0) += narrow(static_cast<float>(p)) * direct.inputs.d_o.row(i, 0);
        dq.row(i, 0) += direct.scale * narrow(static_cast<float>(p * (dp - delta))) * direct.inputs.k.row(j, 0);
      }
    }
    // A weight next to the middle of two tf32 numbers may be rounded the other way: one weight of 20 by 2^-10.
    expect_close(written.o, o, 0x1p-13);
    expect_close(written.dv, dv, 0x1p-13);
    expect_close(written.dq, dq, 0x1p-12);
    EXPECT_LT(mean_difference(written.o, o), 1e-6) << option;
  }
}

TEST(ModelArithmetic, Tf32IsTheNearestOrTheNextTowardsZero) {
  const Random random(1, "tf32");
  for (std::uint64_t n = 0; n < 20000; ++n) {
    const auto x = std::bit_cast<float>(static_cast<std::uint32_t>(random.below(std::int64_t{1} << 32, n)));
    if (std::isnan(x)) {
      EXPECT_TRUE(std::isnan(round_to_tf32(x)));
      continue;
    }
    EXPECT_EQ(round_to_tf32(x), static_cast<float>(reference::round_to(x, Format::tf32))) << x;
    EXPECT_LE(std::abs(cut_to_tf32(x)), std::abs(x));
    EXPECT_EQ(cut_to_tf32(x), round_to_tf32(cut_to_tf32(x)));
    if (std::isfinite(x)) {
      EXPECT_LT(std::abs(static_cast<double>(x) - cut_to_tf32(x)), reference::spacing(x, Format::tf32));
    }
  }
}

/// Three products drop what is left of both operands, 2^-22 of the product.
TEST(ModelArithmetic, ThreeTf32ProductsAreAlmostExact) {
  const float a = 1 + 0x1p-12f, b = 1 - 0x1p-13f;  // cut to 1 and 1 - 2^-11; rounded, both are 1
  double sum = 0;
  model::add_product(model::Fp32Products::tf32x3, a, b, sum);
  EXPECT_EQ(sum, 1 + 0x1p-12 - 0x1p-13 - 0x1p-23);  // without the product of the small parts
  sum = 0;
  model::add_product(model::Fp32Products::tf32, a, b, sum);
  EXPECT_EQ(sum, 1);
  const Written exact = write("", "dense(lens=40,heads=2,dk=24,dtype=fp32)"),
                three = write("tf32x3", "dense(lens=40,heads=2,dk=24,dtype=fp32)");
  for (const auto output : {&Written::o, &Written::lse, &Written::dq, &Written::dk, &Written::dv})
    expect_close(three.*output, exact.*output, 0x1p-19);
}

/// rows = RN(RN(x W) + RN(position W)); S' = RN(sum dr); dw = RN(RN(sum x dr^T) + RN(position S'^T)); dposition = W S'.
/// In the model's order of sums, so to the bit.
TEST(ModelArithmetic, PositionIsABiasOfAllBlocks) {
  const Case c = parse_case("nsa_compress(lens=14+9,kv_heads=1,dk=5,compress_block=4,compress_stride=2,phi=linear)");
  const Inputs inputs = make_inputs(c);
  const Kernel kernel = model_of(c.op, "position_bias");
  Calls calls(kernel, c, inputs);
  EXPECT_TRUE(calls.forward().empty());
  EXPECT_TRUE(calls.backward({}).empty());
  const auto rn = [](float x) { return static_cast<float>(reference::round_to(x, Format::bf16)); };
  const Tensor &w = inputs.phi_k.w, &position = inputs.phi_k.position;
  const auto weight = [&](std::int64_t r, std::int64_t f) { return static_cast<float>(w.row(r, 0)[f]); };
  const auto of = [](const Tensor& x, std::int64_t first, std::int64_t r) {  // feature r of a block side by side
    return static_cast<float>(x.row(first + r / 5, 0)[r % 5]);
  };
  const std::int64_t starts[] = {0, 2, 4, 6, 8, 10, 14, 16, 18};  // of the blocks of both sequences
  const Tensor rows = load(calls.view("rows")), dw = load(calls.view("d_phi.w")),
               dposition = load(calls.view("d_phi.position"));
  ASSERT_EQ(rows.tokens, 9);
  float sum[5] = {};
  for (std::int64_t b = 0; b < 9; ++b)
    for (std::int64_t f = 0; f < 5; ++f) {
      float product = 0, bias = 0;
      for (std::int64_t r = 0; r < 20; ++r) product += of(inputs.k, starts[b], r) * weight(r, f);
      for (std::int64_t r = 0; r < 20; ++r) bias += of(position, 0, r) * weight(r, f);
      EXPECT_EQ(rows.row(b, 0)[f], rn(rn(product) + rn(bias)));
      sum[f] += static_cast<float>(inputs.d_o.row(b, 0)[f]);
    }
  for (std::int64_t r = 0; r < 20; ++r) {
    float d_position = 0;
    for (std::int64_t f = 0; f < 5; ++f) {
      float products = 0;
      for (std::int64_t b = 0; b < 9; ++b)
        products += of(inputs.k, starts[b], r) * static_cast<float>(inputs.d_o.row(b, 0)[f]);
      EXPECT_EQ(dw.row(r, 0)[f], rn(rn(products) + rn(of(position, 0, r) * rn(sum[f]))));
      d_position += weight(r, f) * rn(sum[f]);
    }
    EXPECT_EQ(dposition.row(r / 5, 0)[r % 5], rn(d_position));
  }
}

}  // namespace
}  // namespace attnspec::verify
