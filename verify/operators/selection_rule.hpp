// What a row of a selection may hold, by exact scores and how far a kernel's may lie from them.
#pragma once

#include <cstdint>
#include <functional>
#include <vector>

#include "reference/attention.hpp"
#include "reference/noise/arithmetic.hpp"
#include "reference/nsa/nsa.hpp"
#include "reference/tensor.hpp"

namespace attnspec::verify {

using Blocks = std::vector<std::int32_t>;

/// What one query row may select.
struct SelectionRule {
  std::int64_t num_blocks = 0;  // visible blocks are 0 .. num_blocks - 1
  std::int64_t wanted = 0;      // how many blocks the row selects
  Blocks forced;                // always selected: the own block, what the window and sink gates fix, what NSA forces
  std::vector<double> scores, margins;  // [num_blocks], exact scores, and how far a kernel's may lie from them
};

/// What a row may hold: of a token and a head of the selection.
using RuleOfRow =
    std::function<SelectionRule(const reference::Sequence& sequence, std::int64_t token, std::int64_t head)>;

/// The rule of `wanted` of the blocks that have scores, `forced` ones among them.
SelectionRule rule_of(std::int64_t wanted, Blocks forced, const reference::Vector& scores,
                      const reference::Vector& margins);

/// The same, where margins cost much and bounds of them do not: only candidates that both may be taken and left out
/// within their bounds have the margins of margins_of(candidates); a bound decides as well of the others.
using MarginsOf = std::function<reference::Vector(const std::vector<Eigen::Index>& candidates)>;
SelectionRule rule_of(std::int64_t wanted, Blocks forced, const reference::Vector& scores,
                      const reference::Vector& bounds, const MarginsOf& margins_of);

/// MoBA's for the query at position t of a sequence with num_keys keys. scores and margins of at least the blocks
/// wholly in the past; exact regimes pass margins of 0.
SelectionRule selection_rule(const reference::MobaProblem& problem, std::int64_t t, std::int64_t num_keys,
                             const reference::Vector& scores, const reference::Vector& margins);

/// NSA's for the query at position t: importance and margins [c + 1].
SelectionRule importance_rule(const reference::NsaProblem& problem, std::int64_t t, const reference::Vector& importance,
                              const reference::Vector& margins);

/// The rule of every (token, query head) of MoBA, from its exact gate scores. exact: they have no margin. q and k must
/// outlive the rule.
RuleOfRow moba_rule(const reference::Arithmetic& arithmetic, const reference::MobaProblem& problem,
                    const reference::Tensor& q, const reference::Tensor& k, bool exact);

/// The rule of every (token, kv head) of NSA, from the exact importances of the compressed rows k the kernel had. q and
/// k must outlive the rule.
RuleOfRow nsa_rule(const reference::Arithmetic& arithmetic, const reference::NsaProblem& problem,
                   const reference::Tensor& q, const reference::Tensor& k);

}  // namespace attnspec::verify
