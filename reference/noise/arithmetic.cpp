#include "reference/noise/arithmetic.hpp"

#include <algorithm>
#include <stdexcept>

namespace attnspec::reference {

namespace {

const ArithmeticOption& find_option(std::string_view name) {
  std::string names;
  for (const ArithmeticOption& option : arithmetic_options()) {
    if (name == option.name) return option;
    names.append(names.empty() ? "" : ", ").append(option.name);
  }
  throw std::invalid_argument("arithmetic option '" + std::string(name) + "': is none of " + names);
}

/// Tensor cores multiply fp32 numbers; 16-bit ones they multiply exactly.
void multiply_fp32(Arithmetic& a, Fp32Products products) {
  if (a.input != Format::fp32) return;
  a.products = products;
  if (products != Fp32Products::tf32x3) a.weights = products == Fp32Products::tf32 ? Format::tf32 : Format::tf32_cut;
}

/// Options that cannot be declared together.
struct Contradiction {
  const char *one, *other;
};
constexpr Contradiction kContradictions[] = {
    {"rounded_sum", "normalise_first"},
    {"fp32_weights", "scaled_ds"},
    {"fp32_weights", "rounded_p_in_ds"},
    {"fp32_weights", "tf32"},
    {"fp32_weights", "tf32_truncated"},
    {"scaled_q", "scaled_q_log2"},
    {"scaled_q", "scaled_k"},
    {"scaled_q", "scaled_k_log2"},
    {"scaled_q", "scaled_ds"},
    {"scaled_q_log2", "scaled_k"},
    {"scaled_q_log2", "scaled_k_log2"},
    {"scaled_q_log2", "scaled_ds"},
    {"scaled_k", "scaled_k_log2"},
    {"scaled_k", "scaled_ds"},
    {"scaled_k_log2", "scaled_ds"},
    {"tf32", "tf32_truncated"},
    {"tf32", "tf32x3"},
    {"tf32_truncated", "tf32x3"},
};

}  // namespace

const std::vector<ArithmeticOption>& arithmetic_options() {
  static constexpr const char *kWeights = "Softmax weights", *kParts = "What is stored on the way",
                              *kBackward = "Backward", *kOperands = "Operands of the products";
  static const std::vector<ArithmeticOption> all{
      {"fp32_weights", kWeights, "P~, P, dS and the operands of NSA's phi stay in fp32.", false,
       [](Arithmetic& a) { a.weights = Format::fp32; }},
      {"rounded_sum", kWeights, "The normaliser sums the rounded weights.", false,
       [](Arithmetic& a) { a.normaliser = Normaliser::sums_rounded; }},
      {"normalise_first", kWeights, "P = P~ / Z is formed and rounded before the product with v.", false,
       [](Arithmetic& a) { a.normaliser = Normaliser::divides_first; }},
      {"rounded_means", kParts, "MoBA's mean keys are stored in the input format.", false,
       [](Arithmetic& a) { a.pooled = a.input; }},
      {"rounded_partials", kParts, "The output over each block is stored in the input format before the merge.", false,
       [](Arithmetic& a) {
         a.rounded_partials = true;
         a.partial = a.input;
       }},
      {"fp32_out", kParts, "o and all gradients are stored in fp32.", false,
       [](Arithmetic& a) { a.output = a.gradient_part = Format::fp32; }},
      {"fused_branches", kParts, "o, g do and dq of NSA's branches pass on in fp32, not as they are stored.", false,
       [](Arithmetic& a) { a.fused_branches = true; }},
      {"rounded_head_gradients", kParts,
       "dk and dv of each query head are stored in the output format before they are summed over the group.", false,
       [](Arithmetic& a) { a.rounded_head_gradients = true; }},
      {"rounded_block_gradients", kParts,
       "What each selected block adds to dq is stored in the output format before the sum.", false,
       [](Arithmetic& a) { a.rounded_block_gradients = true; }},
      {"own_block_apart", kParts,
       "MoBA's own block and its other blocks are two passes; dq, dk and dv of each pass are stored before they are "
       "added.",
       false, [](Arithmetic& a) { a.own_block_apart = true; }},
      {"rounded_gradient_sums", kParts,
       "Stored parts of a gradient are added in the format they are stored in; so is dq of NSA's branches.", false,
       [](Arithmetic& a) { a.rounded_gradient_sums = true; }},
      {"bf16_partials", kParts, "Partial outputs and stored parts of gradients are bf16 whatever the inputs are.",
       false,
       [](Arithmetic& a) {
         a.gradient_part = Format::bf16;
         if (a.rounded_partials) a.partial = Format::bf16;
       }},
      {"scaled_ds", kBackward, "scale times dS is rounded for the products with k and q, not dS.", false,
       [](Arithmetic& a) { a.scaled_ds = true; }},
      {"rounded_p_in_ds", kBackward, "dS = P (dP - delta) takes the rounded P.", false,
       [](Arithmetic& a) { a.rounded_p_in_ds = true; }},
      {"softmax_delta", kBackward, "delta = sum of P dP over the keys, as autograd has it, not <do, o>.", true,
       [](Arithmetic& a) { a.softmax_delta = true; }},
      {"scaled_q", kOperands, "q is multiplied by scale and rounded to the input format before all products.", true,
       [](Arithmetic& a) { a.scaled_operand = ScaledOperand::q; }},
      {"scaled_q_log2", kOperands, "q is multiplied by scale log2(e) and rounded before all products.", true,
       [](Arithmetic& a) {
         a.scaled_operand = ScaledOperand::q;
         a.scaled_log2 = true;
       }},
      {"scaled_k", kOperands, "In the backward k is multiplied by scale and rounded for the scores and dq.", true,
       [](Arithmetic& a) { a.scaled_operand = ScaledOperand::k; }},
      {"scaled_k_log2", kOperands,
       "In the backward k is multiplied by scale log2(e) and rounded for the scores and dq.", true,
       [](Arithmetic& a) {
         a.scaled_operand = ScaledOperand::k;
         a.scaled_log2 = true;
       }},
      {"position_bias", kOperands,
       "phi adds one rounded row, position times W, to the rounded products of the tokens, and its gradient likewise.",
       false, [](Arithmetic& a) { a.position_bias = true; }},
      {"tf32", kOperands, "fp32 operands of products are rounded to tf32.", true,
       [](Arithmetic& a) { multiply_fp32(a, Fp32Products::tf32); }},
      {"tf32_truncated", kOperands, "fp32 operands of products are cut to tf32.", true,
       [](Arithmetic& a) { multiply_fp32(a, Fp32Products::tf32_truncated); }},
      {"tf32x3", kOperands, "fp32 products are three products of tf32 parts.", false,
       [](Arithmetic& a) { multiply_fp32(a, Fp32Products::tf32x3); }},
  };
  return all;
}

std::string contradiction(const ArithmeticOptions& options) {
  const auto has = [&](std::string_view name) {
    return std::find(options.begin(), options.end(), name) != options.end();
  };
  const auto refused = [](const std::string& name, const std::string& why) {
    return "arithmetic option '" + name + "': " + why;
  };
  for (const auto& [one, other] : kContradictions)
    if (has(one) && has(other)) {
      const bool in_order =
          std::find(options.begin(), options.end(), one) < std::find(options.begin(), options.end(), other);
      return refused(in_order ? other : one, std::string("contradicts ") + (in_order ? one : other));
    }
  const bool has_parts = has("rounded_head_gradients") || has("rounded_block_gradients") || has("own_block_apart");
  if (has("rounded_gradient_sums") && has("fused_branches") && !has_parts)
    return refused("rounded_gradient_sums",
                   "with fused_branches needs rounded_head_gradients, rounded_block_gradients or own_block_apart");
  if (has("bf16_partials") && !has_parts && !has("rounded_partials"))
    return refused("bf16_partials",
                   "needs rounded_partials, rounded_head_gradients, rounded_block_gradients or own_block_apart");
  return "";
}

NameAndArithmetic parse_arithmetic(std::string_view text) {
  const std::size_t plus = std::min(text.find('+'), text.size());
  NameAndArithmetic result{std::string(text.substr(0, plus)), {}};
  for (std::size_t begin = plus; begin < text.size();) {
    const std::size_t end = std::min(text.find('+', begin + 1), text.size());
    const std::string name = find_option(text.substr(begin + 1, end - begin - 1)).name;
    if (std::find(result.options.begin(), result.options.end(), name) != result.options.end())
      throw std::invalid_argument("arithmetic option '" + name + "': is given twice");
    result.options.push_back(name);
    begin = end;
  }
  if (const std::string why = contradiction(result.options); !why.empty()) throw std::invalid_argument(why);
  return result;
}

Arithmetic make_arithmetic(Format input, const ArithmeticOptions& options) {
  Arithmetic arithmetic{.input = input, .weights = input, .output = input, .gradient_part = input};
  for (const ArithmeticOption& option : arithmetic_options())  // bf16_partials comes after what it changes
    if (std::find(options.begin(), options.end(), option.name) != options.end()) option.apply(arithmetic);
  return arithmetic;
}

std::string describe(Format input, const ArithmeticOptions& options) {
  const Arithmetic arithmetic = make_arithmetic(input, options);
  const char* normaliser = arithmetic.normaliser == Normaliser::sums_rounded     ? "normaliser sums rounded weights"
                           : arithmetic.normaliser == Normaliser::sums_unrounded ? "normaliser sums unrounded weights"
                                                                                 : "normalised before rounding";
  std::string text = std::string(name(arithmetic.input)) + " in; P~, P, dS " + name(arithmetic.weights) + "; " +
                     normaliser + "; mean keys " + name(arithmetic.pooled) + "; partial outputs " +
                     name(arithmetic.partial) + "; out " + name(arithmetic.output);
  constexpr std::string_view kTold[] = {"fp32_weights",  "rounded_sum",      "normalise_first",
                                        "rounded_means", "rounded_partials", "fp32_out"};
  for (const std::string& option : options)
    if (std::find(std::begin(kTold), std::end(kTold), option) == std::end(kTold)) text += "; " + option;
  return text;
}

}  // namespace attnspec::reference
