// The command list.

#include <fmt/format.h>
#include <fmt/ranges.h>

#include <memory>

#include "cuda/device.hpp"
#include "fuzz/command_line/command.hpp"
#include "fuzz/command_line/options.hpp"
#include "verify/laws/laws.hpp"
#include "verify/model/defects.hpp"
#include "verify/model/variants.hpp"
#include "verify/regimes.hpp"

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
    fmt::print("{:<11} {}\n  operators: {}; needs the promise {}\n", name(law), info(law).sentence,
               fmt::join(operators, ", "), name(info(law).promise));
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
      "list", "list operators, kernels, regimes, laws, arithmetic, equivalent variants or planted defects");
  app->require_subcommand(1);
  for (const List& list : kLists)
    add_example(*app->add_subcommand(list.name, list.what), fmt::format("./attnspec list {}", list.name));
  add_example(*app, "./attnspec list operators");
  return {app, [app] {
            for (const List& list : kLists)
              if (app->got_subcommand(list.name)) list.print();
            return 0;
          }};
}

}  // namespace attnspec::fuzz
