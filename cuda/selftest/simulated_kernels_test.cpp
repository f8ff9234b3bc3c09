// Kernels in the simulator where no case takes them: tensors of many gigabytes, a million tokens, and GPUs with less
// shared memory. The judge judges what they compute of small cases; a kernel in between puts the tensors of every call
// into memory of which only what is touched is there, and brings the results back.
#include <gtest/gtest.h>
#include <sys/mman.h>

#include <cstring>
#include <memory>
#include <stdexcept>
#include <utility>
#include <vector>

#include "cuda/simulator/grid.hpp"
#include "verify/judge/judge.hpp"
#include "verify/judge/report.hpp"
#include "verify/kernels.hpp"
#include "verify/operators/operator.hpp"

namespace attnspec::verify {
namespace {

/// Memory that is there when it is touched, and holds zeros until then.
class SparseMemory {
 public:
  explicit SparseMemory(std::int64_t bytes)
      : bytes_(static_cast<std::size_t>(bytes)),
        data_(mmap(nullptr, bytes_, PROT_READ | PROT_WRITE, MAP_PRIVATE | MAP_ANONYMOUS | MAP_NORESERVE, -1, 0)) {
    if (data_ == MAP_FAILED) throw std::runtime_error("no address space for a sparse tensor");
  }
  ~SparseMemory() { munmap(data_, bytes_); }
  SparseMemory(const SparseMemory&) = delete;
  SparseMemory& operator=(const SparseMemory&) = delete;

  void* data() const { return data_; }

 private:
  std::size_t bytes_;
  void* data_;
};

/// Where a kernel finds the tensors of a case.
struct Place {
  std::int64_t token_stride = 0, head_stride = 0;  // in elements; 0: as in a packed tensor
  std::int64_t sequence_before = 0;                // keys of a sequence without queries before all others
  std::int64_t keys_before = 0;  // keys before those of the first sequence, in blocks that nobody selects
};

/// The tensor of a call in its place: its rows come after `rows_before` others, which are zeros.
class PlacedTensor {
 public:
  PlacedTensor(const TensorView& given, std::int64_t rows_before, const Place& place)
      : given_(given), placed_(given), rows_before_(rows_before) {
    if (given.data == nullptr) return;
    placed_.tokens += rows_before;
    placed_.token_stride = place.token_stride > 0 ? place.token_stride : given.dim * given.heads;
    placed_.head_stride = place.token_stride > 0 ? place.head_stride : given.dim;
    memory_ = std::make_unique<SparseMemory>(
        (placed_.tokens * placed_.token_stride + placed_.heads * placed_.head_stride) * bytes_of(given.format));
    placed_.data = memory_->data();
  }

  const TensorView& view() const { return placed_; }
  void put() const { copy(given_, 0, placed_, rows_before_); }
  void take_back() const { copy(placed_, rows_before_, given_, 0); }
  /// Fills what lies before the rows with NaN.
  void spoil_before() const {
    if (given_.data == nullptr) return;
    std::memset(placed_.data, 0xff,
                static_cast<std::size_t>(rows_before_ * placed_.token_stride * bytes_of(placed_.format)));
  }

 private:
  static char* row(const TensorView& view, std::int64_t token, std::int64_t head) {
    return static_cast<char*>(view.data) +
           (token * view.token_stride + head * view.head_stride) * bytes_of(view.format);
  }
  void copy(const TensorView& from, std::int64_t from_row, const TensorView& to, std::int64_t to_row) const {
    if (given_.data == nullptr) return;
    for (std::int64_t t = 0; t < given_.tokens; ++t)
      for (std::int64_t h = 0; h < given_.heads; ++h)
        std::memcpy(row(to, to_row + t, h), row(from, from_row + t, h),
                    static_cast<std::size_t>(given_.dim * bytes_of(given_.format)));
  }

  TensorView given_, placed_;
  std::int64_t rows_before_;
  std::unique_ptr<SparseMemory> memory_;
};

/// The problem of a call in its place.
reference::MobaProblem placed_problem(reference::MobaProblem problem, const Place& place) {
  auto& attention = problem.attention;
  for (std::size_t s = 1; s < attention.k_offsets.size(); ++s) attention.k_offsets[s] += place.keys_before;
  if (place.sequence_before == 0) return problem;
  for (std::int64_t& offset : attention.k_offsets) offset += place.sequence_before;
  attention.k_offsets.insert(attention.k_offsets.begin(), 0);
  attention.q_offsets.insert(attention.q_offsets.begin(), 0);
  return problem;
}

Case placed_case(Case c, const Place& place) {
  c.lens.front() += place.keys_before;
  if (place.sequence_before == 0) return c;
  c.lens.insert(c.lens.begin(), place.sequence_before);
  c.q_lens.insert(c.q_lens.begin(), 0);
  return c;
}

/// A call in its place.
class PlacedCall {
 public:
  PlacedCall(const AnyCall& given, const Place& place)
      : given_(given),
        problem_(placed_problem(given.problem, place)),
        blocks_before_(static_cast<std::int32_t>(place.keys_before / given.problem.block)),
        keys_before_(place.sequence_before + place.keys_before),
        blocks_(static_cast<std::size_t>(size(given.selection))) {
    // Gradients of keys are written whole, so that they lie close together where there are many.
    const Place close = keys_before_ > 0 ? Place{} : place;
    for (std::size_t i = 0; i < given.tensors.size(); ++i) {
      const TensorInfo& tensor = infos()[i];
      const bool is_of_keys = tensor.rows == RowsOf::keys;
      tensors_.emplace_back(given.tensors[i], is_of_keys ? keys_before_ : 0,
                            is_of_keys && is_gradient(tensor) ? close : place);
      is_gradient(tensor) ? tensors_[i].spoil_before() : tensors_[i].put();
    }
    for_each_block([&](std::int32_t& here, const std::int32_t& given_block) {
      here = given_block + (given_block < 0 ? 0 : blocks_before_);
    });
  }

  AnyCall call() {
    AnyCall call = blank_call(given_.op, given_.is_backward, problem_, given_.nsa);
    for (std::size_t i = 0; i < tensors_.size(); ++i) call.tensors[i] = tensors_[i].view();
    const SelectionView& given = given_.selection;
    call.selection = packed_selection(blocks_.data(), given.tokens, given.heads, given.slots);
    call.workspace = given_.workspace;
    return call;
  }
  /// What the call wrote; and before gradients of keys, zeros.
  void take_back() {
    const Role written = given_.is_backward ? Role::gradient : Role::output;
    for (std::size_t i = 0; i < tensors_.size(); ++i) {
      if (infos()[i].role != written) continue;
      tensors_[i].take_back();
      if (is_gradient(infos()[i]) && infos()[i].rows == RowsOf::keys) expect_zeros(tensors_[i].view(), infos()[i].name);
    }
    if (given_.is_backward) return;
    for_each_block([&](const std::int32_t& here, std::int32_t& given_block) {
      given_block = here - (here < 0 ? 0 : blocks_before_);
    });
  }

 private:
  static std::int64_t size(const SelectionView& s) { return s.tokens * s.heads * s.slots; }
  const std::vector<TensorInfo>& infos() const { return page_of(given_.op).tensors; }
  /// visit(block here, block as it was given) for every slot.
  template <class Visit>
  void for_each_block(const Visit& visit) {
    const SelectionView& s = given_.selection;
    for (std::int64_t n = 0; n < size(s); ++n)
      visit(blocks_[static_cast<std::size_t>(n)], s.row(n / (s.heads * s.slots), n / s.slots % s.heads)[n % s.slots]);
  }
  void expect_zeros(const TensorView& view, const std::string& name) const {
    for (std::int64_t t = 0; t < keys_before_; ++t)
      for (std::int64_t h = 0; h < view.heads; ++h)
        for (std::int64_t d = 0; d < view.dim; ++d) ASSERT_EQ(view.load(t, h, d), 0) << name << ", token " << t;
  }

  const AnyCall& given_;
  reference::MobaProblem problem_;
  std::int32_t blocks_before_;
  std::int64_t keys_before_;
  std::vector<PlacedTensor> tensors_;
  std::vector<std::int32_t> blocks_;
};

/// A kernel whose calls take place elsewhere.
Kernel placed(Kernel kernel, const Place& place) {
  kernel.workspace_bytes = [bytes = kernel.workspace_bytes, place](const Case& c) {
    return bytes(placed_case(c, place));
  };
  kernel.call = [do_call = kernel.call, place](const AnyCall& given) {
    PlacedCall call(given, place);
    do_call(call.call());
    call.take_back();
  };
  return kernel;
}

void expect_pass(const Kernel& kernel, const char* text) {
  const CaseResult result = judge(kernel, parse_case(text));
  EXPECT_EQ(result.verdict, Verdict::pass) << details(result);
}

/// From its 32nd token on, and in its second head, a tensor is beyond 2^32 elements.
constexpr Place kFarApart{.token_stride = (std::int64_t{1} << 27) + 8, .head_stride = (std::int64_t{1} << 33) + 64};

/// A million keys, the second half of them beyond 2^32 elements.
constexpr std::int64_t kMillion = 1 << 20;
constexpr Place kAfterASequence{.token_stride = 8208, .head_stride = 4096, .sequence_before = kMillion};
constexpr Place kAfterBlocks{.token_stride = 8208, .head_stride = 4096, .keys_before = kMillion};

TEST(SparseMemory, DenseAttentionHasElementsFarApart) {
  expect_pass(placed(find_kernel("sim:baseline"), kFarApart), "dense(lens=20+23,heads=2,dk=16)");
}

TEST(SparseMemory, TilesOfQueriesHaveElementsFarApart) {
  for (const char* text : {"dense(lens=20+23,heads=2,dk=16)", "window(lens=40,heads=4,kv_heads=2,dk=16,window=9)",
                           "nsa_compressed(lens=90,q_lens=40,heads=4,kv_heads=2,dk=16,block=4,compress_block=4,"
                           "compress_stride=2,top_n=5)"})
    for (const char* kernel : {"sim:query_tiles", "sim:warpgroup_tiles"})
      expect_pass(placed(find_kernel(kernel), kFarApart), text);
}

TEST(SparseMemory, AttentionToGivenBlocksHasElementsFarApart) {
  for (const char* kernel : {"sim:baseline", "sim:gathered_queries", "sim:gathered_queries_atomic"})
    expect_pass(placed(find_kernel(kernel), kFarApart),
                "selected(lens=20+36,q_lens=20+30,heads=2,dk=32,dv=16,block=16,top_k=2)");
  for (const char* kernel : {"sim:token_tiles", "sim:split_keys"})
    for (const char* text :
         {"selected(lens=20+36,q_lens=20+30,heads=24,kv_heads=2,dk=32,dv=16,block=16,top_k=2,selection=kv_head)",
          "selected(lens=20+36,q_lens=20+30,heads=16,kv_heads=2,dk=32,dv=16,block=16,top_k=2,selection=kv_head)"})
      expect_pass(placed(find_kernel(kernel), kFarApart), text);
}

TEST(SparseMemory, MobaHasElementsFarApart) {
  for (const char* kernel : {"sim:baseline", "sim:gathered_queries", "sim:gathered_queries_atomic", "sim:split_keys"})
    expect_pass(placed(find_kernel(kernel), kFarApart), "moba(lens=20+36,heads=2,dk=16,block=16,top_k=2)");
}

TEST(SparseMemory, MobaSelectHasElementsFarApart) {
  for (const char* kernel : {"sim:baseline", "sim:gathered_queries"})
    expect_pass(placed(find_kernel(kernel), kFarApart), "moba_select(lens=50,heads=2,dk=16,block=8,top_k=3)");
}

TEST(AMillionTokens, DenseAttentionComesAfterThem) {
  for (const char* kernel : {"sim:baseline", "sim:query_tiles", "sim:warpgroup_tiles"})
    expect_pass(placed(find_kernel(kernel), kAfterASequence), "dense(lens=20+3,q_lens=4+3,heads=2,dk=8)");
}

TEST(AMillionTokens, AttentionToTheLastBlocksOfThem) {
  for (const auto& [name, text] :
       {std::pair{"sim:gathered_queries", "selected(lens=300,q_lens=40,dk=16,block=128,top_k=2)"},
        std::pair{"sim:token_tiles",
                  "selected(lens=300,q_lens=10,heads=8,kv_heads=1,dk=16,block=128,top_k=2,selection=kv_head)"},
        std::pair{"sim:split_keys", "selected(lens=300,q_lens=2,dk=16,block=128,top_k=3)"}}) {
    Kernel kernel = placed(find_kernel(name), kAfterBlocks);
    kernel.forward_only = kernel.operators;  // as MobaIsTheEndOfThem has it
    expect_pass(kernel, text);
  }
}

TEST(AMillionTokens, MobaComesAfterThem) {
  for (const char* name : {"sim:gathered_queries", "sim:split_keys"}) {
    Kernel kernel = placed(find_kernel(name), kAfterASequence);
    kernel.forward_only = kernel.operators;
    expect_pass(kernel, "moba(lens=270+3,q_lens=20+3,dk=16,block=128,top_k=2)");
  }
}

TEST(AMillionTokens, FewQueriesOfMobaAreTheEndOfThem) {
  Kernel kernel = placed(find_kernel("sim:split_keys"), kAfterBlocks);
  kernel.forward_only = kernel.operators;
  expect_pass(kernel, "moba(lens=400,q_lens=2,dk=16,block=128,top_k=2,gate=window)");
}

/// The judge runs a backward twice and compares the bits: the first is the one among a million tokens.
TEST(AMillionTokens, MobaIsTheEndOfThem) {
  const Kernel plain = find_kernel("sim:gathered_queries");
  Kernel kernel = placed(plain, kAfterBlocks);
  kernel.call = [first = kernel.call, second = plain.call, runs = 0](const AnyCall& call) mutable {
    (call.is_backward && runs++ > 0 ? second : first)(call);
  };
  expect_pass(kernel, "moba(lens=400,q_lens=20,dk=16,block=128,top_k=2,gate=window)");
}

/// Query t points along feature t % 8, and three blocks of keys do, the later the farther: it must select them.
TEST(AMillionTokens, BlocksAreFoundAmongThem) {
  constexpr std::int64_t kBlock = 128, kFeatures = 8, kQueries = 24;
  const Case c = parse_case("moba_select(lens=1048576,q_lens=24,dk=8,block=128,top_k=4)");
  const auto planted = [](std::int64_t feature, std::int64_t nearness) { return 4000 * nearness + 20 * feature; };
  const reference::MobaProblem problem = problem_of(c);
  const reference::NsaProblem nsa = nsa_problem_of(c);
  TensorView q{nullptr, Format::bf16, kQueries, 1, kFeatures}, k{nullptr, Format::bf16, kMillion, 1, kFeatures};
  const SparseMemory q_memory(kQueries * kAfterBlocks.token_stride * 2),
      k_memory(kMillion * kAfterBlocks.token_stride * 2);
  q.data = q_memory.data(), k.data = k_memory.data();
  q.token_stride = k.token_stride = kAfterBlocks.token_stride;
  for (std::int64_t t = 0; t < kQueries; ++t) q.store(t, 0, t % kFeatures, 1);
  for (std::int64_t feature = 0; feature < kFeatures; ++feature)
    for (std::int64_t nearness = 0; nearness < 3; ++nearness)
      for (std::int64_t key = 0; key < kBlock; ++key)
        k.store(planted(feature, nearness) * kBlock + key, 0, feature, static_cast<double>(nearness + 1));
  for (const char* name : {"sim:baseline", "sim:gathered_queries"}) {
    const Kernel kernel = find_kernel(name);
    std::vector<std::byte> workspace(static_cast<std::size_t>(kernel.workspace_bytes(c)));
    std::vector<std::int32_t> selected(kQueries * 4);
    AnyCall call = blank_call(c.op, false, problem, nsa);
    call["q"] = q, call["k"] = k;
    call.selection = packed_selection(selected.data(), kQueries, 1, 4);
    call.workspace = workspace;
    kernel.call(call);
    for (std::int64_t t = 0; t < kQueries; ++t) {
      const auto* row = selected.data() + 4 * t;
      EXPECT_EQ(row[0], kMillion / kBlock - 1) << name;
      for (std::int64_t nearness = 0; nearness < 3; ++nearness)
        EXPECT_EQ(row[3 - nearness], planted(t % kFeatures, nearness)) << name << ", query " << t;
    }
  }
}

/// Of compute capability 8.6 and 8.9.
TEST(SharedMemory, TilesFitInTheLittleOfSomeGpus) {
  const cuda::simulator::SharedMemoryLimit limit(99 * 1024);
  for (const char* text : {"moba(lens=140,dk=64,block=128,top_k=2)", "moba(lens=140,dk=128,block=128,top_k=2)",
                           "moba(lens=70,dk=192,dv=128,block=32,top_k=2)", "moba(lens=70,dk=256,block=32,top_k=2)"})
    expect_pass(find_kernel("sim:gathered_queries"), text);
  for (const char* text :
       {"dense(lens=70,dk=64)", "dense(lens=70,dk=128)", "dense(lens=70,dk=192,dv=128)", "dense(lens=70,dk=256)",
        "nsa_compressed(lens=90,heads=2,kv_heads=1,dk=256,top_n=64,block=2,compress_block=2,compress_stride=2)"})
    for (const char* kernel : {"sim:query_tiles", "sim:warpgroup_tiles"}) expect_pass(find_kernel(kernel), text);
  for (const char* text : {"dense(lens=70,q_lens=2,dk=128)", "dense(lens=70,q_lens=2,dk=256)"})
    expect_pass(find_kernel("sim:split_keys"), text);
  for (const char* text :
       {"selected(lens=70,heads=16,kv_heads=1,dk=128,block=64,top_k=2,selection=kv_head)",
        "selected(lens=70,heads=16,kv_heads=1,dk=256,block=64,top_k=2,selection=kv_head)",
        "selected(lens=70+9,heads=40,kv_heads=2,dk=96,dv=72,block=20,top_k=2,selection=kv_head)",
        "selected(lens=140,q_lens=132,heads=64,kv_heads=1,dk=16,block=130,top_k=1,selection=kv_head)"})
    expect_pass(find_kernel("sim:token_tiles"), text);
  for (const char* text : {"nsa_compress(lens=70,dk=128,phi=linear)", "nsa_compress(lens=70,dk=128,phi=mlp,hidden=8)"})
    expect_pass(find_kernel("sim:nsa_tiles"), text);
}

}  // namespace
}  // namespace attnspec::verify
