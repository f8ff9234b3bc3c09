// RapidCheck would hand out the shrinks of a generated case (rc::Shrinkable works outside rc::check), but in the order
// of its draws and only in the bounds they were drawn in. Here the way matters: size before regime, and any case can be
// shrunk, also one of a level or a file. So RapidCheck's sequences simplify the parts, and a greedy loop puts them in
// order.

#include "fuzz/search/shrink.hpp"

#include <fmt/format.h>

#include <algorithm>
#include <chrono>
#include <numeric>
#include <optional>
#include <set>
#include <stdexcept>
#include <string>
#include <utility>
#include <vector>

#include "fuzz/search/findings.hpp"
#include "verify/cases/inputs/plain_numbers.hpp"

namespace attnspec::fuzz {

namespace {

using namespace verify;

/// Whole numbers from the target to just before the value, in ever smaller steps; none where the value is the target.
rc::Seq<std::int64_t> towards(std::int64_t value, std::int64_t target) { return rc::shrink::towards(value, target); }

/// The cases that `set` makes of each number.
template <class Set>
rc::Seq<Case> each(const Case& c, rc::Seq<std::int64_t> numbers, const Set& set) {
  return rc::seq::map(std::move(numbers), [=](std::int64_t number) {
    Case simpler = c;
    set(simpler, number);
    return simpler;
  });
}

/// One parameter at its plainest.
template <class Value>
Simpler plain(Value Case::*member, Value value) {
  return [=](const Case& c) {
    Case simpler = c;
    simpler.*member = value;
    return simpler == c ? rc::Seq<Case>() : rc::seq::just(simpler);
  };
}

/// The specification instead of a law.
rc::Seq<Case> without_law(const Case& c) { return plain(&Case::law, Law::none)(c); }

/// Calls left out, many at once first.
rc::Seq<Case> fewer_calls(const Case& c) {
  return rc::seq::map(rc::shrink::removeChunks(c.session), [=](const std::vector<SessionStep>& steps) {
    Case simpler = c;
    simpler.session = steps;
    return simpler;
  });
}

/// Sequences left out, many at once first.
rc::Seq<Case> fewer_sequences(const Case& c) {
  std::vector<std::size_t> kept(c.lens.size());
  std::iota(kept.begin(), kept.end(), std::size_t{0});
  return rc::seq::map(rc::shrink::removeChunks(kept), [=](const std::vector<std::size_t>& sequences) {
    Case simpler = c;
    simpler.lens.clear();
    simpler.q_lens.clear();
    for (const std::size_t s : sequences) {
      simpler.lens.push_back(c.lens[s]);
      simpler.q_lens.push_back(c.q_lens[s]);
    }
    return simpler;
  });
}

/// One sequence's keys made fewer, and its queries with them where they are as many.
rc::Seq<Case> shorter(const Case& c) {
  rc::Seq<Case> all;
  for (std::size_t s = 0; s < c.lens.size(); ++s)
    all = rc::seq::concat(std::move(all), each(c, towards(c.lens[s], 0), [=](Case& simpler, std::int64_t length) {
                            if (simpler.q_lens[s] == simpler.lens[s]) simpler.q_lens[s] = length;
                            simpler.lens[s] = length;
                          }));
  return all;
}

/// One sequence half as long, with other numbers: a failure that needs a coincidence may have it there, too.
rc::Seq<Case> shorter_with_other_numbers(const Case& c) {
  rc::Seq<Case> all;
  for (std::size_t s = 0; s < c.lens.size(); ++s) {
    if (c.lens[s] < 2) continue;
    all = rc::seq::concat(std::move(all), rc::seq::map(rc::seq::range<std::uint64_t>(0, 4), [=](std::uint64_t seed) {
                            Case simpler = c;
                            simpler.lens[s] = (c.lens[s] + 1) / 2;
                            simpler.q_lens[s] = std::min(c.q_lens[s], simpler.lens[s]);
                            simpler.seed = seed;
                            return simpler;
                          }));
  }
  return all;
}

/// One sequence's queries as many as its keys, or fewer.
rc::Seq<Case> fewer_queries(const Case& c) {
  rc::Seq<Case> all;
  for (std::size_t s = 0; s < c.lens.size(); ++s) {
    if (c.q_lens[s] == c.lens[s]) continue;
    const auto set = [=](Case& simpler, std::int64_t queries) { simpler.q_lens[s] = queries; };
    all =
        rc::seq::concat(std::move(all), each(c, rc::seq::just(c.lens[s]), set), each(c, towards(c.q_lens[s], 0), set));
  }
  return all;
}

rc::Seq<Case> fewer_heads(const Case& c) {
  const std::int64_t group = c.heads / c.kv_heads, kv_heads = c.kv_heads;
  return rc::seq::concat(
      each(c, towards(kv_heads, 1),
           [=](Case& simpler, std::int64_t n) {
             simpler.kv_heads = n;
             simpler.heads = n * group;
           }),
      each(c, towards(group, 1), [=](Case& simpler, std::int64_t n) { simpler.heads = n * kv_heads; }));
}

/// The default scale stays the default one.
void set_dk(Case& c, std::int64_t dk) {
  if (c.scale == default_scale(c.dk)) c.scale = default_scale(dk);
  c.dk = dk;
}

rc::Seq<Case> fewer_features(const Case& c) {
  return rc::seq::concat(each(c, towards(std::min(c.dk, c.dv), 1),
                              [](Case& simpler, std::int64_t d) {
                                set_dk(simpler, d);
                                simpler.dv = d;
                              }),
                         each(c, towards(c.dk, 1), set_dk),
                         each(c, towards(c.dv, 1), [](Case& simpler, std::int64_t dv) { simpler.dv = dv; }));
}

/// One size made smaller, not below `least`.
Simpler smaller(std::int64_t Case::*member, std::int64_t least) {
  return [=](const Case& c) {
    return each(c, towards(c.*member, least), [=](Case& simpler, std::int64_t value) { simpler.*member = value; });
  };
}

/// NSA's d divided out of all that it divides.
rc::Seq<Case> smaller_stride(const Case& c) {
  return each(c, towards(c.compress_stride, 1), [](Case& simpler, std::int64_t stride) {
    simpler.compress_block = simpler.compress_block / simpler.compress_stride * stride;
    simpler.block = simpler.block / simpler.compress_stride * stride;
    simpler.compress_stride = stride;
  });
}

rc::Seq<Case> plain_scale(const Case& c) { return plain(&Case::scale, default_scale(c.dk))(c); }

/// No sample where the whole case is not much more work. A larger case keeps its own.
rc::Seq<Case> whole(const Case& c) {
  const std::int64_t queries = std::accumulate(c.q_lens.begin(), c.q_lens.end(), std::int64_t{0});
  return queries * c.heads <= 16 * c.sample ? plain(&Case::sample, std::int64_t{0})(c) : rc::Seq<Case>();
}

rc::Seq<Case> smaller_seed(const Case& c) {
  return rc::seq::map(rc::seq::take(3, rc::shrink::towards<std::uint64_t>(c.seed, 0)), [=](std::uint64_t seed) {
    Case simpler = c;
    simpler.seed = seed;
    return simpler;
  });
}

/// One size that does not matter at its default, so that the printed case leaves it out.
rc::Seq<Case> left_out(const Case& c) {
  const Case defaults = parse_case(fmt::format("{}()", name(c.op)));
  rc::Seq<Case> all;
  for (const auto size : {&Case::top_k, &Case::top_n, &Case::initial, &Case::local, &Case::window, &Case::hidden})
    all = rc::seq::concat(std::move(all), plain(size, defaults.*size)(c));
  return all;
}

/// Plain numbers in one tensor, the plainest first.
rc::Seq<Case> plainer_numbers(const Case& c) {
  rc::Seq<Case> all;
  if (c.law != Law::none) return all;
  for (const std::string& tensor : filled_tensors_with_numbers(c)) {
    const std::optional<PlainNumbers> held = numbers_of(c, tensor);
    const std::int64_t end = held ? static_cast<std::int64_t>(*held) : kPlainNumbers;
    all = rc::seq::concat(std::move(all), rc::seq::map(rc::seq::range<std::int64_t>(0, end), [=](std::int64_t plainer) {
                            return with_numbers(c, tensor, static_cast<PlainNumbers>(plainer));
                          }));
  }
  return all;
}

/// Empty where the verdict has no finding.
std::string failing_output(const CaseResult& result) {
  return result.findings.empty() ? "" : main_finding(result).output;
}

bool is_valid(const Case& c) {
  if (c.lens.empty()) return false;
  try {
    validate(c);
  } catch (const std::invalid_argument&) {
    return false;
  }
  return parse_case(print(c)) == c;  // not one that changed a key its operator does not have
}

}  // namespace

const std::vector<Simpler>& ways_to_simplify() {
  static const std::vector<Simpler> all{without_law,
                                        fewer_calls,
                                        fewer_sequences,
                                        shorter,
                                        shorter_with_other_numbers,
                                        fewer_queries,
                                        fewer_heads,
                                        fewer_features,
                                        smaller_stride,
                                        smaller(&Case::block, 1),
                                        smaller(&Case::compress_block, 1),
                                        smaller(&Case::top_k, 1),
                                        smaller(&Case::initial, 0),
                                        smaller(&Case::local, 1),
                                        smaller(&Case::top_n, 1),
                                        smaller(&Case::window, 1),
                                        smaller(&Case::hidden, 1),
                                        whole,
                                        plain(&Case::gate, reference::Gate::top_k),
                                        plain(&Case::phi, reference::Phi::mean),
                                        plain(&Case::activation, reference::Activation::silu),
                                        plain(&Case::shared_phi, false),
                                        plain(&Case::shared_kv, false),
                                        plain(&Case::shared_selection, false),
                                        plain(&Case::selection_order, SelectionOrder::any),
                                        plain(&Case::causal, true),
                                        plain_scale,
                                        plain(&Case::dtype, Format::bf16),
                                        plain(&Case::layout, Layout::strided),
                                        plain(&Case::regime, std::string("normal")),
                                        smaller_seed};
  return all;
}

Shrunk shrink(const Judge& judge, const CaseResult& failing, const std::function<bool()>& stop) {
  Shrunk shrunk{failing, 0};
  std::set<std::string> judged{print(failing.c)};
  const auto last = std::chrono::steady_clock::now() + std::chrono::duration<double>(kMaxSeconds);
  const auto is_over = [&] {
    return shrunk.judgements >= kMaxJudgements || std::chrono::steady_clock::now() > last || (stop && stop());
  };
  /// One step along a way; false where it ends.
  const auto step = [&](const Simpler& simpler, const std::function<bool(const CaseResult&)>& is_as_wrong) {
    rc::Seq<Case> cases = simpler(shrunk.result.c);
    for (rc::Maybe<Case> next = cases.next(); next && !is_over(); next = cases.next()) {
      if (!is_valid(*next) || !judged.insert(print(*next)).second) continue;
      ++shrunk.judgements;
      CaseResult result = judge(*next);
      if (!is_as_wrong(result)) continue;
      shrunk.result = std::move(result);
      return true;
    }
    return false;
  };
  const auto fails = [](const CaseResult& result) { return is_finding(result.verdict); };
  for (bool has_changed = true; has_changed;) {
    has_changed = false;
    for (const Simpler& simpler : ways_to_simplify())
      while (step(simpler, fails)) has_changed = true;
  }
  while (step(left_out, fails)) continue;
  const auto fails_alike = [&, output = failing_output(shrunk.result)](const CaseResult& result) {
    return result.verdict == shrunk.result.verdict && failing_output(result) == output;
  };
  for (const Simpler& simpler :
       {Simpler(plainer_numbers), plain(&Case::regime, std::string("normal")), plain(&Case::seed, std::uint64_t{0})})
    while (step(simpler, fails_alike)) continue;
  return shrunk;
}

}  // namespace attnspec::fuzz
