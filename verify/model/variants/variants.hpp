// Equivalent variants: the model kernel with a stage done in another way that is as right. None may be accused.
#pragma once

#include <vector>

#include "verify/model/stages.hpp"

namespace attnspec::verify::model {

struct Variant {
  const char* name;
  const char* what;  // one sentence: what is done differently
  Stages stages;     // the model kernel's, some of them replaced
};

const std::vector<Variant>& variants();

}  // namespace attnspec::verify::model
