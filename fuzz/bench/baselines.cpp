#include "fuzz/bench/baselines.hpp"

#include <fmt/format.h>
#include <unistd.h>

#include <algorithm>
#include <cstdlib>
#include <filesystem>
#include <fstream>
#include <nlohmann/json.hpp>
#include <stdexcept>

#include "reference/format.hpp"
#include "verify/cases/paths.hpp"
#include "verify/run/worker/process.hpp"

namespace attnspec::fuzz {

namespace {

std::string find_python() {
  if (const char* named = std::getenv("ATTNSPEC_PYTHON")) return named;
  const std::vector<std::string> found = verify::programs("python3");
  if (found.empty()) throw std::runtime_error("--baselines: there is no python3 on the PATH");
  return found.front();
}

/// A file of this process alone, which is removed in the end.
struct TemporaryFile {
  std::filesystem::path path =
      std::filesystem::temp_directory_path() / fmt::format("attnspec_baselines_{}.json", ::getpid());

  TemporaryFile() = default;
  TemporaryFile(const TemporaryFile&) = delete;
  TemporaryFile& operator=(const TemporaryFile&) = delete;
  ~TemporaryFile() {
    std::error_code error;
    std::filesystem::remove(path, error);
  }
};

}  // namespace

std::optional<std::string> dense_shape(const verify::Case& c) {
  if (!verify::attends(c.op)) return std::nullopt;
  const std::int64_t keys = c.lens.front(), queries = c.q_lens.front();
  const auto all_are = [](const std::vector<std::int64_t>& lengths, std::int64_t length) {
    return std::all_of(lengths.begin(), lengths.end(), [&](std::int64_t one) { return one == length; });
  };
  if (!all_are(c.lens, keys) || !all_are(c.q_lens, queries)) return std::nullopt;
  if (keys == 0 || (queries != keys && queries != 1)) return std::nullopt;
  const bool is_masked = c.causal && queries > 1;  // the last query sees all keys
  return fmt::format("{},{},{},{},{},{},{},{},{}", c.lens.size(), c.heads, c.kv_heads, c.dk, c.dv, queries, keys,
                     reference::name(c.dtype), is_masked ? 1 : 0);
}

std::vector<DenseTimes> dense_baselines(const std::vector<verify::Case>& cases, const verify::TimingPlan& plan) {
  const TemporaryFile out;
  std::vector<std::string> command{find_python(), verify::paths::dense_baselines(), out.path.string(),
                                   std::to_string(plan.repetitions), std::to_string(plan.seconds)};
  const auto shapes = command.size();
  for (const verify::Case& c : cases)
    if (const auto shape = dense_shape(c); shape && std::find(command.begin() + static_cast<std::ptrdiff_t>(shapes),
                                                              command.end(), *shape) == command.end())
      command.push_back(*shape);
  if (verify::Process(command, {}).wait() != 0)
    throw std::runtime_error(
        fmt::format("--baselines: {} could not time dense attention with {}", command[1], command[0]));
  std::vector<DenseTimes> times;
  std::ifstream file(out.path);
  for (const auto& entry : nlohmann::json::parse(file)) {
    DenseTimes& t = times.emplace_back();
    t.shape = entry.at("shape");
    t.backend = entry.at("backend");
    t.reason = entry.value("reason", "");
    if (!t.reason.empty()) continue;
    t.direction = entry.at("direction") == name(Direction::forward) ? Direction::forward : Direction::backward;
    t.runs = entry.at("runs").get<std::vector<double>>();
  }
  return times;
}

}  // namespace attnspec::fuzz
