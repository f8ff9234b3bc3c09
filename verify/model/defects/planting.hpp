// How defects are planted, and where.
#pragma once

#include <vector>

#include "verify/model/defects/defects.hpp"

namespace attnspec::verify::model {

/// The model kernel's stages with one of them replaced.
template <class Stage>
Stages with(Stage Stages::*stage, Stage replacement) {
  Stages stages = correct_stages();
  stages.*stage = replacement;
  return stages;
}

/// The same work on another problem.
inline Work on(const Work& work, const MobaProblem& problem, const NsaProblem& nsa) {
  return {work.op, problem, nsa, work.arithmetic, work.num_queries, work.num_tokens, work.num_keys, work.is_backward};
}

/// A mistake that both MoBA and NSA are planted with.
inline Partial merge_with_base_two_lse(const Work& work, const std::vector<Partial>& partials) {
  Partial merged = correct_stages().merge(work, partials);
  merged.lse *= 1.44269504f;
  return merged;
}

/// In the operators that attend and in MoBA; in NSA and its parts; of tiles and splits, and of lists, in all of them;
/// those that need not show in any value, but break laws.
std::vector<Defect> moba_defects();
std::vector<Defect> nsa_defects();
std::vector<Defect> tile_defects();
std::vector<Defect> list_defects();
std::vector<Defect> law_defects();
/// In selectors with an indexer.
std::vector<Defect> index_defects();

}  // namespace attnspec::verify::model
