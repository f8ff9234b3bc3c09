// The stages of selectors with an indexer: MSA, DSA and QSA. What each does stands in Stages.
#pragma once

#include "verify/model/stages.hpp"

namespace attnspec::verify::model {

std::int64_t num_index_keys(const Work& work, std::int64_t t);
IndexProducts block_worth(const Work& work, const IndexProducts& products);
std::vector<float> add_index_heads(const Work& work, const IndexProducts& products, const std::vector<float>& w);
Blocks select_tokens(const Work& work, const std::vector<float>& scores);
Blocks select_complete(const Work& work, const std::vector<float>& scores, std::int64_t t);

/// The `count` candidates of the highest scores; of equal ones the later.
Blocks best(const std::vector<float>& scores, std::int64_t count);

}  // namespace attnspec::verify::model
