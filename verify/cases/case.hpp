// A case: one call of one operator, as a small flat value without tensors. Its printed form is its name, the filter,
// the replay key and the line in a case file, and parses back to itself.
#pragma once

#include <cstdint>
#include <string>
#include <string_view>
#include <vector>

#include "reference/format.hpp"
#include "reference/problem.hpp"
#include "verify/operators/operators.hpp"

namespace attnspec::verify {

using reference::Format;

/// How the blocks of a given selection stand in its slots. Each order has what those before it have.
enum class SelectionOrder {
  any,        // empty slots anywhere
  packed,     // empty slots last
  ascending,  // blocks in their order
  own_last,   // every query with a key has its own block, and it stands last
};

/// The names of values, as cases have them.
const char* name(reference::Gate gate);
const char* name(reference::Phi phi);
const char* name(SelectionOrder order);

/// What a case is judged by instead of the specification: a relation between calls, or within one.
enum class Law {
  none,
  repeat,
  future,
  unselected,
  heads,
  strides,
  packing,
  decode,
  power,
  negation,
  reciprocal,
  slots,
  groups,
  prefix,
  all_blocks,
  own_block,
  whole_window,
  as_moba,
  one_hot,
  mass,
  dk_sum,
  dv_sum,
  one_row,
};
inline constexpr Law kLaws[] = {Law::repeat,       Law::future,  Law::unselected, Law::heads,      Law::strides,
                                Law::packing,      Law::decode,  Law::power,      Law::negation,   Law::reciprocal,
                                Law::slots,        Law::groups,  Law::prefix,     Law::all_blocks, Law::own_block,
                                Law::whole_window, Law::as_moba, Law::one_hot,    Law::mass,       Law::dk_sum,
                                Law::dv_sum,       Law::one_row};

const char* name(Law law);
/// Throws std::invalid_argument that lists the laws.
Law parse_law(const std::string& text);
/// What the next call of a session differs in from the one before it.
enum class SessionStep {
  contents,  // other numbers in the same place
  moved,     // the same in another place
  shape,     // the first sequence half as long, in the same place
  offsets,   // the sequences' lengths change places, which leaves every shape as it is
  again,     // the first call once more, in its place
};

/// How the harness lays out a tensor. Both keep features contiguous.
enum class Layout {
  strided,     // gaps between heads and between tokens, and a start inside its allocation
  contiguous,  // [tokens, heads, dim] without gaps
};

/// Numbers that a person can compute with, the plainest first.
enum class PlainNumbers {
  zeros,
  ones,
  positions,  // 1, 2, 3 ... along each sequence, the same in every head and feature
  one_hot,    // 1 in the feature position % features, else 0
  whole,      // those of the input pattern, rounded to whole ones
};

/// Plain numbers in a tensor, in place of those of the input pattern.
struct TensorNumbers {
  std::string tensor;  // named as in kernel_abi.h; empty: all that are not named
  PlainNumbers numbers;

  bool operator==(const TensorNumbers&) const = default;
};

struct Case {
  Operator op = Operator::moba;
  std::vector<std::int64_t> lens{256};    // keys of each sequence
  std::vector<std::int64_t> q_lens{256};  // queries of each sequence; lens unless given
  std::int64_t heads = 1, kv_heads = 1;   // kv_heads is heads unless given; of an indexer: index heads, and 1
  std::int64_t dk = 64, dv = 64;          // dv is dk unless given
  std::int64_t block = 64, top_k = 3;     // of `selected`: top_k is the number of slots; a selection of tokens: 1
  reference::Gate gate = reference::Gate::top_k;
  std::int64_t compress_block = 32, compress_stride = 16;  // l and d of NSA
  std::int64_t top_n = 16, initial = 1, local = 2;         // of NSA's selection: n, forced blocks within it
  std::int64_t window = 64;                                // of NSA: keys w, the query's own included
  reference::Phi phi = reference::Phi::mean;
  reference::Activation activation = reference::Activation::silu;
  std::int64_t hidden = 64;       // of phi=mlp
  bool shared_phi = false;        // one phi for all kv heads
  bool shared_kv = false;         // of `nsa`: all branches read the same k and v
  bool shared_selection = false;  // of `selected`: one selection per kv head instead of per query head
  SelectionOrder selection_order = SelectionOrder::any;  // of `selected`
  bool causal = true;
  double scale = 0.125;  // dk^-1/2 unless given
  Format dtype = Format::bf16;
  Layout layout = Layout::strided;
  std::string regime = "normal";
  std::vector<TensorNumbers> numbers;  // of some tensors; see inputs/plain_numbers.hpp
  std::uint64_t seed = 0;
  std::int64_t sample = 0;           // query rows judged of every output, at most; 0: all of them. See judge/sample.hpp
  std::vector<SessionStep> session;  // the steps of calls that follow on the same kernel; see session.hpp
  Law law = Law::none;

  bool operator==(const Case&) const = default;
};

/// moba(lens=193+64+1,heads=4,...): keys in declaration order, defaults left out.
std::string print(const Case& c);

/// Lengths, as a case has them: those that come four times or more in a row are written once.
std::string print_lengths(const std::vector<std::int64_t>& lengths);

/// The inverse of print. Keys in any order, each at most once; defaults may be written out. Throws
/// std::invalid_argument, one line that names the key and the value: unknown operator or key, a key the operator does
/// not have, a value that does not parse, or a case that validate rejects.
Case parse_case(std::string_view text);

/// Throws reference::InvalidProblem, naming field and value: sizes that the problem rejects, an unknown regime,
/// tensors too large to index, a law that the operator does not have, a sample without room for the rows that are
/// always in it.
void validate(const Case& c);

/// The softmax scale when a case does not give one: dk^-1/2.
double default_scale(std::int64_t dk);

/// Sizes and parameters as the reference and the kernels take them. For `dense`, block and top_k have no meaning.
reference::MobaProblem problem_of(const Case& c);

/// The same for the operators of NSA. For `nsa_compress`, which has no queries, H = Hkv and a selection block is a
/// compression block.
reference::NsaProblem nsa_problem_of(const Case& c);

/// Tokens of the longest sequence; 0 without any.
std::int64_t longest(const Case& c);

/// Rows of a kind of each sequence, but for those of parameters: its queries, none without; its keys; its compressed
/// rows; its complete blocks.
std::vector<std::int64_t> row_counts(const Case& c, RowsOf of);
/// Those of k and v, and of the gradient that the backward is given.
std::vector<std::int64_t> key_rows(const Case& c);
std::vector<std::int64_t> gradient_rows(const Case& c);

/// Whether compressed rows, where the operator makes any, scale as the tokens do.
inline bool has_linear_rows(const Case& c) { return !compresses(c.op) || c.phi == reference::Phi::mean; }

/// The lines of a case file: blank lines and text after # are left out. Throws std::invalid_argument naming file and
/// line, std::runtime_error when the file cannot be read.
std::vector<Case> read_case_file(const std::string& path);

}  // namespace attnspec::verify
