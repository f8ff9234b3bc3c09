#include "fuzz/search/findings.hpp"

#include <fmt/format.h>

#include <algorithm>
#include <filesystem>
#include <fstream>
#include <stdexcept>

#include "verify/cases/paths.hpp"
#include "verify/cases/regimes.hpp"
#include "verify/cases/safetensors.hpp"
#include "verify/judge/report.hpp"
#include "verify/operators/operator.hpp"

namespace attnspec::fuzz {

namespace {

using namespace verify;

std::runtime_error cannot_write(const std::string& path) {
  return std::runtime_error(fmt::format("{}: cannot be written", path));
}

const char* safetensors_dtype(Format format) {
  switch (format) {
    case Format::bf16: return "BF16";
    case Format::fp16: return "F16";
    case Format::fp32: return "F32";
    case Format::tf32:
    case Format::tf32_cut: break;  // no tensor's
  }
  return "";
}

/// What a case is called with, by the names of the fields in kernel_abi.h; tensors without elements are left out.
std::map<std::string, SafeTensor> tensors_of_call(const Case& c) {
  const Inputs inputs = make_inputs(c);
  std::map<std::string, SafeTensor> tensors;
  const auto add = [&](const std::string& name, const reference::Tensor& tensor) {
    if (tensor.values.empty()) return;
    SafeTensor& written = tensors[name] = {{tensor.tokens, tensor.heads, tensor.dim}, safetensors_dtype(c.dtype), {}};
    for (std::int64_t token = 0; token < tensor.tokens; ++token)
      for (std::int64_t head = 0; head < tensor.heads; ++head)
        written.values.insert(written.values.end(), tensor.at(token, head), tensor.at(token, head) + tensor.dim);
  };
  for (const TensorInfo& tensor : page_of(c.op).tensors) {
    if (tensor.role != Role::input && tensor.role != Role::given_gradient) continue;
    if (const reference::Tensor* input = find_input(tensor, inputs)) add(tensor.name, *input);
  }
  const reference::Selection& selection = inputs.selection;
  if (!selection.blocks.empty())
    tensors["selection"] = {{selection.tokens, selection.heads, selection.slots},
                            "I32",
                            {selection.blocks.begin(), selection.blocks.end()}};
  return tensors;
}

}  // namespace

const Finding& main_finding(const CaseResult& result) {
  const auto found = std::find_if(result.findings.begin(), result.findings.end(),
                                  [&](const Finding& finding) { return finding.verdict == result.verdict; });
  return found == result.findings.end() ? result.findings.front() : *found;
}

void require_writable_directory(const std::string& directory) {
  namespace fs = std::filesystem;
  std::error_code error;
  const bool is_new = fs::create_directories(directory, error);
  const fs::path trial = fs::path(directory) / ".part";
  const bool is_writable = std::ofstream(trial).good();
  fs::remove(trial, error);
  if (is_new) fs::remove(directory, error);
  if (!is_writable) throw cannot_write(directory);
}

std::string write_finding(const std::string& directory, const Found& found) {
  const Case& c = found.shrunk.c;
  const auto folder = std::filesystem::path(directory) / name(found.shrunk.verdict);
  std::error_code error;
  std::filesystem::create_directories(folder, error);
  const std::string stem = (folder / fmt::format("{}-{}", name(c.op), found.drawn.c.seed)).string();
  const std::string path = stem + ".case", failure = failure_line(found.shrunk, main_finding(found.shrunk));
  std::ofstream file(path);
  file << fmt::format("# kernel {}; found as {}{}\n# {}\n", found.shrunk.kernel, print(found.drawn.c),
                      found.fails_alone ? "" : "; passed when judged alone", failure);
  if (found.after) file << print(*found.after) << '\n';
  file << print(c) << '\n';
  file.close();
  if (!file) throw cannot_write(path);
  write_safetensors({stem + ".safetensors",
                     {{"case", print(c)}, {"kernel", found.shrunk.kernel}, {"failure", failure}},
                     tensors_of_call(c)});
  return path;
}

std::string replay_file_command(const std::string& case_file, const std::string& kernel) {
  return fmt::format("{} replay '{}' --kernel {}", paths::command(), case_file, kernel);
}

}  // namespace attnspec::fuzz
