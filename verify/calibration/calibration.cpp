#include "verify/calibration/calibration.hpp"

#include <fmt/format.h>
#include <fmt/ranges.h>

#include <algorithm>
#include <cmath>
#include <map>
#include <mutex>

#include "verify/cases/inputs/captured.hpp"
#include "verify/cases/random.hpp"
#include "verify/cases/regimes.hpp"
#include "verify/judge/report.hpp"
#include "verify/kernels.hpp"

namespace attnspec::verify {

namespace {

constexpr double kMinMedian = 0.5, kMaxMedian = 1.3;
constexpr std::int64_t kShareOfNsa = 5;  // one row in so many of those asked for: fewer operators have its outputs
constexpr std::int64_t kSampled = 16;    // n_eff is formed for one row of so many
constexpr std::size_t kMinSamples = 50;  // for a median

/// A small case of any operator with values.
Case random_case(const std::string& regime, Format dtype, std::uint64_t seed) {
  const Random random(seed, "calibration");
  std::uint64_t draws = 0;
  const auto pick = [&](const auto& choices) {
    return *(std::begin(choices) + random.below(std::ssize(choices), draws++));
  };
  using Sizes = std::vector<std::int64_t>;
  Case c;
  c.regime = regime, c.dtype = dtype, c.seed = seed;
  std::vector<Operator> operators(kOperators.begin(), kOperators.end());
  std::erase_if(operators, [](Operator op) { return !has_gradients(op); });
  c.op = pick(operators);
  c.lens = {6 + random.below(70, draws++), random.below(30, draws++)};
  c.q_lens = c.lens;
  c.kv_heads = pick(Sizes{1, 2, 3});
  c.heads = c.kv_heads * pick(Sizes{1, 1, 2});
  c.dk = pick(Sizes{16, 32, 48});
  c.dv = pick(Sizes{16, 32, 48});
  c.block = pick(Sizes{4, 8, 16, 32});
  c.top_k = pick(Sizes{2, 3, 5});
  c.compress_stride = pick(Sizes{1, 2});
  c.compress_block = c.compress_stride * pick(Sizes{1, 2});
  c.window = pick(Sizes{3, 10, 40});
  c.phi = pick(std::vector{reference::Phi::mean, reference::Phi::linear, reference::Phi::mlp});
  c.activation =
      pick(std::vector{reference::Activation::relu, reference::Activation::silu, reference::Activation::gelu});
  c.top_n = pick(Sizes{3, 5});
  c.hidden = pick(Sizes{12, 24});
  c.shared_phi = random.below(2, draws++) != 0;
  c.causal = random.below(4, draws++) != 0;
  c.scale = default_scale(c.dk) * pick(std::vector{1.0, 1.0, 2.0, -1.0});
  return parse_case(print(c));
}

/// Whether a row is rounded as numbers without a pattern are. Values that are tags, those of a single key, and products
/// of few of them lie on the format's grid or next to it; such a row cannot err and says nothing of the prediction (nor
/// does one whose errors the floor explains, R = 0). Next to the grid: within 1/64 of a spacing, where one number in 32
/// lies by chance; more than one in eight are a pattern.
bool rounds_freely(const reference::Vector& row, Format format) {
  const auto on_grid = std::count_if(row.begin(), row.end(), [&](double x) {
    return std::abs(reference::round_to(x, format) - x) <= reference::spacing(x, format) / 64;
  });
  return 8 * on_grid <= row.size();
}

/// Collects the rows of one output from many threads.
struct Samples {
  Calibration result;
  std::vector<double> r;  // sampled
};

}  // namespace

std::vector<Calibration> calibrate(const CalibrationJob& job, std::int64_t rows, std::uint64_t seed) {
  const CalibratedArithmetic& arithmetic = job.arithmetic;
  const Kernel moba = find_kernel(arithmetic.kernel(Operator::moba)),
               nsa = find_kernel(arithmetic.kernel(Operator::window));
  const reference::Arithmetic formats = reference::make_arithmetic(arithmetic.dtype, arithmetic.options);
  // Accumulation is all that such gradients of tokens suffer; the prediction lets tensor cores truncate, and the model
  // kernel rounds.
  const bool truncates_alone = formats.weights != Format::fp32 && formats.output == Format::fp32;
  std::map<std::string, Samples> outputs;
  for (const OutputKind& kind : kOutputKinds) outputs[kind.name];
  std::mutex mutex;
  const auto is_enough = [&] {
    return std::all_of(std::begin(kOutputKinds), std::end(kOutputKinds), [&](const OutputKind& kind) {
      return outputs.at(kind.name).result.rows >= (kind.is_of_every_attention ? rows : rows / kShareOfNsa);
    });
  };
  for (std::uint64_t i = 0; !is_enough(); ++i) {
    const Case c = random_case(job.regime, arithmetic.dtype, seed + i);
    judge(is_nsa(c.op) ? nsa : moba, c, [&](const ObservedRow& observed) {
      const auto& [kind, output, place, row, expected, values, covariance, noise] = observed;
      const std::lock_guard lock(mutex);
      Samples& samples = outputs.at(kind);
      Calibration& result = samples.result;
      if (row.fault != RowFault::none && result.alarms++ == 0)
        result.first_alarm = replay_command(arithmetic.kernel(c.op), c);
      result.worst_r = std::max(result.worst_r, row.r);
      result.worst_z = std::max(result.worst_z, row.z);
      if (result.rows++ % kSampled == 0 && !(kind == "d_tokens" && truncates_alone) && covariance != nullptr &&
          row.r > 0 && rounds_freely(expected, kind == "rows" ? arithmetic.dtype : formats.output) &&
          reference::effective_terms(covariance->matrix()) >= reference::kManyTerms)
        samples.r.push_back(row.r);
    });
  }
  std::vector<Calibration> results;
  for (auto& [name, samples] : outputs) {
    samples.result.regime = job.regime, samples.result.arithmetic = arithmetic.name(), samples.result.output = name;
    if (samples.r.size() >= kMinSamples) {
      const auto middle = samples.r.begin() + std::ssize(samples.r) / 2;
      std::nth_element(samples.r.begin(), middle, samples.r.end());
      samples.result.median_r = *middle;
    }
    results.push_back(samples.result);
  }
  return results;
}

std::string CalibratedArithmetic::name() const {
  return fmt::format("{}{}{}", reference::name(dtype), options.empty() ? "" : "+", fmt::join(options, "+"));
}

std::string CalibratedArithmetic::kernel(Operator op) const {
  return fmt::format("model:{}{}{}", is_nsa(op) ? "nsa" : "moba", options.empty() ? "" : "+", fmt::join(options, "+"));
}

std::vector<CalibratedArithmetic> calibrated_arithmetics() {
  std::vector<CalibratedArithmetic> arithmetics{
      {Format::fp32, {}},
      {Format::fp32, {"tf32"}},
      {Format::fp32, {"tf32_truncated"}},
      {Format::fp32, {"tf32x3"}},
      {Format::fp32, {"scaled_q", "softmax_delta", "rounded_head_gradients", "position_bias"}},
  };
  for (const Format dtype : {Format::bf16, Format::fp16}) {
    arithmetics.push_back({dtype, {}});
    for (const reference::ArithmeticOption& option : reference::arithmetic_options())
      if (reference::contradiction({option.name}).empty() && !std::string(option.name).starts_with("tf32"))
        arithmetics.push_back({dtype, {option.name}});
    // What public kernels declare together: docs/arithmetic.md.
    arithmetics.push_back({dtype, {"rounded_head_gradients", "scaled_ds", "rounded_p_in_ds"}});
    arithmetics.push_back(
        {dtype,
         {"rounded_partials", "rounded_head_gradients", "rounded_block_gradients", "bf16_partials", "scaled_ds"}});
    arithmetics.push_back({dtype,
                           {"rounded_partials", "rounded_means", "rounded_head_gradients", "own_block_apart",
                            "rounded_block_gradients", "rounded_gradient_sums"}});
    arithmetics.push_back({dtype, {"fp32_weights", "softmax_delta"}});
    arithmetics.push_back({dtype, {"fp32_weights", "fp32_out"}});
    arithmetics.push_back({dtype, {"rounded_sum", "rounded_means", "rounded_partials"}});
    arithmetics.push_back({dtype, {"normalise_first", "rounded_partials", "fp32_out"}});
  }
  return arithmetics;
}

bool Calibration::is_good() const {
  return alarms == 0 && (median_r < 0 || (median_r >= kMinMedian && median_r <= kMaxMedian));
}

std::vector<CalibrationJob> calibration_jobs(const std::vector<std::string>& chosen) {
  std::vector<std::string> names = chosen;
  if (names.empty()) {
    for (const Regime& regime : regimes())
      if (std::string(regime.name) != "captured") names.push_back(regime.name);
    for (const std::string& captured : captured_names()) names.push_back("captured:" + captured);
  }
  std::vector<CalibrationJob> jobs;
  for (const std::string& regime : names) {
    Case c;
    c.regime = regime;
    validate_regime(c);
    for (const CalibratedArithmetic& arithmetic : calibrated_arithmetics()) jobs.push_back({regime, arithmetic});
  }
  return jobs;
}

}  // namespace attnspec::verify
