#include "verify/diagnosis/played_case.hpp"

#include <algorithm>
#include <array>
#include <cmath>
#include <memory>
#include <mutex>
#include <optional>
#include <utility>

#include "verify/diagnosis/kept_call.hpp"
#include "verify/judge/judge.hpp"
#include "verify/operators/operator.hpp"

namespace attnspec::verify {

namespace {

using Clock = std::chrono::steady_clock;

/// Evidence that one row can give, so that a single one does not decide.
constexpr double kMaxRowEvidence = 400;
/// Of a variance that is known from one sample.
constexpr double kSafety = 4;

/// A mistake played in all kinds of numbers. The others tell what rounding does to it.
struct Play {
  PlayedOutputs in_fp32, disturbed, in_own_format;
};

/// A row of it.
struct PlayedRow {
  Vector in_fp32, disturbed, in_own_format;

  PlayedRow(const Play& play, const std::string& output, std::int64_t token, std::int64_t head)
      : in_fp32(play.in_fp32.row(output, token, head)),
        disturbed(play.disturbed.row(output, token, head)),
        in_own_format(play.in_own_format.row(output, token, head)) {}
};

/// A call of the kernel with everything that was played on it.
struct PlayedCall {
  KeptCall kept;
  std::optional<Play> correct{};
  std::vector<std::unique_ptr<Play>> mistakes{};  // null: writes what the correct stages write
  bool is_played = false;

  explicit PlayedCall(const AnyCall& call) : kept(call) {}
};

/// Whether both are NaN, or the same infinity.
bool are_equal_in_class(double a, double b) { return (std::isnan(a) && std::isnan(b)) || (std::isinf(a) && a == b); }

double length(const Vector& x) {
  return std::sqrt(x.unaryExpr([](double one) { return std::isfinite(one) ? one * one : 0; }).sum());
}

/// Whether a kernel that makes the mistake may have written the row, and how many variances the mistake moved it.
struct RowAgreement {
  bool agrees = false;
  double evidence = 0;
};

/// The noise of the row, larger where the mistake's row is longer, and the rounding of the mistake itself: what other
/// numbers change in it. Where nothing is expected, and no noise, that of weights that the mistake has.
RowNoise noise_of_play(const ObservedRow& row, const PlayedRow& played, const reference::Arithmetic& arithmetic,
                       Format format) {
  const double right = length(row.expected), wrong = length(played.in_fp32);
  const double factor = right > 0 ? std::max(1.0, wrong / right) : 1;
  RowNoise noise = row.noise;
  noise.variance *= factor * factor;
  noise.worst *= factor;
  noise.floor *= factor;
  double squares = 0;
  for (const Vector* other : {&played.disturbed, &played.in_own_format})
    squares += kSafety * reference::square(length(played.in_fp32 - *other)) / static_cast<double>(other->size());
  if (!(noise.variance.sum() > 0)) {
    const bool is_statistic = row.covariance == nullptr;  // lse, which moves as its scores do
    const double unit = std::max(is_statistic ? 0 : reference::unit_roundoff(arithmetic.weights), 0x1p-21);
    squares += reference::square(2 * unit * (is_statistic ? std::max(1.0, wrong) : wrong));
  }
  noise.variance.array() += squares;
  noise.worst.array() += reference::kKappa * std::sqrt(squares);
  if (factor > 1 || !(right > 0))
    reference::add_output_rounding(played.in_fp32.unaryExpr([](double x) { return std::isfinite(x) ? x : 0; }), format,
                                   noise);
  return noise;
}

RowAgreement compare_with_play(const ObservedRow& row, const PlayedRow& of_play,
                               const reference::Arithmetic& arithmetic, Format format) {
  const RowNoise noise = noise_of_play(row, of_play, arithmetic, format);
  const Vector& in_own_format = of_play.in_own_format;
  Vector played = of_play.in_fp32;
  Vector observed = row.observed;
  double evidence = 0;
  for (Eigen::Index d = 0; d < played.size(); ++d) {
    const double error = row.observed[d] - row.expected[d];
    // What overflows in the kernel's own numbers need not in fp32.
    if (are_equal_in_class(played[d], observed[d]) || are_equal_in_class(in_own_format[d], observed[d])) {
      if (!are_equal_in_class(row.expected[d], observed[d])) evidence += kMaxRowEvidence;
      played[d] = observed[d] = 0;
    } else if (std::isnan(played[d])) {
      return {};
    } else if (std::isfinite(error) && noise.variance[d] > 0) {
      evidence += error * error / noise.variance[d];
    }
  }
  const bool has_covariance = row.covariance != nullptr && row.comparison.trace > 0;
  RowComparison comparison;
  if (has_covariance) {
    comparison = compare_row(played, observed, noise, format, *row.covariance);
  } else {
    for (Eigen::Index d = 0; d < played.size() && comparison.fault == RowFault::none; ++d) {
      RowNoise one(1);
      one.variance[0] = noise.variance[d];
      one.worst[0] = noise.worst[d];
      one.floor[0] = noise.floor[d];
      comparison = compare_number(played[d], observed[d], one, format);
    }
  }
  return {comparison.fault == RowFault::none, std::min(evidence, kMaxRowEvidence)};
}

bool are_same(const Vector& a, const Vector& b) {
  return std::equal(a.begin(), a.end(), b.begin(), b.end(),
                    [](double x, double y) { return x == y || are_equal_in_class(x, y); });
}

/// Watches the judge judge a case, and compares every row with every mistake.
class Comparing {
 public:
  Comparing(const Kernel& kernel, const Mistakes& mistakes, Clock::time_point end)
      : kernel_(kernel), mistakes_(mistakes), end_(end), agreements_(mistakes.size()) {}

  PlayedCase run(const Case& c) {
    Kernel watched = kernel_;
    watched.call = [this](const AnyCall& call) {
      auto played = std::make_unique<PlayedCall>(call);
      kernel_.call(call);
      if (played->kept.heads_of_written_selection() > 0 && kernel_.exports_selection)
        played->kept.keep_selection(call.selection);
      calls_[call.is_backward ? 1 : 0] = std::move(played);
    };
    RowObserver observer([this](const ObservedRow& row) {
      const std::lock_guard lock(mutex_);
      add(row);
    });
    observer.selection = [this](const ObservedSelection& row) {
      const std::lock_guard lock(mutex_);
      add(row);
    };
    PlayedCase result;
    result.result = judge(watched, c, observer);
    result.agreements = std::move(agreements_);
    result.took_too_long = took_too_long_;
    return result;
  }

 private:
  /// The last call of that direction, played; null where it cannot be.
  const PlayedCall* played(bool is_backward) {
    PlayedCall* call = calls_[is_backward ? 1 : 0].get();
    if (call == nullptr || took_too_long_ || !call->kept.can_be_played()) return nullptr;
    if (call->is_played) return call;
    call->is_played = true;
    const auto play = [&](const model::Stages& stages, PlayedIn numbers) {
      return call->kept.play(stages, kernel_.arithmetic, numbers);
    };
    call->correct.emplace(Play{play(model::correct_stages(), PlayedIn::fp32),
                               play(model::correct_stages(), PlayedIn::disturbed_fp32),
                               play(model::correct_stages(), PlayedIn::own_format)});
    for (std::size_t i = 0; i < mistakes_.size(); ++i) {
      call->mistakes.emplace_back();
      took_too_long_ = took_too_long_ || Clock::now() > end_;
      if (took_too_long_) return nullptr;
      const model::Stages& stages = mistakes_[i]->stages;
      PlayedOutputs in_fp32 = play(stages, PlayedIn::fp32);
      if (in_fp32 == call->correct->in_fp32) continue;
      agreements_[i].acts = true;
      call->mistakes.back() = std::make_unique<Play>(
          Play{std::move(in_fp32), play(stages, PlayedIn::disturbed_fp32), play(stages, PlayedIn::own_format)});
    }
    return call;
  }

  /// Whether the kernel and a play went on with other blocks, so that what they make of them cannot be compared.
  static bool selects_otherwise(const PlayedCall& call, const Play& play, const TensorInfo& output, std::int64_t token,
                                std::int64_t head) {
    const std::int64_t heads = call.kept.heads_of_written_selection(), all = call.kept.call().attention().heads;
    const bool reads_blocks =
        attends(call.kept.call().op) && (selects(call.kept.call().op) || output.branch == reference::Branch::selected ||
                                         (has_branches(call.kept.call().op) && !output.branch));
    if (heads == 0 || !reads_blocks || output.rows != RowsOf::queries) return false;
    const std::int64_t of = heads == all ? head : head / (all / heads);
    const std::vector<std::int32_t> blocks = call.kept.blocks(token, of);
    return !(blocks == play.in_fp32.blocks(token, of) && blocks == play.in_own_format.blocks(token, of));
  }

  void add(const ObservedRow& row) {
    const Operator op = calls_[0]->kept.call().op;
    const TensorInfo& output = tensor_of(op, row.output);
    const PlayedCall* call = played(is_gradient(output));
    if (call == nullptr) return;
    const std::int64_t token = call->kept.token(row.output, row.place), head = row.place.head;
    const bool is_wrong = row.comparison.fault != RowFault::none;
    const Format input = call->kept.call().tensors.front().format;
    const reference::Arithmetic arithmetic = reference::make_arithmetic(input, kernel_.arithmetic);
    const Format format = format_of(output, input, arithmetic.output);
    const Vector correct = call->correct->in_fp32.row(row.output, token, head);
    RowAgreement as_correct{!is_wrong};  // where the mistake does not show
    if (is_wrong)                        // a correct backward of a wrong forward may overflow
      as_correct.agrees =
          compare_with_play(row, PlayedRow(*call->correct, row.output, token, head), arithmetic, format).agrees;
    for (std::size_t i = 0; i < mistakes_.size(); ++i) {
      const Play* play = call->mistakes[i].get();
      if (play != nullptr && kernel_.exports_selection && selects_otherwise(*call, *play, output, token, head))
        continue;
      RowAgreement agreement = as_correct;
      if (play != nullptr)
        if (!are_same(play->in_fp32.row(row.output, token, head), correct))
          agreement = compare_with_play(row, PlayedRow(*play, row.output, token, head), arithmetic, format);
      count(i, is_wrong, agreement);
    }
  }

  void add(const ObservedSelection& row) {
    const PlayedCall* call = played(false);
    if (call == nullptr) return;
    const std::int64_t token = call->kept.token("selection", row.place), head = row.place.head;
    const std::vector<std::int32_t> blocks = call->kept.blocks(token, head);  // those of a malformed row too
    // A right row that the correct stages do not select is a tie, which nobody need decide alike.
    if (row.is_right && blocks != call->correct->in_fp32.blocks(token, head)) return;
    for (std::size_t i = 0; i < mistakes_.size(); ++i) {
      const Play* play = call->mistakes[i].get();
      RowAgreement agreement{row.is_right, 0};
      if (play != nullptr) {
        const auto of_play = play->in_fp32.blocks(token, head);
        agreement = {blocks == of_play, 100};
        if (!agreement.agrees && of_play != play->in_own_format.blocks(token, head)) continue;  // it ties
      }
      count(i, !row.is_right, agreement);
    }
  }

  void count(std::size_t mistake, bool is_wrong, const RowAgreement& row) {
    Agreement& sum = agreements_[mistake];
    if (!is_wrong) {
      ++sum.right;
      sum.right_missed += !row.agrees;
      return;
    }
    ++sum.wrong;
    sum.wrong_reproduced += row.agrees;
    if (row.agrees) sum.evidence += row.evidence;
  }

  const Kernel& kernel_;
  const Mistakes& mistakes_;
  Clock::time_point end_;
  std::mutex mutex_;
  std::array<std::unique_ptr<PlayedCall>, 2> calls_;  // the last forward, the last backward
  std::vector<Agreement> agreements_;
  bool took_too_long_ = false;
};

}  // namespace

Agreement& Agreement::operator+=(const Agreement& other) {
  wrong += other.wrong;
  wrong_reproduced += other.wrong_reproduced;
  right += other.right;
  right_missed += other.right_missed;
  evidence += other.evidence;
  acts = acts || other.acts;
  return *this;
}

bool Agreement::is_near(std::int64_t one_of) const {
  return one_of * (wrong - wrong_reproduced + right_missed) <= wrong + right_missed;
}

PlayedCase play_beside(const Kernel& kernel, const Case& c, const Mistakes& mistakes, Clock::time_point end) {
  return Comparing(kernel, mistakes, end).run(c);
}

}  // namespace attnspec::verify
