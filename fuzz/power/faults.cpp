#include "fuzz/power/faults.hpp"

#include <fmt/format.h>

#include <algorithm>
#include <cmath>
#include <cstdint>
#include <utility>

#include "verify/cases/regimes.hpp"
#include "verify/kernels.hpp"
#include "verify/model/defects/planting.hpp"
#include "verify/model/model.hpp"

namespace attnspec::fuzz {

namespace {

using namespace verify;
using namespace verify::model;

/// The softmax scale times 1 + 2^-exponent.
template <int exponent>
double scale_off(const Work& work) {
  return correct_stages().scale(work) * (1 + std::exp2(-exponent));
}

template <int exponent>
const Stages& with_scale_off() {
  static const Stages stages = with(&Stages::scale, &scale_off<exponent>);
  return stages;
}

bool misses_the_middle_key(const Work& work, std::int64_t t, std::int64_t j) {
  return correct_stages().is_visible(work, t, j) && j != work.num_keys / 2;
}

bool sees_the_next_key(const Work& work, std::int64_t t, std::int64_t j) {
  return correct_stages().is_visible(work, t, j) || j == t + 1;
}

bool sees_the_next_key_in_the_middle(const Work& work, std::int64_t t, std::int64_t j) {
  return correct_stages().is_visible(work, t, j) || (t == work.num_keys / 2 && j == t + 1);
}

Partial merge_without_the_lightest(const Work& work, const std::vector<Partial>& partials) {
  const auto is_lighter = [](const Partial& a, const Partial& b) { return a.lse < b.lse; };
  std::vector<Partial> kept = partials;
  if (kept.size() > 1) kept.erase(std::min_element(kept.begin(), kept.end(), is_lighter));
  return correct_stages().merge(work, kept);
}

}  // namespace

std::vector<Subject> faults() {
  static const Stages drops = with(&Stages::is_visible, &misses_the_middle_key),
                      leaks = with(&Stages::is_visible, &sees_the_next_key),
                      leaks_once = with(&Stages::is_visible, &sees_the_next_key_in_the_middle),
                      skips = with(&Stages::merge, &merge_without_the_lightest);
  std::vector<Subject> all;
  const auto add = [&](const std::string& name, const std::string& c, const Stages& stages) {
    all.push_back({name, parse_case(c), make_kernel("fault", name, {parse_case(c).op}, stages)});
  };
  for (const int keys : {64, 256, 1024, 4096, 16384})
    add(fmt::format("one key of {} dropped", keys), fmt::format("dense(lens={},q_lens=64,causal=0)", keys), drops);
  for (const int keys : {64, 256, 1024, 4096, 16384})
    add(fmt::format("one future key seen beside {}", keys), fmt::format("dense(lens={},q_lens=64)", keys), leaks);
  for (const int rows : {64, 256, 1024})
    add(fmt::format("one row of {} sees a future key", rows), fmt::format("dense(lens={})", rows), leaks_once);
  const auto add_scales = [&]<int... exponents>(std::integer_sequence<int, exponents...>) {
    (add(fmt::format("softmax scale off by 2^-{}", exponents), "dense(lens=1024)", with_scale_off<exponents>()), ...);
  };
  add_scales(std::integer_sequence<int, 6, 7, 8, 9, 10, 11, 12>());
  for (const int blocks : {4, 16, 64})
    add(fmt::format("lightest of {} blocks skipped", blocks),
        fmt::format("moba(lens=2048,q_lens=256,block=16,top_k={})", blocks), skips);
  return all;
}

std::vector<Subject> right_kernels() {
  std::vector<Subject> right;
  for (const Regime& regime : regimes()) {
    if (std::string(regime.name) == "captured") continue;
    for (const char* dtype : {"bf16", "fp16", "fp32"})
      right.push_back({"", parse_case(fmt::format("dense(lens=100,heads=2,dtype={},regime={})", dtype, regime.name)),
                       find_kernel("model:moba")});
  }
  return right;
}

}  // namespace attnspec::fuzz
