#include "reference/problem.hpp"

#include <cmath>
#include <cstddef>
#include <sstream>

#include "reference/format.hpp"

namespace attnspec::reference {

namespace {

void validate_offsets(const char* field, const std::vector<std::int64_t>& offsets) {
  if (offsets.empty()) throw InvalidProblem(field, "[]", "needs num_sequences + 1 entries, the first of them 0");
  if (offsets[0] != 0) throw InvalidProblem(std::string(field) + "[0]", std::to_string(offsets[0]), "must be 0");
  for (std::size_t s = 1; s < offsets.size(); ++s) {
    if (offsets[s] < offsets[s - 1])
      throw InvalidProblem(std::string(field) + "[" + std::to_string(s) + "]", std::to_string(offsets[s]),
                           "offsets must not decrease, and the one before is " + std::to_string(offsets[s - 1]));
  }
}

}  // namespace

InvalidProblem::InvalidProblem(const std::string& field, const std::string& value, const std::string& reason)
    : std::invalid_argument(field + "=" + value + ": " + reason) {}

void require_at_least_one(const char* field, std::int64_t value) {
  if (value < 1) throw InvalidProblem(field, std::to_string(value), "must be at least 1");
}

void validate(const AttentionProblem& problem) {
  validate_offsets("q_offsets", problem.q_offsets);
  validate_offsets("k_offsets", problem.k_offsets);
  if (problem.q_offsets.size() != problem.k_offsets.size())
    throw InvalidProblem("k_offsets", std::to_string(problem.k_offsets.size()) + " entries",
                         "must have as many as q_offsets, " + std::to_string(problem.q_offsets.size()));
  require_at_least_one("heads", problem.heads);
  require_at_least_one("kv_heads", problem.kv_heads);
  if (problem.heads % problem.kv_heads != 0)
    throw InvalidProblem("heads", std::to_string(problem.heads),
                         "must be a multiple of kv_heads=" + std::to_string(problem.kv_heads));
  require_at_least_one("dk", problem.dk);
  require_at_least_one("dv", problem.dv);
  if (!(std::abs(problem.scale) < overflow_threshold(Format::fp32))) {
    std::ostringstream scale;
    scale << problem.scale;
    throw InvalidProblem("scale", scale.str(), "must be a finite number of fp32, in which kernels compute");
  }
}

void validate(const MobaProblem& problem) {
  validate(problem.attention);
  require_at_least_one("block", problem.block);
  require_at_least_one("top_k", problem.top_k);
  if (problem.gate != Gate::top_k && !problem.attention.causal)
    throw InvalidProblem("causal", "0", "the window and sink gates select recent blocks and need causality");
  if (problem.gate == Gate::sink && problem.top_k < 2)
    throw InvalidProblem("top_k", std::to_string(problem.top_k),
                         "the sink gate needs at least 2, for the first block and the query's own");
}

void validate(const NsaProblem& problem) {
  validate(problem.attention);
  if (!problem.attention.causal) throw InvalidProblem("causal", "0", "NSA is causal");
  require_at_least_one("compress_block", problem.compress_block);
  require_at_least_one("compress_stride", problem.compress_stride);
  require_at_least_one("hidden", problem.hidden);
  require_at_least_one("block", problem.block);
  require_at_least_one("top_n", problem.top_n);
  require_at_least_one("local_blocks", problem.local_blocks);
  require_at_least_one("window", problem.window);
  if (problem.compress_block % problem.compress_stride != 0 || problem.block % problem.compress_stride != 0)
    throw InvalidProblem("compress_stride", std::to_string(problem.compress_stride),
                         "must divide compress_block=" + std::to_string(problem.compress_block) +
                             " and block=" + std::to_string(problem.block));
  if (problem.compress_block > problem.block)
    throw InvalidProblem("compress_block", std::to_string(problem.compress_block),
                         "must not exceed block=" + std::to_string(problem.block));
  if (problem.initial_blocks < 0)
    throw InvalidProblem("initial_blocks", std::to_string(problem.initial_blocks), "must not be negative");
  if (problem.top_n - problem.local_blocks < problem.initial_blocks)
    throw InvalidProblem("top_n", std::to_string(problem.top_n),
                         "must have room for initial_blocks=" + std::to_string(problem.initial_blocks) +
                             " and local_blocks=" + std::to_string(problem.local_blocks));
}

}  // namespace attnspec::reference
