#include "verify/laws/degrees.hpp"

namespace attnspec::verify {

Degrees degrees(const Case& c, const std::string& output) {
  const std::string last = output.substr(output.rfind('.') + 1);
  if (output == "selection" || last == "lse") return {};
  if (output == "k_compressed") return {.k = 1};
  if (last == "o" || output == "rows" || output == "v_compressed") return {.v = 1};
  const bool is_of_values = last == "dv" || output == "dv_compressed" || output.starts_with("d_phi_v.");
  if (c.op == Operator::nsa_compress || is_of_values) return {.gradient = 1};
  if (output == "d_gates") return {.v = 1, .gradient = 1};
  if (output == "dq") return {.k = 1, .v = 1, .gradient = 1};
  return {.q = 1, .v = 1, .gradient = 1};  // of keys
}

}  // namespace attnspec::verify
