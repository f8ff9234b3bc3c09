// Declared arithmetic: the closed list of what a correct kernel may round, and where. docs/arithmetic.md explains the
// options to a kernel's author, docs/numerics.md derives what each adds to the predicted noise.
#pragma once

#include <string>
#include <string_view>
#include <vector>

#include "reference/format.hpp"

namespace attnspec::reference {

/// Which sum divides the output, and when.
enum class Normaliser {
  sums_unrounded,  // of the weights before their rounding to `weights`, after the product with v
  sums_rounded,    // of the rounded weights, so that equal rounding errors cancel
  divides_first,   // P = P~ / Z is formed and then rounded, before the product with v
};

/// Which operand of the scores is multiplied by the softmax scale and rounded before the products. Tag T1.
enum class ScaledOperand {
  none,
  q,  // in the forward and the backward
  k,  // in the backward alone
};

/// How tensor cores multiply fp32 numbers. Tags T2, T3.
enum class Fp32Products {
  exact,           // as fp32 numbers
  tf32,            // operands are rounded to tf32
  tf32_truncated,  // operands are cut to tf32
  tf32x3,          // three products of tf32 parts
};

/// The arithmetic of a kernel for one input format. Products accumulate in fp32; statistics (lse, delta) are fp32.
struct Arithmetic {
  Format input = Format::bf16;          // q, k, v, do
  Format weights = Format::bf16;        // P~ (or P) at the product with v; P and dS at the products of the backward
  Format pooled = Format::fp32;         // mean keys
  Format partial = Format::fp32;        // the output over one block, before blocks are merged
  Format output = Format::bf16;         // o, dq, dk, dv
  Format gradient_part = Format::bf16;  // parts of a gradient that are stored before they are added: E7
  Normaliser normaliser = Normaliser::sums_unrounded;
  ScaledOperand scaled_operand = ScaledOperand::none;
  Fp32Products products = Fp32Products::exact;
  bool scaled_log2 = false;              // the scaled operand holds log2(e) as well
  bool rounded_partials = false;         // partial outputs are stored in `partial`
  bool fused_branches = false;           // NSA: o, g do and dq of a branch pass on in fp32, not as they are stored
  bool rounded_head_gradients = false;   // dk and dv of every query head are parts
  bool rounded_block_gradients = false;  // dq of every selected block is a part
  bool own_block_apart = false;          // MoBA: dq, dk and dv of the own block and of all others are parts
  bool rounded_gradient_sums = false;    // parts are added in the format they are stored in
  bool scaled_ds = false;                // sigma dS is rounded, not dS: E8
  bool rounded_p_in_ds = false;          // dS is made of the rounded P: E9
  bool softmax_delta = false;            // delta = sum_j P_j dP_j: E10
  bool position_bias = false;            // phi: RN(x W) + RN(position W): C1
};

/// What a kernel may do beside the plain arithmetic of its input format, in which weights and outputs have that format
/// and all else is fp32. A kernel declares any set of options, the same for every format. An option that has nothing to
/// act on (a group of one head, tf32 with 16-bit inputs) changes nothing.
struct ArithmeticOption {
  const char* name;
  const char* group;    // a heading that it shares with those beside it
  const char* meaning;  // a sentence
  bool is_function;     // it says which exact function is computed; the others widen the bound by a rounding
  void (*apply)(Arithmetic& arithmetic);
};
const std::vector<ArithmeticOption>& arithmetic_options();

/// Names of options, in the order in which they were declared.
using ArithmeticOptions = std::vector<std::string>;

/// "moba+rounded_sum+fp32_out" is "moba" and two options. Throws std::invalid_argument in one line that names an option
/// which is unknown, given twice, contradicts another, or needs one that is not there.
struct NameAndArithmetic {
  std::string name;
  ArithmeticOptions options;
};
NameAndArithmetic parse_arithmetic(std::string_view text);

/// Why the options, each known and given once, cannot stand together, in one line; empty where they can.
std::string contradiction(const ArithmeticOptions& options);

/// The arithmetic of an input format with options that parse_arithmetic accepts.
Arithmetic make_arithmetic(Format input, const ArithmeticOptions& options = {});

/// One line: "bf16 in; P~, P, dS bf16; normaliser sums unrounded weights; mean keys fp32; partial outputs fp32;
/// out bf16", and behind it the names of the options that these formats do not tell.
std::string describe(Format input, const ArithmeticOptions& options);

}  // namespace attnspec::reference
