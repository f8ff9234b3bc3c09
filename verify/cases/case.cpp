#include "verify/cases/case.hpp"

#include <fmt/format.h>
#include <fmt/ranges.h>

#include <algorithm>
#include <charconv>
#include <cmath>
#include <fstream>
#include <functional>
#include <numeric>
#include <optional>
#include <set>
#include <stdexcept>

#include "reference/nsa/nsa_compression.hpp"
#include "verify/cases/inputs/plain_numbers.hpp"
#include "verify/cases/session.hpp"

namespace attnspec::verify {

namespace {

using reference::Activation;
using reference::Gate;
using reference::InvalidProblem;
using reference::Phi;

constexpr std::int64_t kLargestSize = std::int64_t{1} << 40;
constexpr std::int64_t kMaxSequences = std::int64_t{1} << 20;  // of one length
constexpr std::int64_t kMaxSessionSteps = 1000;

template <class Number>
Number parse_number(const std::string& key, const std::string& text) {
  Number value{};
  const auto [end, error] = std::from_chars(text.data(), text.data() + text.size(), value);
  if (error != std::errc() || end != text.data() + text.size())
    throw InvalidProblem(key, text, std::is_floating_point_v<Number> ? "is not a number" : "is not a whole number");
  return value;
}

std::int64_t parse_size(const std::string& key, const std::string& text) {
  const auto value = parse_number<std::int64_t>(key, text);
  if (value > kLargestSize) throw InvalidProblem(key, text, "is larger than 2^40");
  return value;
}

/// What stands between the plus signs.
std::vector<std::string> split(const std::string& text) {
  std::vector<std::string> parts;
  for (std::size_t begin = 0; begin <= text.size();) {
    const std::size_t plus = std::min(text.find('+', begin), text.size());
    parts.push_back(text.substr(begin, plus - begin));
    begin = plus + 1;
  }
  return parts;
}

/// "300+64*65536": one length, and another 64 times.
std::vector<std::int64_t> parse_lengths(const std::string& key, const std::string& text) {
  std::vector<std::int64_t> lengths;
  for (const std::string& part : split(text)) {
    const std::size_t star = part.find('*');
    const std::int64_t times = star == std::string::npos ? 1 : parse_size(key, part.substr(0, star));
    const std::int64_t length = parse_size(key, star == std::string::npos ? part : part.substr(star + 1));
    if (length < 0) throw InvalidProblem(key, text, "a length is negative, so that the offsets would decrease");
    if (times < 1 || times > kMaxSequences)
      throw InvalidProblem(key, text, fmt::format("a length comes 1 to {} times", kMaxSequences));
    lengths.insert(lengths.end(), static_cast<std::size_t>(times), length);
  }
  return lengths;
}

SessionStep parse_step(const std::string& text, const std::string& name_of_step) {
  const auto step = std::find(std::begin(kSessionSteps), std::end(kSessionSteps), name_of_step);
  if (step == std::end(kSessionSteps))
    throw InvalidProblem("session", text,
                         fmt::format("'{}' is none of {}", name_of_step, fmt::join(kSessionSteps, ", ")));
  return static_cast<SessionStep>(step - std::begin(kSessionSteps));
}

/// "contents+again": the steps one after the other; "24*again" is the step 24 times.
std::vector<SessionStep> parse_session(const std::string& text) {
  std::vector<SessionStep> steps;
  for (const std::string& part : split(text)) {
    const std::size_t star = part.find('*');
    std::int64_t times = 1;
    if (star != std::string::npos) times = parse_size("session", part.substr(0, star));
    const SessionStep step = parse_step(text, star == std::string::npos ? part : part.substr(star + 1));
    if (times < 1 || times > kMaxSessionSteps - std::ssize(steps))
      throw InvalidProblem("session", text, fmt::format("has from 1 to {} steps", kMaxSessionSteps));
    steps.insert(steps.end(), static_cast<std::size_t>(times), step);
  }
  return steps;
}

/// A step that is repeated has a factor from four times on.
std::string print_session(const std::vector<SessionStep>& steps) {
  std::vector<std::string> parts;
  for (auto begin = steps.begin(); begin != steps.end();) {
    const auto end = std::find_if(begin, steps.end(), [&](SessionStep step) { return step != *begin; });
    if (end - begin >= 4)
      parts.push_back(fmt::format("{}*{}", end - begin, name(*begin)));
    else
      parts.insert(parts.end(), static_cast<std::size_t>(end - begin), name(*begin));
    begin = end;
  }
  return fmt::format("{}", fmt::join(parts, "+"));
}

std::string print_number(double value) {
  char text[32];
  const auto [end, error] = std::to_chars(text, text + sizeof text, value);
  return {text, end};
}

/// A value out of a short list of names.
template <class Value>
struct Choice {
  const char* name;
  Value value;
};
constexpr Choice<Gate> kGates[] = {{"top_k", Gate::top_k}, {"window", Gate::window}, {"sink", Gate::sink}};
constexpr Choice<Format> kFormats[] = {{"bf16", Format::bf16}, {"fp16", Format::fp16}, {"fp32", Format::fp32}};
constexpr Choice<Layout> kLayouts[] = {{"strided", Layout::strided}, {"contiguous", Layout::contiguous}};
constexpr Choice<Phi> kPhis[] = {{"mean", Phi::mean}, {"linear", Phi::linear}, {"mlp", Phi::mlp}};
constexpr Choice<Activation> kActivations[] = {
    {"relu", Activation::relu}, {"silu", Activation::silu}, {"gelu", Activation::gelu}};
constexpr Choice<Law> kLawNames[] = {{"none", Law::none},
                                     {"repeat", Law::repeat},
                                     {"future", Law::future},
                                     {"unselected", Law::unselected},
                                     {"heads", Law::heads},
                                     {"strides", Law::strides},
                                     {"packing", Law::packing},
                                     {"decode", Law::decode},
                                     {"power", Law::power},
                                     {"negation", Law::negation},
                                     {"reciprocal", Law::reciprocal},
                                     {"slots", Law::slots},
                                     {"groups", Law::groups},
                                     {"prefix", Law::prefix},
                                     {"all_blocks", Law::all_blocks},
                                     {"own_block", Law::own_block},
                                     {"whole_window", Law::whole_window},
                                     {"as_moba", Law::as_moba},
                                     {"one_hot", Law::one_hot},
                                     {"mass", Law::mass},
                                     {"dk_sum", Law::dk_sum},
                                     {"dv_sum", Law::dv_sum},
                                     {"one_row", Law::one_row}};
constexpr Choice<bool> kFlags[] = {{"0", false}, {"1", true}};
constexpr Choice<bool> kSelectionPer[] = {{"head", false}, {"kv_head", true}};
constexpr Choice<SelectionOrder> kSelectionOrders[] = {{"any", SelectionOrder::any},
                                                       {"packed", SelectionOrder::packed},
                                                       {"ascending", SelectionOrder::ascending},
                                                       {"own_last", SelectionOrder::own_last}};

template <class Value, std::size_t n>
Value parse_choice(const std::string& key, const std::string& text, const Choice<Value> (&choices)[n]) {
  std::vector<std::string> names;
  for (const auto& choice : choices) {
    if (text == choice.name) return choice.value;
    names.push_back(choice.name);
  }
  throw InvalidProblem(key, text, fmt::format("is none of {}", fmt::join(names, ", ")));
}

template <class Value, std::size_t n>
const char* name_of(Value value, const Choice<Value> (&choices)[n]) {
  for (const auto& choice : choices)
    if (choice.value == value) return choice.name;
  return "";
}

/// One key of a case: how it is read and printed, and its default, which may follow from keys before it. The pages of
/// operators say which have it.
struct Field {
  const char* key;
  std::function<void(Case&, const std::string&)> parse;
  std::function<std::string(const Case&)> print;
  std::function<void(Case&)> set_default;
};

Field size_field(const char* key, std::int64_t Case::*member, std::function<void(Case&)> set_default) {
  return {key, [=](Case& c, const std::string& text) { c.*member = parse_size(key, text); },
          [=](const Case& c) { return std::to_string(c.*member); }, std::move(set_default)};
}

Field lengths_field(const char* key, std::vector<std::int64_t> Case::*member, std::function<void(Case&)> set_default) {
  return {key, [=](Case& c, const std::string& text) { c.*member = parse_lengths(key, text); },
          [=](const Case& c) { return print_lengths(c.*member); }, std::move(set_default)};
}

template <class Value, std::size_t n>
Field choice_field(const char* key, Value Case::*member, const Choice<Value> (&choices)[n], Value default_value) {
  return {key, [=, &choices](Case& c, const std::string& text) { c.*member = parse_choice(key, text, choices); },
          [=, &choices](const Case& c) { return name_of(c.*member, choices); },
          [=](Case& c) { c.*member = default_value; }};
}

const std::vector<Field>& fields() {
  static const std::vector<Field> all{
      lengths_field("lens", &Case::lens, [](Case& c) { c.lens = {256}; }),
      lengths_field("q_lens", &Case::q_lens, [](Case& c) { c.q_lens = c.lens; }),
      size_field("heads", &Case::heads, [](Case& c) { c.heads = 1; }),
      size_field("kv_heads", &Case::kv_heads, [](Case& c) { c.kv_heads = has_indexer(c.op) ? 1 : c.heads; }),
      size_field("dk", &Case::dk, [](Case& c) { c.dk = 64; }),
      size_field("dv", &Case::dv, [](Case& c) { c.dv = c.dk; }),
      size_field("block", &Case::block, [](Case& c) { c.block = has_slots(c.op) && !has_blocks(c.op) ? 1 : 64; }),
      size_field("top_k", &Case::top_k, [](Case& c) { c.top_k = 3; }),
      size_field("compress_block", &Case::compress_block, [](Case& c) { c.compress_block = 32; }),
      size_field("compress_stride", &Case::compress_stride, [](Case& c) { c.compress_stride = 16; }),
      size_field("top_n", &Case::top_n, [](Case& c) { c.top_n = 16; }),
      size_field("initial_blocks", &Case::initial, [](Case& c) { c.initial = 1; }),
      size_field("local_blocks", &Case::local, [](Case& c) { c.local = 2; }),
      size_field("window", &Case::window, [](Case& c) { c.window = 64; }),
      choice_field("phi", &Case::phi, kPhis, Phi::mean),
      choice_field("activation", &Case::activation, kActivations, Activation::silu),
      size_field("hidden", &Case::hidden, [](Case& c) { c.hidden = 64; }),
      choice_field("shared_phi", &Case::shared_phi, kFlags, false),
      choice_field("shared_kv", &Case::shared_kv, kFlags, false),
      choice_field("gate", &Case::gate, kGates, Gate::top_k),
      choice_field("selection", &Case::shared_selection, kSelectionPer, false),
      choice_field("selection_order", &Case::selection_order, kSelectionOrders, SelectionOrder::any),
      choice_field("causal", &Case::causal, kFlags, true),
      {"scale", [](Case& c, const std::string& text) { c.scale = parse_number<double>("scale", text); },
       [](const Case& c) { return print_number(c.scale); }, [](Case& c) { c.scale = default_scale(c.dk); }},
      choice_field("dtype", &Case::dtype, kFormats, Format::bf16),
      choice_field("layout", &Case::layout, kLayouts, Layout::strided),
      {"regime", [](Case& c, const std::string& text) { c.regime = text; }, [](const Case& c) { return c.regime; },
       [](Case& c) { c.regime = "normal"; }},
      {"numbers", [](Case& c, const std::string& text) { c.numbers = parse_numbers(text); },
       [](const Case& c) { return print_numbers(c.numbers); }, [](Case& c) { c.numbers.clear(); }},
      {"seed", [](Case& c, const std::string& text) { c.seed = parse_number<std::uint64_t>("seed", text); },
       [](const Case& c) { return std::to_string(c.seed); }, [](Case& c) { c.seed = 0; }},
      size_field("sample", &Case::sample, [](Case& c) { c.sample = 0; }),
      {"session", [](Case& c, const std::string& text) { c.session = parse_session(text); },
       [](const Case& c) { return print_session(c.session); }, [](Case& c) { c.session.clear(); }},
      choice_field("law", &Case::law, kLawNames, Law::none),
  };
  return all;
}

std::string keys_of(Operator op) {
  std::vector<std::string> keys;
  for (const Field& field : fields())
    if (has_key(op, field.key)) keys.push_back(field.key);
  return fmt::format("{}", fmt::join(keys, ", "));
}

std::string trimmed(std::string_view text) {
  const auto begin = text.find_first_not_of(" \t\r"), end = text.find_last_not_of(" \t\r");
  return begin == std::string_view::npos ? "" : std::string(text.substr(begin, end - begin + 1));
}

std::vector<std::int64_t> offsets(const std::vector<std::int64_t>& lengths) {
  std::vector<std::int64_t> result{0};
  for (const std::int64_t length : lengths) result.push_back(result.back() + length);
  return result;
}

}  // namespace

const char* name(Law law) { return name_of(law, kLawNames); }
const char* name(Gate gate) { return name_of(gate, kGates); }
const char* name(SelectionOrder order) { return name_of(order, kSelectionOrders); }
const char* name(Phi phi) { return name_of(phi, kPhis); }

Law parse_law(const std::string& text) { return parse_choice("law", text, kLawNames); }

std::string print_lengths(const std::vector<std::int64_t>& lengths) {
  std::vector<std::string> parts;
  for (auto begin = lengths.begin(); begin != lengths.end();) {
    const auto end = std::find_if(begin, lengths.end(), [&](std::int64_t length) { return length != *begin; });
    if (end - begin >= 4)
      parts.push_back(fmt::format("{}*{}", end - begin, *begin));
    else
      parts.insert(parts.end(), static_cast<std::size_t>(end - begin), std::to_string(*begin));
    begin = end;
  }
  return fmt::format("{}", fmt::join(parts, "+"));
}

std::string print(const Case& c) {
  std::vector<std::string> parts;
  for (const Field& field : fields()) {
    Case with_default = c;
    field.set_default(with_default);
    if (!has_key(c.op, field.key) || with_default == c) continue;
    parts.push_back(fmt::format("{}={}", field.key, field.print(c)));
  }
  return fmt::format("{}({})", name(c.op), fmt::join(parts, ","));
}

Case parse_case(std::string_view whole) {
  const std::string text = trimmed(whole);
  const std::size_t open = text.find('(');
  if (open == std::string::npos || text.back() != ')')
    throw std::invalid_argument(fmt::format("case '{}': is not of the form operator(key=value,...)", text));
  Case c;
  c.op = parse_operator(trimmed(text.substr(0, open)));
  std::vector<std::optional<std::string>> given(fields().size());
  const std::string body = text.substr(open + 1, text.size() - open - 2);
  for (std::size_t begin = 0; begin < body.size();) {
    const std::size_t comma = std::min(body.find(',', begin), body.size());
    const std::string part = trimmed(body.substr(begin, comma - begin));
    begin = comma + 1;
    const std::size_t equals = part.find('=');
    if (equals == std::string::npos) throw std::invalid_argument(fmt::format("case key '{}': has no '='", part));
    const std::string key = trimmed(part.substr(0, equals)), value = trimmed(part.substr(equals + 1));
    std::size_t at = 0;
    while (at < fields().size() && fields()[at].key != key) ++at;
    if (at == fields().size() || !has_key(c.op, key))
      throw std::invalid_argument(
          fmt::format("case key '{}' with value '{}': {} has the keys {}", key, value, name(c.op), keys_of(c.op)));
    if (given[at]) throw std::invalid_argument(fmt::format("case key '{}': is given twice", key));
    given[at] = value;
  }
  for (std::size_t at = 0; at < fields().size(); ++at) {
    if (given[at]) {
      fields()[at].parse(c, *given[at]);
    } else {
      fields()[at].set_default(c);
    }
  }
  validate(c);
  return c;
}

double default_scale(std::int64_t dk) { return 1 / std::sqrt(static_cast<double>(dk)); }

reference::MobaProblem problem_of(const Case& c) {
  return {{offsets(c.q_lens), offsets(c.lens), c.heads, c.kv_heads, c.dk, c.dv, c.scale, c.causal},
          c.block,
          c.top_k,
          c.gate};
}

reference::NsaProblem nsa_problem_of(const Case& c) {
  reference::NsaProblem problem;
  problem.attention = problem_of(c).attention;
  problem.compress_block = c.compress_block;
  problem.compress_stride = c.compress_stride;
  problem.phi = c.phi;
  problem.activation = c.activation;
  problem.hidden = c.hidden;
  problem.shared_phi = c.shared_phi;
  problem.block = c.block;
  problem.top_n = c.top_n;
  problem.initial_blocks = c.initial;
  problem.local_blocks = c.local;
  problem.window = c.window;
  if (!has_queries(c.op)) {
    problem.attention.heads = c.kv_heads;
    problem.block = c.compress_block;
  }
  return problem;
}

std::int64_t longest(const Case& c) { return c.lens.empty() ? 0 : *std::max_element(c.lens.begin(), c.lens.end()); }

std::vector<std::int64_t> row_counts(const Case& c, RowsOf of) {
  if (of == RowsOf::queries) return has_queries(c.op) ? c.q_lens : std::vector<std::int64_t>(c.lens.size());
  if (of != RowsOf::compressed_rows && of != RowsOf::complete_blocks) return c.lens;
  std::vector<std::int64_t> rows;
  for (const std::int64_t length : c.lens)
    rows.push_back(of == RowsOf::complete_blocks ? length / c.block
                                                 : reference::num_compressed(nsa_problem_of(c), length));
  return rows;
}

std::vector<std::int64_t> key_rows(const Case& c) { return row_counts(c, key_rows(c.op)); }
std::vector<std::int64_t> gradient_rows(const Case& c) { return row_counts(c, gradient_rows(c.op)); }

std::vector<Case> read_case_file(const std::string& path) {
  std::ifstream file(path);
  if (!file) throw std::runtime_error(fmt::format("case file {}: cannot be read", path));
  std::vector<Case> cases;
  std::string line;
  for (int number = 1; std::getline(file, line); ++number) {
    const std::string text = trimmed(line.substr(0, line.find('#')));
    if (text.empty()) continue;
    try {
      cases.push_back(parse_case(text));
    } catch (const std::invalid_argument& error) {
      throw std::invalid_argument(fmt::format("{}:{}: {}", path, number, error.what()));
    }
  }
  return cases;
}

}  // namespace attnspec::verify
