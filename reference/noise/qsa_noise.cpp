#include "reference/noise/qsa_noise.hpp"

namespace attnspec::reference {

Vector score_margins(const Arithmetic& arithmetic, const Matrix& qi, const Rows& kbar, const Vector& ties) {
  return score_margins(arithmetic, qi, Vector::Ones(qi.rows()), kbar, ties);
}

Vector score_bounds(const Arithmetic& arithmetic, const Matrix& qi, const Vector& norms) {
  return score_bounds(arithmetic, qi, Vector::Ones(qi.rows()), norms);
}

}  // namespace attnspec::reference
