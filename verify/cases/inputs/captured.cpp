#include "verify/cases/inputs/captured.hpp"

#include <fmt/format.h>
#include <fmt/ranges.h>

#include <algorithm>
#include <cstdio>
#include <cstdlib>
#include <filesystem>
#include <map>
#include <mutex>
#include <stdexcept>

#include "verify/cases/paths.hpp"
#include "verify/cases/random.hpp"
#include "verify/cases/safetensors.hpp"

namespace attnspec::verify {

namespace {

using reference::InvalidProblem;
using reference::Tensor;

std::string captured_path(const std::string& name) {
  return (std::filesystem::path(activations_directory()) / (name + ".safetensors")).string();
}

/// "layer0, layer4", or why there are none.
std::string captured_list() {
  try {
    const std::vector<std::string> names = safetensors_stems(activations_directory());
    return names.empty() ? "none in " + activations_directory() : fmt::format("{}", fmt::join(names, ", "));
  } catch (const std::runtime_error& error) {
    return fmt::format("none ({})", error.what());
  }
}

std::string captured_name(const Case& c) { return c.regime.substr(std::string(kCaptured).size() + 1); }

/// q, k, v, do [tokens, heads, dim], all of as many tokens. A file is read once.
const Safetensors& load_captured(const std::string& name) {
  static std::map<std::string, Safetensors> read;
  static std::mutex guard;
  const std::lock_guard lock(guard);
  const std::string path = captured_path(name);
  if (const auto found = read.find(path); found != read.end()) return found->second;
  Safetensors file = read_safetensors(path);
  for (const char* key : {"q", "k", "v", "do"}) {
    const auto& shape = file.at(key).shape;
    if (shape.size() != 3 || shape[0] != file.at("q").shape[0] || shape[1] < 1)
      throw std::runtime_error(
          fmt::format("{}: tensor {} is not [tokens, heads, dim] with the tokens of q", file.path, key));
  }
  return read.emplace(path, std::move(file)).first->second;
}

}  // namespace

void fill_captured(const Case& c, Inputs& in) {
  const std::string file = captured_name(c);
  const Safetensors& captured = load_captured(file);
  const std::int64_t captured_tokens = captured.at("q").shape[0];
  const Random start(c.seed, "start");
  std::int64_t q_token = 0, k_token = 0, gradient = 0;
  const auto copy = [&](const char* key, Tensor& to, std::int64_t to_token, std::int64_t from_token,
                        std::int64_t tokens) {
    const SafeTensor& from = captured.at(key);
    for (std::int64_t i = 0; i < tokens; ++i)
      for (std::int64_t head = 0; head < to.heads; ++head)
        for (std::int64_t d = 0; d < to.dim; ++d)
          to.at(to_token + i, head)[d] = reference::round_to(
              from.values[static_cast<std::size_t>(
                  ((from_token + i) * from.shape[1] + head % from.shape[1]) * from.shape[2] + d % from.shape[2])],
              c.dtype);
  };
  for (std::size_t s = 0; s < c.lens.size(); ++s) {
    const std::int64_t keys = key_rows(c)[s], queries = row_counts(c, RowsOf::queries)[s],
                       gradients = gradient_rows(c)[s];
    const std::int64_t longer = std::max(keys, queries);
    const std::int64_t begin =
        c.seed == 0 ? 0 : start.below(captured_tokens - longer + 1, static_cast<std::uint64_t>(s));
    copy("q", in.q, q_token, begin + longer - queries, queries);
    copy("do", in.d_o, gradient, begin + longer - gradients, gradients);
    copy("k", in.k, k_token, begin + longer - keys, keys);
    if (in.v.tokens > 0) copy("v", in.v, k_token, begin + longer - keys, keys);
    q_token += queries;
    gradient += gradients;
    k_token += keys;
  }
}

void validate_captured(const Case& c) {
  const std::string file = captured_name(c);
  if (file.empty() || file.find('/') != std::string::npos || !std::filesystem::exists(captured_path(file)))
    throw InvalidProblem("regime", c.regime,
                         fmt::format("no captured activations of that name; there are: {}", captured_list()));
  const CapturedSizes sizes = captured_sizes(file);
  if (c.dk > sizes.dk)
    throw InvalidProblem("dk", std::to_string(c.dk), fmt::format("{} has {} features", c.regime, sizes.dk));
  if (attends(c.op) && c.dv > sizes.dv)
    throw InvalidProblem("dv", std::to_string(c.dv), fmt::format("{} has {} features", c.regime, sizes.dv));
  for (const auto* lengths : {&c.lens, &c.q_lens})
    for (const std::int64_t length : *lengths)
      if (length > sizes.tokens)
        throw InvalidProblem(lengths == &c.lens ? "lens" : "q_lens", fmt::format("{}", fmt::join(*lengths, "+")),
                             fmt::format("{} has {} tokens", c.regime, sizes.tokens));
}

CapturedSizes captured_sizes(const std::string& file) {
  const Safetensors& captured = load_captured(file);
  const auto &q = captured.at("q").shape, &v = captured.at("v").shape;
  return {q[0], q[1], v[1], q[2], v[2]};
}

std::string activations_directory() {
  const char* given = std::getenv("ATTNSPEC_ACTIVATIONS_DIR");
  return given != nullptr && *given != '\0' ? given : paths::activations();
}

std::vector<std::string> captured_names() {
  try {
    std::vector<std::string> names = safetensors_stems(activations_directory());
    if (names.empty()) throw std::runtime_error(activations_directory() + ": holds no .safetensors file");
    return names;
  } catch (const std::runtime_error& error) {
    static std::once_flag is_said;
    std::call_once(is_said, [&] {
      fmt::print(stderr,
                 "attnspec: cases with captured activations are left out: {} (ATTNSPEC_ACTIVATIONS_DIR names their "
                 "folder)\n",
                 error.what());
    });
    return {};
  }
}

}  // namespace attnspec::verify
