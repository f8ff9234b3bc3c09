#include <fmt/format.h>
#include <fmt/ranges.h>

#include <algorithm>
#include <limits>
#include <map>
#include <set>
#include <string>
#include <vector>

#include "verify/judge/report.hpp"
#include "verify/xray/reasons.hpp"
#include "verify/xray/xray.hpp"

namespace attnspec::verify {

using namespace reference;

namespace {

/// Query rows whose selection is told, at most.
constexpr std::int64_t kMaxRowsInWords = 64;

const char* key_word(const Attention& attention) {
  return attention.is_compressed() || attention.v->rows == RowsOf::compressed_rows ? "compressed row" : "key";
}

/// "1 row", "2 rows"
std::string counted(std::int64_t n, const std::string& what) {
  return fmt::format("{} {}{}", n, what, n == 1 ? "" : "s");
}

/// "0-3 6 8-9", or "none".
std::string listed(const std::vector<KeyRange>& ranges) {
  std::vector<KeyRange> joined;
  for (const KeyRange& range : ranges) {
    if (!joined.empty() && joined.back().end == range.begin)
      joined.back().end = range.end;
    else
      joined.push_back(range);
  }
  std::vector<std::string> words;
  for (const auto& [begin, end] : joined)
    words.push_back(end == begin + 1 ? fmt::format("{}", begin) : fmt::format("{}-{}", begin, end - 1));
  return words.empty() ? "none" : fmt::format("{}", fmt::join(words, " "));
}

std::vector<KeyRange> sorted(std::vector<KeyRange> ranges) {
  std::sort(ranges.begin(), ranges.end(), [](const KeyRange& a, const KeyRange& b) { return a.begin < b.begin; });
  return ranges;
}

std::string seen_by(const AttentionXray& one, const Sequence& sequence, std::int64_t token, std::int64_t head) {
  return listed(sorted(visible_keys(one.attention, one.selection, sequence, token, head)));
}

// ---- Of a kernel ----

/// "key 0", "keys 0-3 6", "no key".
std::string seen_in_words(const AttentionXray& one, const Sequence& sequence, std::int64_t token, std::int64_t head) {
  const char* word = key_word(one.attention);
  const std::vector<KeyRange> ranges = visible_keys(one.attention, one.selection, sequence, token, head);
  if (ranges.empty()) return fmt::format("no {}", word);
  const bool is_one = ranges.size() == 1 && ranges[0].end == ranges[0].begin + 1;
  return fmt::format("{}{} {}", word, is_one ? "" : "s", seen_by(one, sequence, token, head));
}

/// "key 3", of another sequence or kv head with its name.
std::string key_of(const AttentionXray& one, const WeightFinding& finding) {
  std::string text = fmt::format("{} {}", key_word(one.attention), finding.key.token);
  if (finding.fault == WeightFault::other_sequence) text += fmt::format(" of sequence {}", finding.key.sequence);
  if (finding.fault == WeightFault::other_kv_head)
    text += fmt::format(" of sequence {}, kv head {}", finding.key.sequence, finding.key.head);
  return text;
}

std::string what_is_wrong(const AttentionXray& one, const WeightFinding& finding) {
  if (!finding.detail.empty()) {
    if (finding.key.token < 0) return finding.detail;
    return fmt::format("the row {} block {}: {}", is_missing(finding.fault) ? "leaves out" : "selects",
                       finding.key.token / one.attention.block, finding.detail);
  }
  const std::string key = key_of(one, finding);
  const auto block = [&] {
    return fmt::format("of block {}, such as {},", finding.key.token / one.attention.block, key);
  };
  switch (finding.fault) {
    case WeightFault::missing_own_block:
    case WeightFault::missing_block:
      return fmt::format("no key {} has weight, where {:.4g} belongs", block(), finding.expected);
    case WeightFault::missing_key: return fmt::format("{} has no weight, where {:.4g} belongs", key, finding.expected);
    case WeightFault::wrong_weight:
      return fmt::format("{} has weight {:.4g} where {:.4g} belongs, and rounding explains {:.2g}", key,
                         finding.observed, finding.expected, finding.bound);
    default: return fmt::format("{} has weight {:.4g}, where none belongs", key, finding.observed);
  }
}

const char* source_words(SelectionSource source) {
  switch (source) {
    case SelectionSource::none: return "";
    case SelectionSource::given: return ", on the selection that the kernel was given";
    case SelectionSource::specification: return ", on the selection of the specification";
    case SelectionSource::exported: return ", on the selection that the kernel wrote";
    case SelectionSource::recovered: return ", on the selection recovered from its weights";
  }
  return "";
}

std::string words_of(const AttentionXray& one, const Weights& weights, const std::string& output) {
  if (!weights.why_not.empty()) return fmt::format("{}: not X-rayed: {}\n", output, weights.why_not);
  std::string text = fmt::format("{}: {} x {}, {}{}\n", output, counted(weights.observed.rows(), "query row"),
                                 counted(weights.observed.cols(), key_word(one.attention)),
                                 counted(weights.calls, "call"), source_words(one.source));
  const std::vector<Sequence> all = sequences(one.attention.problem);
  for (const WeightFault fault : kWeightFaults) {
    const WeightFinding* first = nullptr;
    std::set<Place> rows;
    std::int64_t findings = 0;
    for (const WeightFinding& finding : weights.findings) {
      if (finding.fault != fault) continue;
      if (first == nullptr) first = &finding;
      rows.insert(finding.query);
      ++findings;
    }
    if (first == nullptr) continue;
    const auto& [s, token, head] = first->query;
    const Sequence& sequence = all[static_cast<std::size_t>(s)];
    text += fmt::format("  {}: {} in {}\n    the first: sequence {}, head {}, query {} at t = {}, which sees {}: {}\n",
                        name(fault), counted(findings, "time"), counted(std::ssize(rows), "row"), s, head, token,
                        sequence.position(sequence.q_begin + token),
                        seen_in_words(one, sequence, sequence.q_begin + token, head), what_is_wrong(one, *first));
  }
  if (weights.followers > 0)
    text += fmt::format("  other weights of {} are off too, since the weights of a row sum to 1\n",
                        counted(weights.followers, "such row"));
  if (weights.findings.empty()) text += fmt::format("  clean: all {} weights are right\n", weights.seen);
  if (weights.too_small > 0)
    text += fmt::format("  {} of {} weights are so small that rounding hides whether they are there\n",
                        weights.too_small, weights.seen);
  return text;
}

/// The first finding of a direction, in the grammar of other failures.
std::string failure(const Xray& xray, const Weights& weights, const std::string& output) {
  const WeightFinding& first = weights.findings.front();
  std::string kind = name(first.fault);
  std::replace(kind.begin(), kind.end(), ' ', '-');
  const auto& [sequence, token, head] = first.query;
  std::string what = first.detail;
  if (what.empty()) what = fmt::format("{:.4g} expected {:.4g}", first.observed, first.expected);
  if (first.expected > 0) what += fmt::format(" bound {:.2g}", first.bound);
  return fmt::format("FAIL {} {} {}[seq={},token={},head={},key={}] => {} | ./attnspec xray '{}' --kernel {}\n", kind,
                     xray.kernel, output, sequence, token, head, first.key.token, what, print(xray.c), xray.kernel);
}

std::string words_of_kernel(const Xray& xray) {
  std::string text = fmt::format("{}\n{}  {}\n", print(xray.c), xray.kernel, xray.arithmetic), failures;
  for (const AttentionXray& one : xray.attentions) {
    const auto add = [&](const Weights& weights, const std::string& output) {
      text += words_of(one, weights, output);
      if (!weights.findings.empty()) failures += failure(xray, weights, output);
    };
    add(one.forward, one.attention.names.o);
    if (one.backward.is_there() || !one.backward.why_not.empty()) add(one.backward, one.attention.names.dv);
  }
  for (const std::string& note : xray.notes) text += fmt::format("note: {}\n", note);
  if (!failures.empty()) return text + failures;
  return text + fmt::format("X-ray: clean{}\n", xray.is_whole() ? "" : ", of what could be X-rayed");
}

// ---- Of the specification ----

std::string words_of_specification(const Xray& xray) {
  std::string text = fmt::format("{}\nthe specification, no kernel\n", print(xray.c));
  std::int64_t told = 0, rows = 0;
  for (const AttentionXray& one : xray.attentions) {
    const Attention& attention = one.attention;
    const bool is_alike = !attention.has_blocks;  // all heads see the same keys
    const std::int64_t heads = is_alike ? 1 : one.selection.heads;
    const char* head_word = heads == attention.problem.heads ? "head" : "kv head";
    for (const Sequence& sequence : sequences(attention.problem)) {
      for (std::int64_t head = 0; head < heads; ++head) {
        std::vector<std::vector<std::string>> table{{"query", "sees " + std::string(key_word(attention)) + "s"}};
        if (attention.has_blocks) table[0].emplace_back("selected");
        if (!one.rules.empty()) table[0].insert(table[0].end(), {"left out", "margin"});
        for (std::int64_t token = sequence.q_begin; token < sequence.q_end; ++token) {
          ++rows;
          if (told == kMaxRowsInWords) continue;
          ++told;
          const std::int64_t query_head = head * (attention.problem.heads / heads);
          std::vector<std::string> row{fmt::format("{}", token - sequence.q_begin),
                                       seen_by(one, sequence, token, query_head)};
          if (!one.rules.empty()) {
            const auto [selected, left_out, margin] =
                reasons(one.rules[static_cast<std::size_t>(token * heads + head)], one.selection.row(token, head),
                        sequence.position(token) / attention.block);
            row.insert(row.end(), {selected, left_out, margin});
          } else if (attention.has_blocks) {
            Blocks blocks;
            for (const std::int32_t b : one.selection.row(token, head))
              if (b >= 0) blocks.push_back(b);
            row.push_back(blocks.empty() ? "-" : fmt::format("{}", fmt::join(blocks, " ")));
          }
          table.push_back(std::move(row));
        }
        if (table.size() == 1) continue;
        const std::string which = is_alike ? "every head" : fmt::format("{} {}", head_word, head);
        text += fmt::format("{}, sequence {}, {}\n{}", attention.names.o, sequence.index, which,
                            aligned(table, {1, 2, 3, 4}));
      }
    }
  }
  if (told < rows) text += fmt::format("{} more rows are in the picture alone\n", rows - told);
  return text;
}

}  // namespace

std::string words(const Xray& xray) {
  return xray.kernel.empty() ? words_of_specification(xray) : words_of_kernel(xray);
}

}  // namespace attnspec::verify
