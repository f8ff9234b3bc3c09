#include "verify/xray/subject.hpp"

#include <fmt/format.h>

#include <cstdint>
#include <stdexcept>

#include "verify/judge/overflow.hpp"
#include "verify/judge/selections.hpp"
#include "verify/xray/xray.hpp"

namespace attnspec::verify {

using namespace reference;

void refuse_xray(const Case& c, const std::string& why) {
  throw std::invalid_argument(fmt::format("case '{}': cannot be X-rayed: {}", print(c), why));
}

XraySubject::XraySubject(const Case& of, const ArithmeticOptions& options)
    : c(of), problem(problem_of(c)), nsa(nsa_problem_of(c)), arithmetic(make_arithmetic(c.dtype, options)) {
  if (!attends(c.op)) refuse_xray(c, fmt::format("{} does not attend", name(c.op)));
  if (!c.session.empty()) refuse_xray(c, "session is several calls, leave it out");
  std::int64_t weights = 0;
  for (const Attention& attention : attentions_of(c)) weights += attention.query_rows() * attention.columns();
  if (weights > kMaxWeights)
    refuse_xray(c, fmt::format("it has {} pairs of a query row and a key row, the limit is {}", weights, kMaxWeights));
  c.law = Law::none;
  c.sample = 0;
  inputs = make_inputs(c);
  refuse_overflowing_scores(c.scale, inputs.q, inputs.k);
}

std::vector<SelectionRule> XraySubject::rules(const Attention& attention, const Tensor& compressed) const {
  if (!attention.has_blocks || reads_selection(c.op)) return {};
  AttentionProblem every = attention.problem;
  if (attention.branch) every.heads = every.kv_heads;
  const RuleOfRow rule = attention.branch
                             ? nsa_rule(arithmetic, nsa, inputs.q, compressed)
                             : moba_rule(arithmetic, problem, inputs.q, inputs.k, regime_of(c).exact_scores);
  std::vector<SelectionRule> rules(static_cast<std::size_t>(every.q_offsets.back() * every.heads));
  for_each_query(every, [&](const Sequence& sequence, std::int64_t token, std::int64_t head) {
    rules[static_cast<std::size_t>(token * every.heads + head)] = rule(sequence, token, head);
  });
  return rules;
}

}  // namespace attnspec::verify
