// X-ray: the weight that each query gives each key, recovered from any kernel. Values are inputs, so a call whose
// values are indicator columns (v_j = 1 in one feature, 0 in all others) writes weights into o; with dO as indicator
// columns dv holds the weights of the backward. As many calls as columns need.
#pragma once

#include <cstdint>
#include <string>
#include <vector>

#include "verify/judge/result.hpp"
#include "verify/judge/selection.hpp"
#include "verify/run/kernel.hpp"
#include "verify/xray/attentions.hpp"

namespace attnspec::verify {

/// What can be wrong with a weight. Those before wrong_weight are of the support: which keys have any.
enum class WeightFault {
  malformed_selection,
  other_sequence,     // a key of another sequence has weight
  other_kv_head,      // a key of another kv head has weight
  future_key,         // a key behind the last one that causality allows has weight
  outside_window,     // a key before the window has weight
  unselected_block,   // a key of a block that the row did not select has weight, or the row may not select the block
  missing_own_block,  // no key of the query's own block has weight
  missing_block,      // no key of a selected block has weight
  missing_key,        // a key that the query sees has no weight
  wrong_weight,       // a weight is further off than rounding explains
};
inline constexpr WeightFault kWeightFaults[] = {WeightFault::malformed_selection, WeightFault::other_sequence,
                                                WeightFault::other_kv_head,       WeightFault::future_key,
                                                WeightFault::outside_window,      WeightFault::unselected_block,
                                                WeightFault::missing_own_block,   WeightFault::missing_block,
                                                WeightFault::missing_key,         WeightFault::wrong_weight};
/// "future key"
const char* name(WeightFault fault);
/// Whether a weight is where none belongs; whether one is missing.
bool is_leak(WeightFault fault);
bool is_missing(WeightFault fault);

/// One weight that is wrong: of a query and a key, each as a position in its sequence.
struct WeightFinding {
  WeightFault fault;
  Place query;            // its token counts in its sequence
  Place key{-1, -1, -1};  // head: its kv head; -1: a whole row
  double observed = 0, expected = 0, bound = 0;
  std::string detail{};  // of a selection that no correct kernel makes: why
};

/// The weights of one direction of an attention. A row of each matrix is a query row, packed token * H + head; a column
/// is a key, kv head * keys + packed key.
struct Weights {
  Matrix observed{}, expected{};          // without a kernel both are the specification's
  Matrix bound{};                         // how far rounding can move each; no rows without a kernel
  std::int64_t calls = 0;                 // of the kernel
  std::int64_t seen = 0, too_small = 0;   // weights above 0 that belong, and those whose loss rounding would hide
  std::vector<WeightFinding> findings{};  // by sequence, head, token, fault and key
  std::int64_t followers = 0;             // rows whose other weights are off because of a leak or loss in them
  std::string why_not{};                  // of a direction that could not be X-rayed

  bool is_there() const { return observed.size() > 0; }
};

/// Who says which blocks a row selected.
enum class SelectionSource { none, given, specification, exported, recovered };

/// X-ray of one attention: of an operator, or of a branch of nsa.
struct AttentionXray {
  Attention attention{};
  SelectionSource source = SelectionSource::none;
  reference::Selection selection{};    // that the weights are compared on; of `none` the whole sequence
  std::vector<SelectionRule> rules{};  // [tokens * heads of the selection], where the attention's blocks are selected
  Weights forward{}, backward{};

  bool is_clean() const { return forward.findings.empty() && backward.findings.empty(); }
};

struct Xray {
  Case c{};
  std::string kernel{};  // empty: of the specification
  std::string arithmetic{};
  std::vector<AttentionXray> attentions{};
  std::vector<std::string> notes{};  // what calls did beside computing

  bool is_clean() const;
  /// Whether everything could be X-rayed.
  bool is_whole() const;
};

/// Pairs of a query row and a key row that are recovered at most, all attentions together; and calls of the kernel.
inline constexpr std::int64_t kMaxWeights = std::int64_t{1} << 20, kMaxXrayCalls = 4096;

/// X-rays a kernel on a case, of which it needs q, k, sizes and parameters. Throws std::invalid_argument in one line:
/// an operator that does not attend, a session, more than the limits above, a case that the kernel does not do;
/// and CallFailed.
Xray xray(const Kernel& kernel, const Case& c);

/// Who attends to whom by the specification. Throws std::invalid_argument likewise.
Xray xray(const Case& c);

/// What it found, in words: for each direction of each attention the kinds of faults with the first of each, or by
/// which scores each row selected its blocks.
std::string words(const Xray& xray);

/// The same as a picture, SVG: for each sequence and head a grid of queries by keys.
std::string svg(const Xray& xray);

}  // namespace attnspec::verify
