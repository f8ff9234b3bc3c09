// Sizes and parameters of the operators, and what makes them valid. No formula lives here: this is the one header
// that kernels may include.
#pragma once

#include <cstdint>
#include <stdexcept>
#include <string>
#include <vector>

namespace attnspec::reference {

/// A problem that no kernel can be asked to solve. what() is one line, "field=value: reason".
class InvalidProblem : public std::invalid_argument {
 public:
  InvalidProblem(const std::string& field, const std::string& value, const std::string& reason);
};

/// What every attention operator needs to know. Sequences are packed one after the other: tokens
/// offsets[s] .. offsets[s+1] - 1 belong to sequence s, and a sequence may be empty.
struct AttentionProblem {
  std::vector<std::int64_t> q_offsets{0};  // [num_sequences + 1], in tokens
  std::vector<std::int64_t> k_offsets{0};  // [num_sequences + 1], in tokens
  std::int64_t heads = 1;                  // query heads H
  std::int64_t kv_heads = 1;               // key/value heads Hkv; H is a multiple of Hkv
  std::int64_t dk = 64;                    // features of q and k
  std::int64_t dv = 64;                    // features of v and o
  double scale = 0.125;                    // softmax scale sigma; any finite number
  bool causal = true;                      // bottom-right aligned: the last query sees the last key
};

/// Which past blocks a MoBA query attends to beside its own.
enum class Gate {
  top_k,   // the blocks whose mean key has the largest product with the query
  window,  // the most recent blocks (the report's sliding-window special case)
  sink,    // the first block and the most recent ones (the report's attention-sink special case)
};

/// Mixture of block attention.
struct MobaProblem {
  AttentionProblem attention;
  std::int64_t block = 64;  // tokens in a key block B; the last block of a sequence may be short
  std::int64_t top_k = 3;   // blocks per query K, the query's own block included
  Gate gate = Gate::top_k;
};

/// How phi, NSA's compression, makes one row out of the l rows of a compression block.
enum class Phi {
  mean,    // their mean; it has no parameters
  linear,  // one linear map of the rows, each with its position encoding added, side by side
  mlp,     // two layers with biases and an activation between them, of the same
};
enum class Activation { relu, silu, gelu };  // gelu in its erf form, x (1 + erf(x / sqrt(2))) / 2

/// Native sparse attention.
struct NsaProblem {
  AttentionProblem attention;         // causal; dk of all keys, dv of all values
  std::int64_t compress_block = 32;   // tokens in a compression block l
  std::int64_t compress_stride = 16;  // tokens from the start of one to the start of the next d; divides l and l'
  Phi phi = Phi::mean;                // for keys and for values, which have parameters of their own
  Activation activation = Activation::silu;  // of Phi::mlp
  std::int64_t hidden = 64;                  // of Phi::mlp: features between its layers
  bool shared_phi = false;                   // one set of parameters for all kv heads instead of one for each
  std::int64_t block = 64;                   // tokens in a selection block l'; at least l; the last one may be short
  std::int64_t top_n = 16;                   // blocks per query n, forced ones included
  std::int64_t initial_blocks = 1;           // forced: the first of the sequence
  std::int64_t local_blocks = 2;             // forced: the query's own and those before it; at least 1
  std::int64_t window = 512;                 // keys of the window branch w, the query's own included
};

/// Throws InvalidProblem where a size is below 1.
void require_at_least_one(const char* field, std::int64_t value);

/// Throws InvalidProblem naming the first field that is wrong:
/// offsets that do not start at 0, decrease, or differ in number; heads, kv_heads, dk, dv below 1; heads not
/// divisible by kv_heads; a scale that is not finite.
void validate(const AttentionProblem& problem);

/// The same, and: block or top_k below 1; a gate other than top_k without causality, which gives "recent" its
/// meaning; a sink gate with top_k 1, which has no room for both the first block and the query's own.
void validate(const MobaProblem& problem);

/// The same as for AttentionProblem, and: not causal; compress_block, compress_stride, hidden, block, top_n,
/// local_blocks or window below 1; a stride that does not divide compress_block and block; a compress_block above
/// block; initial_blocks below 0; top_n below initial_blocks + local_blocks.
void validate(const NsaProblem& problem);

}  // namespace attnspec::reference
