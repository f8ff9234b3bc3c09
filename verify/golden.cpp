#include "verify/golden.hpp"

#include <fmt/format.h>

#include <algorithm>
#include <cmath>
#include <cstdlib>
#include <filesystem>
#include <stdexcept>

#include "reference/moba.hpp"
#include "verify/case.hpp"
#include "verify/safetensors.hpp"

namespace attnspec::verify {

namespace {

using reference::Tensor;

Tensor load(const Safetensors& file, const char* name, std::int64_t tokens, std::int64_t heads, std::int64_t dim) {
  const SafeTensor& tensor = file.at(name);
  if (tensor.shape != std::vector<std::int64_t>{tokens, heads, dim})
    throw std::runtime_error(
        fmt::format("{}: tensor {}: its shape is not [{}, {}, {}]", file.path, name, tokens, heads, dim));
  Tensor result(tokens, heads, dim);
  for (std::int64_t token = 0; token < tokens; ++token)
    for (std::int64_t head = 0; head < heads; ++head)
      std::copy_n(tensor.values.begin() + (token * heads + head) * dim, dim, result.at(token, head));
  return result;
}

/// max over rows of ||a - b|| / ||b||; a row of zeros must be exactly zero.
double row_difference(const Tensor& a, const Tensor& b) {
  double worst = 0;
  for (std::int64_t token = 0; token < a.tokens; ++token) {
    for (std::int64_t head = 0; head < a.heads; ++head) {
      const double error = (a.row(token, head) - b.row(token, head)).norm(), norm = b.row(token, head).norm();
      if (!(error <= 0)) worst = std::max(worst, std::isnan(error) ? HUGE_VAL : error / norm);
    }
  }
  return worst;
}

}  // namespace

bool is_defined(const std::string& path) {
  const Safetensors file = read_safetensors(path);
  const auto op = file.metadata.find("operator");
  return op != file.metadata.end() && op->second == "moba";
}

std::vector<GoldenComparison> compare_golden(const std::string& path) {
  const Safetensors file = read_safetensors(path);
  const auto& heads = file.meta("heads");
  const auto kv_heads = file.metadata.find("kv_heads");
  Case c;
  try {
    c = parse_case(fmt::format("moba(lens={},heads={},kv_heads={},dk={},block={},top_k={})", file.meta("lens"), heads,
                               kv_heads == file.metadata.end() ? heads : kv_heads->second, file.meta("dk"),
                               file.meta("block"), file.meta("top_k")));
  } catch (const std::invalid_argument& error) {
    throw std::invalid_argument(fmt::format("{}: {}", path, error.what()));
  }
  if (!file.at("v").shape.empty()) c.dv = file.at("v").shape.back();
  const reference::MobaProblem problem = problem_of(c);
  const std::int64_t tokens = problem.attention.q_offsets.back();
  const Tensor q = load(file, "q", tokens, c.heads, c.dk), k = load(file, "k", tokens, c.kv_heads, c.dk);
  const Tensor v = load(file, "v", tokens, c.kv_heads, c.dv), d_o = load(file, "do", tokens, c.heads, c.dv);
  const auto [selection, outputs] = reference::moba(problem, q, k, v);
  const auto gradients =
      reference::selected_backward(problem.attention, problem.block, q, k, v, selection, d_o, outputs);
  std::vector<GoldenComparison> comparisons;
  const auto compare = [&](const char* name, const Tensor& computed) {
    const Tensor recorded = load(file, name, computed.tokens, computed.heads, computed.dim);
    comparisons.push_back({std::filesystem::path(path).filename().string(), name, row_difference(computed, recorded),
                           file.at(name).dtype == "F64" ? 1e-12 : 1e-6});
  };
  compare("o", outputs.o);
  compare("dq", gradients.dq);
  compare("dk", gradients.dk);
  compare("dv", gradients.dv);
  return comparisons;
}

std::string golden_directory() {
  const char* given = std::getenv("ATTNSPEC_GOLDEN_DIR");
  return given != nullptr && *given != '\0' ? given : ATTNSPEC_SOURCE_DIR "/verify/golden";
}

std::vector<std::string> golden_files() {
  const std::string directory = golden_directory();
  std::vector<std::string> files;
  for (const std::string& stem : safetensors_stems(directory))
    files.push_back((std::filesystem::path(directory) / (stem + ".safetensors")).string());
  if (files.empty()) throw std::runtime_error(fmt::format("{}: holds no .safetensors file", directory));
  return files;
}

}  // namespace attnspec::verify
