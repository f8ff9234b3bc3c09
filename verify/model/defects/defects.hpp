// Planted defects: the model kernel with one stage replaced by a mistake that somebody could make.
#pragma once

#include <string>
#include <vector>

#include "verify/cases/case.hpp"
#include "verify/model/stages.hpp"

namespace attnspec::verify::model {

struct Defect {
  const char* name;
  const char* what;                   // one sentence: the mistake
  const char* kind;                   // its class: selection, mask, merge, backward
  const char* trigger;                // what a case needs for it to matter
  const char* source;                 // where it comes from
  Operator op;                        // the operator it is planted in
  Stages stages;                      // the model kernel's, one of them replaced
  std::vector<Operator> beside = {};  // other operators that a law compares it with
};

const std::vector<Defect>& defects();

}  // namespace attnspec::verify::model
