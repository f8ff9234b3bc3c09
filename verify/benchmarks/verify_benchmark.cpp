// Speed of the reference, the model kernel and the judge, in query rows per second.

#include <benchmark/benchmark.h>

#include <string>

#include "reference/moba/moba.hpp"
#include "verify/cases/regimes.hpp"
#include "verify/judge/judge.hpp"
#include "verify/kernels.hpp"

namespace attnspec::verify {
namespace {

/// MoBA with 8 heads, d = 128, block 128, top_k 8 over range(0) tokens.
Case large_case(const benchmark::State& state) {
  return parse_case("moba(lens=" + std::to_string(state.range(0)) + ",heads=8,dk=128,block=128,top_k=8)");
}

void count_rows(benchmark::State& state, const Case& c) {
  state.counters["rows/s"] =
      benchmark::Counter(static_cast<double>(c.lens[0] * c.heads), benchmark::Counter::kIsIterationInvariantRate);
}

void reference_forward(benchmark::State& state) {
  const Case c = large_case(state);
  const Inputs in = make_inputs(c);
  for (auto _ : state) benchmark::DoNotOptimize(reference::moba(problem_of(c), {in.q, in.k, in.v}));
  count_rows(state, c);
}

void reference_backward(benchmark::State& state) {
  const Case c = large_case(state);
  const Inputs in = make_inputs(c);
  const auto forward = reference::moba(problem_of(c), {in.q, in.k, in.v});
  for (auto _ : state)
    benchmark::DoNotOptimize(reference::selected_backward(problem_of(c).attention, c.block, {in.q, in.k, in.v},
                                                          forward.selection, in.d_o, forward.attention));
  count_rows(state, c);
}

/// The model kernel and the judgement of everything it returns.
void judged_model(benchmark::State& state) {
  const Case c = parse_case("moba(lens=" + std::to_string(state.range(0)) + ",heads=4,block=32,top_k=4)");
  const Kernel& kernel = find_kernel("model:moba");
  for (auto _ : state) benchmark::DoNotOptimize(judge(kernel, c));
  count_rows(state, c);
}

BENCHMARK(reference_forward)->Arg(2048)->Arg(4096)->Arg(8192)->Unit(benchmark::kMillisecond)->UseRealTime();
BENCHMARK(reference_backward)->Arg(2048)->Arg(4096)->Unit(benchmark::kMillisecond)->UseRealTime();
BENCHMARK(judged_model)->Arg(256)->Arg(1024)->Unit(benchmark::kMillisecond)->UseRealTime();

}  // namespace
}  // namespace attnspec::verify
