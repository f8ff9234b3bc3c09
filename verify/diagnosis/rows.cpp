#include "verify/diagnosis/rows.hpp"

#include <algorithm>
#include <cmath>
#include <iterator>
#include <mutex>
#include <optional>
#include <utility>

#include "reference/nsa/nsa_compression.hpp"
#include "verify/judge/judge.hpp"
#include "verify/operators/operator.hpp"

namespace attnspec::verify {

namespace {

/// Sizes of the call that is being judged.
struct Sizes {
  Operator op = Operator::dense;
  reference::AttentionProblem attention{};
  std::vector<std::int64_t> compressed_offsets{};
  std::int64_t block = 0, window = 0, compress_block = 0, compress_stride = 0;

  explicit Sizes(const AnyCall& call) : op(call.op), attention(call.attention()) {
    if (has_blocks(op)) block = is_nsa(op) ? call.nsa.block : call.problem.block;
    if (has_window(op)) window = call.nsa.window;
    if (!has_compression(op)) return;
    compress_block = call.nsa.compress_block;
    compress_stride = call.nsa.compress_stride;
    compressed_offsets = reference::compressed_offsets(call.nsa);
  }
};

/// Features whose error is beyond what rounding can do.
std::vector<std::int64_t> wrong_features(const ObservedRow& row) {
  std::vector<std::int64_t> features;
  for (Eigen::Index d = 0; d < row.expected.size(); ++d) {
    const double bound =
        std::min(row.noise.worst[d], reference::kKappa * std::sqrt(row.noise.variance[d])) + row.noise.floor[d];
    const bool is_right = row.observed[d] == row.expected[d] || std::abs(row.observed[d] - row.expected[d]) <= bound;
    if (!is_right) features.push_back(d);
  }
  return features;
}

/// Where a row of an output is.
RowFacts facts(const Sizes& sizes, const TensorInfo& output, const Place& place, std::int64_t heads) {
  RowFacts facts;
  facts.head = place.head;
  facts.heads = heads;
  facts.row = facts.position = place.token;
  if (output.rows == RowsOf::parameters) return facts;
  const auto s = static_cast<std::size_t>(place.sequence);
  const auto length = [s](const std::vector<std::int64_t>& offsets) { return offsets[s + 1] - offsets[s]; };
  const std::int64_t tokens = length(sizes.attention.k_offsets);
  facts.sequence = place.sequence;
  facts.sequences = std::ssize(sizes.attention.k_offsets) - 1;
  facts.window = sizes.window;
  facts.compress_block = sizes.compress_block;
  facts.compress_stride = sizes.compress_stride;
  facts.rows = tokens;
  if (output.rows == RowsOf::queries) {
    facts.rows = length(sizes.attention.q_offsets);
    facts.position = tokens - facts.rows + place.token;
  } else if (output.rows == RowsOf::compressed_rows) {
    facts.rows = length(sizes.compressed_offsets);
  }
  const bool is_of_query_heads = heads == sizes.attention.heads && has_queries(sizes.op);
  facts.group = is_of_query_heads ? sizes.attention.heads / sizes.attention.kv_heads : 1;
  facts.kv_head = place.head / facts.group;
  facts.head_in_group = place.head % facts.group;
  if (sizes.block == 0 || output.rows == RowsOf::compressed_rows || facts.position < 0) return facts;
  facts.block_size = sizes.block;
  facts.block = facts.position / sizes.block;
  facts.in_block = facts.position % sizes.block;
  facts.blocks = (tokens + sizes.block - 1) / sizes.block;
  facts.is_in_short_block = facts.block == facts.blocks - 1 && tokens % sizes.block != 0;
  return facts;
}

/// Watches the judge judge a case.
class Watching {
 public:
  Watching(const Kernel& kernel, WrongRows& all) : kernel_(kernel), all_(all) {}

  void run(const Case& c) {
    Kernel watched = kernel_;
    watched.call = [this](const AnyCall& call) {
      if (!call.is_backward) {
        sizes_.emplace(call);
        call_ = {};
        seen_.clear();
      }
      kernel_.call(call);
    };
    RowObserver observer([this](const ObservedRow& row) {
      const std::lock_guard lock(mutex_);
      add(row);
    });
    observer.selection = [this](const ObservedSelection& row) {
      const std::lock_guard lock(mutex_);
      const TensorInfo& output = tensor_of(sizes_->op, "selection");
      const std::int64_t heads = output.heads == Heads::query ? sizes_->attention.heads : sizes_->attention.kv_heads;
      RowFacts facts = verify::facts(*sizes_, output, row.place, heads);
      facts.is_wrong = !row.is_right;
      call_.kinds["selection"] = "selection";
      call_.rows["selection"].push_back(std::move(facts));
    };
    judge(watched, c, observer);
    for (auto& [output, rows] : call_.rows) {
      if (std::none_of(rows.begin(), rows.end(), [](const RowFacts& row) { return row.is_wrong; })) continue;
      all_.kinds[output] = call_.kinds[output];
      std::vector<RowFacts>& kept = all_.rows[output];
      kept.insert(kept.end(), std::make_move_iterator(rows.begin()), std::make_move_iterator(rows.end()));
    }
  }

 private:
  void add(const ObservedRow& row) {
    const TensorInfo& output = tensor_of(sizes_->op, row.output);
    const std::int64_t heads = output.heads == Heads::query ? sizes_->attention.heads : sizes_->attention.kv_heads;
    RowFacts facts = verify::facts(*sizes_, output, row.place, heads);
    facts.dim = row.expected.size();
    facts.is_wrong = row.comparison.fault != RowFault::none;
    if (facts.is_wrong) facts.wrong_features = wrong_features(row);
    if (output.rows == RowsOf::queries) add_seen(row, facts);
    call_.kinds[row.output] = row.kind;
    call_.rows[row.output].push_back(std::move(facts));
  }

  /// What a query row sees. The judge says it of o, and lse follows it.
  void add_seen(const ObservedRow& row, RowFacts& facts) {
    const std::string branch = row.output.substr(0, row.output.rfind('.') + 1);
    if (row.covariance != nullptr && row.covariance->parts.empty()) {
      Seen& seen = seen_[{branch, row.place}];
      seen = {std::ssize(row.covariance->visible), 0};
      for (const reference::KeyRange& range : row.covariance->visible) seen.keys += range.end - range.begin;
    }
    if (const auto found = seen_.find({branch, row.place}); found != seen_.end()) {
      facts.seen_ranges = found->second.ranges;
      facts.seen_keys = found->second.keys;
    }
  }

  struct Seen {
    std::int64_t ranges = -1, keys = -1;
  };

  const Kernel& kernel_;
  WrongRows& all_;
  std::mutex mutex_;
  std::map<std::pair<std::string, Place>, Seen> seen_;  // by branch
  std::optional<Sizes> sizes_;
  WrongRows call_;
};

}  // namespace

WrongRows wrong_rows(const Kernel& kernel, const std::vector<Case>& cases, std::chrono::steady_clock::time_point end) {
  WrongRows all;
  for (const Case& c : cases) {
    all.took_too_long = std::chrono::steady_clock::now() > end;
    if (all.took_too_long) break;
    Watching(kernel, all).run(c);
  }
  return all;
}

}  // namespace attnspec::verify
