// Names of outputs: those of the fields of kernel_abi.h, with the path through its structs.
#pragma once

#include <string>

#include "reference/nsa/nsa.hpp"

namespace attnspec::verify {

/// What an attention writes: an operator, or a branch of nsa.
struct AttentionNames {
  std::string o = "o", lse = "lse", dq = "dq", dk = "dk", dv = "dv";
};

/// What a compression writes: nsa_compress, or phi of nsa's keys or values. The six gradients of parameters are
/// d_phi + ".position" and so on.
struct CompressionNames {
  std::string rows = "rows", d_tokens = "d_tokens", d_phi = "d_phi";
};

inline constexpr reference::Branch kBranches[] = {reference::Branch::compressed, reference::Branch::selected,
                                                  reference::Branch::window};
inline constexpr const char* kBranchNames[] = {"compressed", "selected", "window"};

/// The one of three that belongs to a branch.
template <class Array>
auto& of(Array& all, reference::Branch branch) {
  return all[static_cast<std::size_t>(branch)];
}

/// "selected.o", "d_selected.dk". The compressed branch attends to compressed rows: "dk_compressed"; its gradients of
/// tokens are what phi writes. dq is summed over the branches.
inline AttentionNames names_of(reference::Branch branch) {
  const std::string name = of(kBranchNames, branch);
  const bool is_compressed = branch == reference::Branch::compressed;
  return {name + ".o", name + ".lse", "dq", is_compressed ? "dk_compressed" : "d_" + name + ".dk",
          is_compressed ? "dv_compressed" : "d_" + name + ".dv"};
}

/// Phi of nsa's keys: "k_compressed", "d_compressed.dk", "d_phi_k"; and of its values.
inline CompressionNames names_of_keys() { return {"k_compressed", "d_compressed.dk", "d_phi_k"}; }
inline CompressionNames names_of_values() { return {"v_compressed", "d_compressed.dv", "d_phi_v"}; }

}  // namespace attnspec::verify
