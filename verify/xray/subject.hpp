// A case as an X-ray needs it: one call of an attention, of a size that can be X-rayed.
#pragma once

#include <string>
#include <vector>

#include "reference/dense.hpp"
#include "reference/moba/moba.hpp"
#include "reference/noise/arithmetic.hpp"
#include "verify/judge/selection.hpp"
#include "verify/xray/attentions.hpp"

namespace attnspec::verify {

/// Throws std::invalid_argument that says why a case cannot be X-rayed.
[[noreturn]] void refuse_xray(const Case& c, const std::string& why);

struct XraySubject {
  /// Throws as refuse_xray does.
  XraySubject(const Case& of, const reference::ArithmeticOptions& options);

  /// What each row of the selection may hold, [tokens * heads of the selection]; none for an attention whose blocks
  /// nobody selects. compressed: of a branch, the compressed rows of keys.
  std::vector<SelectionRule> rules(const Attention& attention, const reference::Tensor& compressed) const;

  Case c;  // with every row, without a law
  reference::MobaProblem problem;
  reference::NsaProblem nsa;
  reference::Arithmetic arithmetic;
  Inputs inputs;
};

}  // namespace attnspec::verify
