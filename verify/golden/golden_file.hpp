// One golden file: its parameters, its tensors, and how far the reference is from what it records.
#pragma once

#include "reference/nsa/nsa_compression.hpp"
#include "verify/cases/safetensors.hpp"
#include "verify/golden/golden.hpp"

namespace attnspec::verify {

class GoldenFile {
 public:
  /// Throws std::runtime_error when the file cannot be read.
  explicit GoldenFile(const std::string& path) : file_(read_safetensors(path)) {}

  bool records(const std::string& tensor) const { return file_.tensors.contains(tensor); }
  bool is_moba() const;

  /// A number among the parameters. Throws std::runtime_error when it is not there or none.
  std::int64_t number(const std::string& key) const;

  /// The problem of the case "moba(lens=.., heads=.., .., block=.., top_k=..)" that the parameters make, where
  /// `blocks_key` names the number of selected blocks. Throws std::invalid_argument where they are invalid.
  reference::MobaProblem problem(const std::string& blocks_key) const;

  /// A tensor [tokens, heads, dim], or [tokens, heads] for dim 1. Throws std::runtime_error when the file has no tensor
  /// of that name and shape.
  reference::Tensor load(const std::string& name, std::int64_t tokens, std::int64_t heads, std::int64_t dim) const;
  /// The tensors q, k, v and do, which every file has.
  struct Inputs {
    reference::Tensor q, k, v, d_o;
  };
  Inputs load_inputs(const reference::AttentionProblem& problem) const;

  /// The tensor `selection`.
  reference::Selection load_selection(std::int64_t tokens, std::int64_t heads, std::int64_t slots) const;

  /// The largest difference of a computed tensor from the recorded one of that name.
  GoldenComparison compare(const std::string& name, const reference::Tensor& computed) const;
  /// The same in units of the rows of `terms`, the absolute values that were added, where they cancel.
  GoldenComparison compare(const std::string& name, const reference::Tensor& computed,
                           const reference::Tensor& terms) const;
  GoldenComparison compare(const reference::Selection& computed) const;

 private:
  GoldenComparison comparison(const std::string& name, double difference, double bound) const;

  Safetensors file_;
};

/// Every recorded result of a file of one kind, compared.
std::vector<GoldenComparison> compare_moba(const GoldenFile& file);
std::vector<GoldenComparison> compare_nsa(const GoldenFile& file);        // compressed attention and the selection
std::vector<GoldenComparison> compare_nsa_given(const GoldenFile& file);  // selected and window on a given selection

}  // namespace attnspec::verify
