#include "verify/model/defects/defects.hpp"

#include "verify/model/defects/planting.hpp"

namespace attnspec::verify::model {

const std::vector<Defect>& defects() {
  static const std::vector<Defect> all = [] {
    std::vector<Defect> planted = moba_defects();
    for (const auto& more : {nsa_defects(), tile_defects(), list_defects(), law_defects(), index_defects()})
      planted.insert(planted.end(), more.begin(), more.end());
    return planted;
  }();
  return all;
}

}  // namespace attnspec::verify::model
