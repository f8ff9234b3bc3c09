#include "verify/golden/golden_file.hpp"

#include <fmt/format.h>

#include <algorithm>
#include <charconv>
#include <cmath>
#include <filesystem>
#include <iterator>
#include <set>
#include <stdexcept>

#include "verify/cases/case.hpp"

namespace attnspec::verify {

using reference::Selection;
using reference::Tensor;

namespace {

/// max over rows of ||a - b|| / ||unit||; a row whose unit is zero must not differ.
double row_difference(const Tensor& a, const Tensor& b, const Tensor& unit) {
  double worst = 0;
  for (std::int64_t token = 0; token < a.tokens; ++token) {
    for (std::int64_t head = 0; head < a.heads; ++head) {
      const double error = (a.row(token, head) - b.row(token, head)).norm(), norm = unit.row(token, head).norm();
      if (!(error <= 0)) worst = std::max(worst, std::isnan(error) ? HUGE_VAL : error / norm);
    }
  }
  return worst;
}

/// The blocks of a selected row, without empty slots.
std::set<std::int32_t> blocks(std::span<const std::int32_t> row) {
  std::set<std::int32_t> result(row.begin(), row.end());
  result.erase(-1);
  return result;
}

}  // namespace

bool GoldenFile::is_moba() const {
  const auto op = file_.metadata.find("operator");
  return op != file_.metadata.end() && op->second == "moba";
}

std::int64_t GoldenFile::number(const std::string& key) const {
  const std::string& text = file_.meta(key);
  std::int64_t value = 0;
  const auto [end, error] = std::from_chars(text.data(), text.data() + text.size(), value);
  if (error != std::errc() || end != text.data() + text.size())
    throw std::runtime_error(fmt::format("{}: metadata {}={} is not a number", file_.path, key, text));
  return value;
}

reference::MobaProblem GoldenFile::problem(const std::string& blocks_key) const {
  const auto& heads = file_.meta("heads");
  const auto kv_heads = file_.metadata.find("kv_heads");
  Case c;
  try {
    c = parse_case(fmt::format("moba(lens={},heads={},kv_heads={},dk={},block={},top_k={})", file_.meta("lens"), heads,
                               kv_heads == file_.metadata.end() ? heads : kv_heads->second, file_.meta("dk"),
                               file_.meta("block"), file_.meta(blocks_key)));
  } catch (const std::invalid_argument& error) {
    throw std::invalid_argument(fmt::format("{}: {}", file_.path, error.what()));
  }
  if (!file_.at("v").shape.empty()) c.dv = file_.at("v").shape.back();
  return problem_of(c);
}

Tensor GoldenFile::load(const std::string& name, std::int64_t tokens, std::int64_t heads, std::int64_t dim) const {
  const SafeTensor& tensor = file_.at(name);
  std::vector<std::int64_t> shape = tensor.shape;
  if (dim == 1 && shape.size() == 2) shape.push_back(1);
  if (shape != std::vector<std::int64_t>{tokens, heads, dim})
    throw std::runtime_error(
        fmt::format("{}: tensor {}: its shape is not [{}, {}, {}]", file_.path, name, tokens, heads, dim));
  Tensor result(tokens, heads, dim);
  for (std::int64_t token = 0; token < tokens; ++token)
    for (std::int64_t head = 0; head < heads; ++head)
      std::copy_n(tensor.values.begin() + (token * heads + head) * dim, dim, result.at(token, head));
  return result;
}

GoldenFile::Inputs GoldenFile::load_inputs(const reference::AttentionProblem& problem) const {
  const std::int64_t tokens = problem.q_offsets.back();
  return {load("q", tokens, problem.heads, problem.dk), load("k", tokens, problem.kv_heads, problem.dk),
          load("v", tokens, problem.kv_heads, problem.dv), load("do", tokens, problem.heads, problem.dv)};
}

Selection GoldenFile::load_selection(std::int64_t tokens, std::int64_t heads, std::int64_t slots) const {
  const Tensor recorded = load("selection", tokens, heads, slots);
  Selection selection(tokens, heads, slots);
  for (std::int64_t token = 0; token < tokens; ++token)
    for (std::int64_t head = 0; head < heads; ++head)
      std::transform(recorded.at(token, head), recorded.at(token, head) + slots, selection.row(token, head).begin(),
                     [](double block) { return static_cast<std::int32_t>(block); });
  return selection;
}

GoldenComparison GoldenFile::compare(const std::string& name, const Tensor& computed) const {
  return compare(name, computed, load(name, computed.tokens, computed.heads, computed.dim));
}

GoldenComparison GoldenFile::compare(const std::string& name, const Tensor& computed, const Tensor& terms) const {
  const Tensor recorded = load(name, computed.tokens, computed.heads, computed.dim);
  return comparison(name, row_difference(computed, recorded, terms), file_.at(name).dtype == "F64" ? 1e-12 : 1e-6);
}

GoldenComparison GoldenFile::compare(const Selection& computed) const {
  const Selection recorded = load_selection(computed.tokens, computed.heads, computed.slots);
  double worst = 0;
  for (std::int64_t token = 0; token < computed.tokens; ++token) {
    for (std::int64_t head = 0; head < computed.heads; ++head) {
      const auto selected = blocks(computed.row(token, head)), expected = blocks(recorded.row(token, head));
      std::vector<std::int32_t> different;
      std::set_symmetric_difference(selected.begin(), selected.end(), expected.begin(), expected.end(),
                                    std::back_inserter(different));
      if (!different.empty())
        worst = std::max(worst, static_cast<double>(different.size()) / static_cast<double>(expected.size()));
    }
  }
  return comparison("selection", worst, 0);
}

GoldenComparison GoldenFile::comparison(const std::string& name, double difference, double bound) const {
  return {std::filesystem::path(file_.path).filename().string(), name, difference, bound};
}

}  // namespace attnspec::verify
