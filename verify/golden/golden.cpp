#include "verify/golden/golden.hpp"

#include <fmt/format.h>

#include <cstdlib>
#include <filesystem>
#include <stdexcept>

#include "verify/cases/paths.hpp"
#include "verify/cases/safetensors.hpp"
#include "verify/golden/golden_file.hpp"

namespace attnspec::verify {

namespace {

/// How to compare a file; null where the reference does not define what it records.
auto comparison_of(const GoldenFile& file) -> std::vector<GoldenComparison> (*)(const GoldenFile&) {
  if (file.is_moba()) return compare_moba;
  if (file.records("k_cmp")) return compare_nsa;
  if (file.records("gate_slc")) return compare_nsa_given;
  return nullptr;
}

}  // namespace

bool is_defined(const std::string& path) { return comparison_of(GoldenFile(path)) != nullptr; }

std::vector<GoldenComparison> compare_golden(const std::string& path) {
  const GoldenFile file(path);
  const auto compare = comparison_of(file);
  if (compare == nullptr) throw std::runtime_error(fmt::format("{}: records nothing that the reference defines", path));
  return compare(file);
}

std::string golden_directory() {
  const char* given = std::getenv("ATTNSPEC_GOLDEN_DIR");
  return given != nullptr && *given != '\0' ? given : paths::golden();
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
