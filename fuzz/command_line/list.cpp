// The command list.

#include <fmt/format.h>
#include <fmt/ranges.h>

#include <algorithm>
#include <iterator>
#include <memory>
#include <optional>
#include <stdexcept>

#include "cuda/device.hpp"
#include "fuzz/command_line/command.hpp"
#include "fuzz/command_line/options.hpp"
#include "verify/cases/inputs/captured.hpp"
#include "verify/cases/levels.hpp"
#include "verify/cases/regimes.hpp"
#include "verify/kernels.hpp"
#include "verify/laws/laws.hpp"
#include "verify/model/defects/defects.hpp"
#include "verify/model/variants/variants.hpp"

namespace attnspec::fuzz {

namespace {

using namespace verify;

void list_operators() {
  for (const Operator op : kOperators) fmt::print("{:<12} {}\n", name(op), summary(op));
}

void list_kernels() {
  for (const Kernel& kernel : kernels()) {
    std::vector<std::string> operators;
    for (const Operator op : kernel.operators) operators.push_back(name(op));
    fmt::print("{}  {}\n  operators: {}\n", kernel.name, kernel.summary, fmt::join(operators, ", "));
    for (const Format dtype : {Format::bf16, Format::fp16, Format::fp32})
      fmt::print("  {}: {}\n", reference::name(dtype), reference::describe(dtype, kernel.arithmetic));
    if (kernel.limits != Limits{}) fmt::print("  limits: {}\n", describe(kernel.limits));
  }
  const cuda::Devices devices = cuda::find_devices();
  for (const std::string& device : devices.names) fmt::print("GPU: {}\n", device);
  if (!devices.why_none.empty()) fmt::print("no cuda: kernels: {}\n", devices.why_none);
}

void list_regimes() {
  for (const Regime& regime : regimes()) fmt::print("{:<14} {}\n", regime.name, regime.mistake);
  if (const auto names = captured_names(); !names.empty()) fmt::print("captured files: {}\n", fmt::join(names, ", "));
}

void list_laws() {
  for (const Law law : kLaws) {
    std::vector<const char*> operators;
    for (const Operator op : kOperators)
      if (has_law(op, law)) operators.push_back(name(op));
    const std::string promise = info(law).promise == EqualBits::none
                                    ? "holds within rounding, needs no promise"
                                    : fmt::format("needs the promise {}", name(info(law).promise));
    fmt::print("{:<12} {}\n  operators: {}; {}\n", name(law), info(law).sentence, fmt::join(operators, ", "), promise);
  }
}

void list_variants() {
  for (const model::Variant& variant : model::variants()) fmt::print("variant:{}  {}\n", variant.name, variant.what);
}

void list_arithmetic() {
  std::string group;
  for (const reference::ArithmeticOption& option : reference::arithmetic_options()) {
    if (group != option.group) fmt::print("{}{}\n", group.empty() ? "" : "\n", group = option.group);
    fmt::print("  {:<23} {}{}\n", option.name, option.is_function ? "= " : "  ", option.meaning);
  }
  fmt::print("\n= says which exact function is computed; the other options widen the predicted noise by a rounding.\n");
}

void list_defects() {
  for (const model::Defect& defect : model::defects())
    fmt::print("defect:{}  {} ({}, {})\n  trigger: {}; from: {}\n", defect.name, defect.what, name(defect.op),
               defect.kind, defect.trigger, defect.source);
}

struct CasesOptions {
  int level = 1;
  std::string kernel;                  // empty: all cases of the level
  std::vector<std::string> operators;  // none: every one, or every one the kernel implements
  Seconds timeout = kTimeout;
};

/// Prints the cases of a level as a case file. Those that the kernel's limits exclude are counted.
void list_cases(const CasesOptions& options) {
  std::vector<Operator> operators(std::begin(kOperators), std::end(kOperators));
  std::optional<Kernel> kernel;
  if (!options.kernel.empty()) {
    kernel = find_kernel(options.kernel, options.timeout);
    operators = kernel->operators;
  }
  if (!options.operators.empty()) {
    std::vector<Operator> wanted;
    for (const std::string& name : options.operators) wanted.push_back(parse_operator(name));
    std::erase_if(operators, [&](Operator op) { return std::find(wanted.begin(), wanted.end(), op) == wanted.end(); });
    if (operators.empty()) throw std::invalid_argument("the kernel does not implement an operator given");
  }
  for (const Operator op : operators) {
    std::vector<Case> cases = level_cases(op, options.level);
    const std::size_t all = cases.size();
    if (kernel) std::erase_if(cases, [&](const Case& c) { return kernel->unsupported(c).has_value(); });
    fmt::print(
        "# {}, level {}: {} cases{}\n", name(op), options.level, cases.size(),
        cases.size() == all ? "" : fmt::format("; the limits of {} exclude {} more", kernel->name, all - cases.size()));
    for (const Case& c : cases) fmt::print("{}\n", print(c));
  }
}

CLI::App* add_list_cases(CLI::App& list, CasesOptions& options) {
  CLI::App* app = list.add_subcommand("cases", "the cases of a level as a case file, without running them");
  app->add_option("--level", options.level, "1 or 2")->check(in_range(1, kMaxLevel))->capture_default_str();
  app->add_option("--kernel", options.kernel, "only cases that this kernel can do (default: all)")
      ->type_name(kKernelValue);
  app->add_option("--operator", options.operators, "only these operators")->type_name(kOperatorValue);
  add_timeout(*app, options.timeout);
  add_example(*app, "./attnspec list cases --kernel model:moba --operator dense");
  return app;
}

/// What can be listed.
struct List {
  const char* name;
  const char* what;
  void (*print)();
};
constexpr List kLists[] = {
    {"operators", "what can be judged", list_operators},
    {"kernels", "the built-in kernels and their declared arithmetic", list_kernels},
    {"regimes", "what kinds of numbers a case can hold, and why", list_regimes},
    {"laws", "what must hold to the bit, of which operators, by which promise", list_laws},
    {"arithmetic", "the options of declared arithmetic, one sentence each", list_arithmetic},
    {"variants", "equivalent variants, each a kernel variant:NAME", list_variants},
    {"defects", "planted defects, each a kernel defect:NAME", list_defects},
};

}  // namespace

Command add_list(CLI::App& program) {
  CLI::App* app = program.add_subcommand(
      "list", "list operators, kernels, cases, regimes, laws, arithmetic, equivalent variants or planted defects");
  app->require_subcommand(1);
  for (const List& list : kLists)
    add_example(*app->add_subcommand(list.name, list.what), fmt::format("./attnspec list {}", list.name));
  add_example(*app, "./attnspec list operators");
  const auto options = std::make_shared<CasesOptions>();
  const CLI::App* cases = add_list_cases(*app, *options);
  return {app, [app, cases, options] {
            if (app->got_subcommand(cases)) list_cases(*options);
            for (const List& list : kLists)
              if (app->got_subcommand(list.name)) list.print();
            return 0;
          }};
}

}  // namespace attnspec::fuzz
