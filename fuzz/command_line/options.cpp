#include "fuzz/command_line/options.hpp"

#include "reference/noise/noise.hpp"
#include "verify/cases/inputs/captured.hpp"
#include "verify/cases/regimes.hpp"
#include "verify/kernels.hpp"
#include "verify/model/defects/defects.hpp"
#include "verify/model/variants/variants.hpp"

namespace attnspec::fuzz {

namespace {

using namespace verify;

std::vector<std::string> kernel_names() {
  std::vector<std::string> names;
  for (const Kernel& kernel : kernels()) names.push_back(kernel.name);
  for (const model::Defect& defect : model::defects()) names.push_back(fmt::format("defect:{}", defect.name));
  for (const model::Variant& variant : model::variants()) names.push_back(fmt::format("variant:{}", variant.name));
  return names;
}

std::vector<std::string> regime_names() {
  std::vector<std::string> names;
  for (const Regime& regime : regimes())
    if (std::string(regime.name) != "captured") names.push_back(regime.name);
  for (const std::string& captured : captured_names()) names.push_back("captured:" + captured);
  return names;
}

/// The names of what a list holds.
template <class Things>
std::vector<std::string> names_of(const Things& things) {
  std::vector<std::string> names;
  for (const auto& thing : things) {
    if constexpr (requires { thing.name; })
      names.push_back(std::string(thing.name));
    else
      names.push_back(name(thing));
  }
  return names;
}

}  // namespace

std::vector<std::string> values_of(const std::string& kind) {
  if (kind == kKernelValue) return kernel_names();
  if (kind == kOperatorValue) return names_of(kOperators);
  if (kind == kLawValue) return names_of(kLaws);
  if (kind == kRegimeValue) return regime_names();
  if (kind == kDefectValue) return names_of(model::defects());
  if (kind == kArithmeticValue) return names_of(reference::arithmetic_options());
  if (kind == kDirectionValue) return {"forward", "backward"};
  return {};
}

CLI::Validator above_zero() {
  return {[number = in_range(-std::numeric_limits<double>::max())](const std::string& text) -> std::string {
            if (std::string fault = number(text); !fault.empty()) return fault;
            return std::stod(text) > 0 ? "" : fmt::format("{} is not above 0", text);
          },
          ""};
}

void add_timeout(CLI::App& command, Seconds& timeout) {
  command
      .add_option_function<double>(
          "--timeout", [&timeout](const double& seconds) { timeout = Seconds(seconds); },
          "seconds that somebody else's kernel may take to load, and for a call")
      ->check(in_range(0.001, 1e6))
      ->default_str(fmt::format("{}", timeout.count()));
}

void add_example(CLI::App& command, const std::string& example) { command.footer("Example:\n  " + example); }

}  // namespace attnspec::fuzz
