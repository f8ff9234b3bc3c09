// The X-ray of a kernel: calls on indicator columns, and the comparison of the weights that they show.
#pragma once

#include <set>
#include <string>
#include <vector>

#include "verify/judge/attention.hpp"
#include "verify/run/calls/calls.hpp"
#include "verify/xray/subject.hpp"
#include "verify/xray/xray.hpp"

namespace attnspec::verify {

class KernelXray {
 public:
  /// The kernel must outlive it. Throws as `xray` does.
  KernelXray(const Kernel& kernel, const Case& c);

  Xray run();

 private:
  /// What calls of indicator values wrote.
  struct Exposure {
    std::vector<reference::Tensor> o;  // of each call
    Vector units;                      // [columns], the value that was not 0
  };
  /// Of each weight whether it is further off than rounding explains, [query rows * columns].
  using Wrong = std::vector<char>;

  void note(const std::vector<MemoryFault>& faults);
  /// The selection that the kernel wrote or was given, and its rules.
  void take_selection(const Calls& calls, AttentionXray& one) const;
  void expose_values(AttentionXray& one);
  /// The units that v_compressed holds; false where it holds anything else too.
  static bool take_units(const TensorView& values, std::int64_t first, std::int64_t width, Vector& units);
  void recover_selection(AttentionXray& one) const;
  void compare_values(const Exposure& exposure, std::int64_t width, AttentionXray& one) const;

  void expose_gradients(std::vector<AttentionXray>& all);
  /// One call of indicator gradients, from query row `first` on. Empty, or why there is no backward to X-ray.
  std::string expose_gradients(std::int64_t first, const reference::Selection& selection,
                               std::vector<AttentionXray>& all, std::vector<Wrong>& wrong);
  AttentionStage stage(const AttentionXray& one, const reference::Tensor& k, const reference::Tensor& v,
                       const TensorView& o, const TensorView& lse) const;

  const Kernel& kernel_;
  XraySubject subject_;
  reference::Tensor compressed_keys_;  // as the kernel stored them
  std::set<std::string> notes_;
};

}  // namespace attnspec::verify
