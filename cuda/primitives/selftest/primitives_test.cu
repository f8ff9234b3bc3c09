// What the primitives do: on the GPU where nvcc compiles this, and else in the simulator.
#include <gtest/gtest.h>

#include <algorithm>
#include <array>
#include <bit>
#include <cmath>
#include <cstdint>
#include <random>
#include <type_traits>
#include <vector>

#include "cuda/primitives/atomic.cuh"
#include "cuda/primitives/launch.cuh"
#include "cuda/primitives/memory.cuh"
#include "cuda/primitives/numbers.cuh"
#include "cuda/primitives/selftest/device_array.cuh"
#include "cuda/primitives/thread.cuh"
#include "cuda/primitives/warp.cuh"

namespace attnspec::cuda {

namespace {

/// What a kernel of (int* out) with one warp leaves, [lane].
std::vector<int> run_warp(void (*kernel)(int*)) {
  DeviceArray<int> out{std::vector<int>(kWarpLanes, -1)};
  launch(kernel, {{}, {kWarpLanes}}, nullptr, out.data());
  return out.values();
}

/// `value` of every lane.
template <class Value>
std::vector<int> of_lanes(const Value& value) {
  std::vector<int> result(kWarpLanes);
  for (int lane = 0; lane < kWarpLanes; ++lane) result[static_cast<std::size_t>(lane)] = value(lane);
  return result;
}

__global__ void write_indices(int* out) {
  const Index3 thread = thread_index(), block = block_index();
  const Dim3 size = block_size(), grid = grid_size();
  const int threads = size.x * size.y * size.z, block_number = block.x + grid.x * (block.y + grid.y * block.z);
  out[block_number * threads + thread_number()] =
      thread.x + 10 * thread.y + 100 * thread.z + 1000 * block.x + 10000 * block.y + 100000 * block.z;
}

TEST(Thread, IndicesCountAlongXFirst) {
  DeviceArray<int> out{std::vector<int>(2 * 3 * 2 * 5 * 4 * 3)};
  launch(write_indices, {{2, 3, 2}, {5, 4, 3}}, nullptr, out.data());
  std::vector<int> expected;
  for (int bz = 0; bz < 2; ++bz)
    for (int by = 0; by < 3; ++by)
      for (int bx = 0; bx < 2; ++bx)
        for (int z = 0; z < 3; ++z)
          for (int y = 0; y < 4; ++y)
            for (int x = 0; x < 5; ++x) expected.push_back(x + 10 * y + 100 * z + 1000 * bx + 10000 * by + 100000 * bz);
  EXPECT_EQ(out.values(), expected);
}

__global__ void shuffle_from_lane(int* out) { out[lane_index()] = shuffle(lane_index(), 31 - lane_index()); }
__global__ void shuffle_from_below(int* out) { out[lane_index()] = shuffle_up(lane_index(), 3); }
__global__ void shuffle_from_above(int* out) { out[lane_index()] = shuffle_down(lane_index(), 3); }
__global__ void shuffle_flipped(int* out) { out[lane_index()] = shuffle_xor(lane_index(), 5); }
__global__ void shuffle_double(int* out) {
  out[lane_index()] = static_cast<int>(0x1p-30 * shuffle(0x1p30 * lane_index() + 1, 7) * 0x1p20);
}

TEST(Warp, ShufflesReadTheLaneThatTheyName) {
  EXPECT_EQ(run_warp(shuffle_from_lane), of_lanes([](int lane) { return 31 - lane; }));
  EXPECT_EQ(run_warp(shuffle_from_below), of_lanes([](int lane) { return lane < 3 ? lane : lane - 3; }));
  EXPECT_EQ(run_warp(shuffle_from_above), of_lanes([](int lane) { return lane > 28 ? lane : lane + 3; }));
  EXPECT_EQ(run_warp(shuffle_flipped), of_lanes([](int lane) { return lane ^ 5; }));
  EXPECT_EQ(run_warp(shuffle_double), of_lanes([](int) { return 7 << 20; }));
}

__global__ void vote(int* out) {
  const int lane = lane_index();
  out[lane] = static_cast<int>(ballot(lane % 3 == 0));
  if (any(lane == 40) || !any(lane == 4) || all(lane != 9) || !all(lane < 32)) out[lane] = -1;
}
__global__ void vote_in_halves(int* out) {
  const int lane = lane_index();
  out[lane] = static_cast<int>(ballot(lane % 2 == 0, lane < 16 ? 0x0000ffffu : 0xffff0000u));
}

TEST(Warp, VotesCountTheLanesOfTheMask) {
  EXPECT_EQ(run_warp(vote), of_lanes([](int) { return 0x49249249; }));
  EXPECT_EQ(run_warp(vote_in_halves), of_lanes([](int lane) { return lane < 16 ? 0x5555 : 0x55550000; }));
}

__global__ void reduce(int* out) {
  const int lane = lane_index();
  out[lane] = sum_lanes(lane) * 1000 + sum_lanes<4>(lane) + max_lanes<8>(lane) * 1000000;
}

TEST(Warp, ReductionsGoOverGroupsOfLanes) {
  EXPECT_EQ(run_warp(reduce),
            of_lanes([](int lane) { return 496 * 1000 + 4 * (lane / 4 * 4) + 6 + (lane / 8 * 8 + 7) * 1000000; }));
}

struct Counters {
  int count, largest;
  unsigned long long wide;
  float sum;
};

__global__ void count(Counters* total, int* order) {
  auto& block = static_shared<Counters>();
  const int t = thread_number();
  if (t == 0) block = {0, -1, 0, 0};
  sync_threads();
  atomic_add(&block.count, 1);
  atomic_max(&block.largest, t);
  atomic_add(&block.sum, 0.5f);
  sync_threads();
  if (t == 0) {
    order[atomic_add(&total->count, 1)] = block_index().x;
    atomic_max(&total->largest, block.largest);
    atomic_add(&total->wide, (1ull << 33) + static_cast<unsigned>(block.count));
    atomic_add(&total->sum, block.sum);
  }
}

__global__ void count_pairs(float* pairs) { atomic_add_pair(pairs + thread_number() % 2 * 2, 1, 0.5f); }

TEST(Atomic, PairsAreAddedUp) {
  DeviceArray<float> pairs{std::vector<float>(4, 1)};
  launch(count_pairs, {{20}, {96}}, nullptr, pairs.data());
  EXPECT_EQ(pairs.values(), (std::vector<float>{961, 481, 961, 481}));
}

TEST(Atomic, SumsAndMaximaAreExact) {
  constexpr int kBlocks = 20, kThreads = 96;
  DeviceArray<Counters> total{std::vector<Counters>(1, {0, 0, 0, 0})};
  DeviceArray<int> order{std::vector<int>(kBlocks, -1)};
  launch(count, {{kBlocks}, {kThreads}}, nullptr, total.data(), order.data());
  const Counters result = total.values()[0];
  EXPECT_EQ(result.count, kBlocks);
  EXPECT_EQ(result.largest, kThreads - 1);
  EXPECT_EQ(result.wide, kBlocks * ((1ull << 33) + kThreads));
  EXPECT_EQ(result.sum, kBlocks * kThreads / 2);
  std::vector<int> blocks = order.values();
  std::sort(blocks.begin(), blocks.end());
  for (int block = 0; block < kBlocks; ++block) EXPECT_EQ(blocks[static_cast<std::size_t>(block)], block);
}

__global__ void exchange(int* out) {
  if (lane_index() != 0) return;
  out[0] = 5;
  out[1] = atomic_exchange(&out[0], 6);
  out[2] = atomic_compare_exchange(&out[0], 7, 8);
  out[3] = atomic_compare_exchange(&out[0], 6, 9);
}

TEST(Atomic, ExchangesReturnWhatWasThere) {
  const std::vector<int> out = run_warp(exchange);
  EXPECT_EQ(std::vector<int>(out.begin(), out.begin() + 4), (std::vector<int>{9, 5, 6, 6}));
}

__global__ void find_bits(int* out) {
  const std::uint32_t x = lane_index() == 0 ? 0 : 5u << (lane_index() % 29);
  out[lane_index()] = count_bits(x) + 100 * lowest_bit(x) + 10000 * highest_bit(x);
}

TEST(Numbers, BitsAreCountedAndFound) {
  EXPECT_EQ(run_warp(find_bits),
            of_lanes([](int lane) { return lane == 0 ? -10100 : 2 + 100 * (lane % 29) + 10000 * (lane % 29 + 2); }));
}

struct Converted {
  std::uint32_t bf16_pair, fp16_pair;
  bf16 as_bf16;
  fp16 as_fp16;
  float from_bf16, from_fp16;
};

__global__ void convert(Converted* out, const float* x, int count) {
  const int n = block_index().x * block_size().x + thread_index().x;
  if (n >= count) return;
  out[n] = {pack<bf16>(x[n], -x[n]), pack<fp16>(x[n], -x[n]),          from_float<bf16>(x[n]),
            from_float<fp16>(x[n]),  to_float(from_float<bf16>(x[n])), to_float(from_float<fp16>(x[n]))};
}

/// x rounded to nearest, ties to even, with `digits` binary digits, above 2^lowest and below 2^highest.
double rounded(double x, int digits, int lowest, int highest) {
  if (x == 0 || !std::isfinite(x)) return x;
  const int exponent = std::max(std::ilogb(x), lowest);
  const double spacing = std::ldexp(1, exponent - digits + 1), result = std::nearbyint(x / spacing) * spacing;
  return std::fabs(result) < std::ldexp(1, highest) ? result : std::copysign(INFINITY, x);
}

TEST(Numbers, ConversionsRoundToNearestEven) {
  std::vector<float> x = {0.f,          -0.f,         1.f,       65504.f,   65519.9f,   65520.f,
                          3.39e38f,     INFINITY,     -INFINITY, 0x1p-24f,  0x1p-25f,   0x1.8p-25f,
                          0x1.fffp-15f, 0x1.ff8p-15f, 0x1p-133f, 0x1p-134f, 1.00390625f};
  std::mt19937 random(1);
  for (int n = 0; n < 20000; ++n) x.push_back(std::bit_cast<float>(static_cast<std::uint32_t>(random())));
  for (std::uint32_t n = 0; n < 20000; ++n)  // around ties of both formats
    x.push_back(std::bit_cast<float>(((n % 4 < 2 ? 0x3f800000u : 0x33000000u) + (n << 12) + n % 3) - 1));
  const int count = static_cast<int>(x.size());
  DeviceArray<float> in(x);
  DeviceArray<Converted> out{std::vector<Converted>(x.size())};
  launch(convert, {{count / 128 + 1}, {128}}, nullptr, out.data(), in.data(), count);
  const std::vector<Converted> results = out.values();
  for (std::size_t n = 0; n < x.size(); ++n) {
    const Converted& result = results[n];
    if (std::isnan(x[n])) {
      EXPECT_EQ(result.as_bf16.bits, 0x7fff);
      EXPECT_EQ(result.as_fp16.bits, 0x7fff);
      EXPECT_TRUE(std::isnan(result.from_bf16) && std::isnan(result.from_fp16));
      continue;
    }
    ASSERT_EQ(result.from_bf16, rounded(x[n], 8, -126, 128)) << std::hexfloat << x[n];
    ASSERT_EQ(result.from_fp16, rounded(x[n], 11, -14, 16)) << std::hexfloat << x[n];
    ASSERT_EQ(std::signbit(result.from_fp16), std::signbit(x[n]));
    ASSERT_EQ(result.bf16_pair, result.as_bf16.bits | (result.as_bf16.bits ^ 0x8000u) << 16);
    ASSERT_EQ(result.fp16_pair, result.as_fp16.bits | (result.as_fp16.bits ^ 0x8000u) << 16);
  }
}

struct Added {
  std::uint32_t bf16_pair, fp16_pair;
};

__global__ void add(Added* out, const std::uint32_t* pairs, int count) {
  const int n = block_index().x * block_size().x + thread_index().x;
  if (n < count)
    out[n] = {add_pairs<bf16>(pairs[2 * n], pairs[2 * n + 1]), add_pairs<fp16>(pairs[2 * n], pairs[2 * n + 1])};
}

/// The numbers of a register, whose halves are in T, on the host.
template <class T>
std::array<double, 2> numbers_of(std::uint32_t pair) {
  const auto number = [](std::uint32_t bits) {
    constexpr bool is_bf16 = std::is_same_v<T, bf16>;
    const int fraction = is_bf16 ? 7 : 10, exponent_bits = 15 - fraction, bias = (1 << (exponent_bits - 1)) - 1;
    const int exponent = static_cast<int>(bits >> fraction) & ((1 << exponent_bits) - 1);
    const double mantissa = bits & ((1u << fraction) - 1), one = 1 << fraction;
    const double sign = bits >> 15 == 0 ? 1 : -1;
    if (exponent == (1 << exponent_bits) - 1) return mantissa == 0 ? sign * INFINITY : NAN;
    return sign * std::ldexp(exponent == 0 ? mantissa : mantissa + one, std::max(exponent, 1) - bias - fraction);
  };
  return {number(pair & 0xffff), number(pair >> 16)};
}

template <class T>
void expect_sum(std::uint32_t a, std::uint32_t b, std::uint32_t sum, int digits, int lowest, int highest) {
  for (std::size_t half = 0; half < 2; ++half) {
    const double exact = numbers_of<T>(a)[half] + numbers_of<T>(b)[half];
    const double expected = rounded(exact, digits, lowest, highest), is = numbers_of<T>(sum)[half];
    ASSERT_TRUE(is == expected || (std::isnan(is) && std::isnan(expected))) << std::hex << a << " + " << b;
  }
}

/// Of numbers close together and far apart. In double their sum is exact, or so far from the larger one that it rounds
/// to it.
TEST(Numbers, PairsAreAddedAndRoundedOnce) {
  std::mt19937 random(1);
  std::vector<std::uint32_t> pairs;
  for (int n = 0; n < 40000; ++n) {
    const auto a = static_cast<std::uint32_t>(random()), b = static_cast<std::uint32_t>(random());
    pairs.push_back(a);
    pairs.push_back(n % 2 == 0 ? b : a ^ (b & 0x8fff8fff));
  }
  const int count = static_cast<int>(pairs.size() / 2);
  DeviceArray<std::uint32_t> in(pairs);
  DeviceArray<Added> out{std::vector<Added>(pairs.size() / 2)};
  launch(add, {{count / 128 + 1}, {128}}, nullptr, out.data(), in.data(), count);
  const std::vector<Added> sums = out.values();
  for (std::size_t n = 0; n < sums.size(); ++n) {
    expect_sum<bf16>(pairs[2 * n], pairs[2 * n + 1], sums[n].bf16_pair, 8, -126, 128);
    expect_sum<fp16>(pairs[2 * n], pairs[2 * n + 1], sums[n].fp16_pair, 11, -14, 16);
  }
}

__global__ void approximate(float* out, const float* x, int count) {
  const int n = block_index().x * block_size().x + thread_index().x;
  if (n >= count) return;
  out[3 * n] = exp2_approx(x[n]);
  out[3 * n + 1] = log2_approx(x[n]);
  out[3 * n + 2] = reciprocal_approx(x[n]);
}

TEST(Numbers, FastFunctionsAreWithinTheDocumentedErrors) {
  std::vector<float> x = {0.f, INFINITY, -INFINITY, -127.f, 0x1p-140f};
  for (int n = 1; n < 4000; ++n) x.push_back(static_cast<float>(n) * 0.031f);
  const int count = static_cast<int>(x.size());
  DeviceArray<float> in(x), out{std::vector<float>(3 * x.size())};
  launch(approximate, {{count / 128 + 1}, {128}}, nullptr, out.data(), in.data(), count);
  const std::vector<float> y = out.values();
  const std::vector<float> special(y.begin(), y.begin() + 15);
  EXPECT_EQ(special[0], 1);
  EXPECT_EQ(special[1], -INFINITY);
  EXPECT_EQ(special[2], INFINITY);
  EXPECT_EQ(special[3], INFINITY);
  EXPECT_EQ(special[4], INFINITY);
  EXPECT_EQ(special[5], 0);
  EXPECT_EQ(special[6], 0);
  EXPECT_TRUE(std::isnan(special[7]));
  EXPECT_EQ(special[9], 0);
  EXPECT_EQ(special[12], 1);
  EXPECT_EQ(special[13], -INFINITY);
  EXPECT_EQ(special[14], INFINITY);
  for (std::size_t n = 5; n < x.size(); ++n) {
    const double exact = std::exp2(static_cast<double>(x[n])), logarithm = std::log2(static_cast<double>(x[n]));
    EXPECT_NEAR(y[3 * n] / exact, 1, 0x1p-22) << x[n];
    EXPECT_NEAR(y[3 * n + 1], logarithm, 0x1p-21 * std::max(1., std::fabs(logarithm))) << x[n];
    EXPECT_NEAR(y[3 * n + 2] * static_cast<double>(x[n]), 1, 0x1p-22) << x[n];
  }
}

__global__ void copy_in_stages(std::uint32_t* out, const std::uint32_t* in) {
  auto* const stage = dynamic_shared<Words4>();
  const int t = thread_index().x, threads = block_size().x;
  for (int group = 0; group < 3; ++group) {
    const int n = group * threads + t;
    auto* const to = reinterpret_cast<std::uint32_t*>(&stage[n]);
    if (group == 0) cp_async<16>(to, in + 4 * n, 12);
    if (group == 1) cp_async<8>(to, in + 4 * n), cp_async<8>(to + 2, in + 4 * n + 2, 0);
    if (group == 2)
      for (int part = 0; part < 4; ++part) cp_async<4>(to + part, in + 4 * n + part);
    if (group < 2) cp_async_commit();
  }
  cp_async_wait<1>();
  store_128(out + 4 * t, stage[t]);
  cp_async_wait_all();
  sync_threads();
  const int other = threads - 1 - t;
  for (int group = 1; group < 3; ++group)
    store_128(out + 4 * (group * threads + t), load_128(&stage[group * threads + other]));
  out[4 * t + 3] += load_constant(in) + load_128_constant(in).words[1];
}

TEST(AsyncCopy, GroupsArriveInOrderAndTailsAreZero) {
  constexpr std::uint32_t kThreads = 64;
  std::vector<std::uint32_t> x(3 * kThreads * 4);
  for (std::uint32_t n = 0; n < x.size(); ++n) x[n] = n + 100;
  DeviceArray<std::uint32_t> in(x), out{std::vector<std::uint32_t>(x.size())};
  launch(copy_in_stages, {{}, {kThreads}, 3 * kThreads * sizeof(Words4)}, nullptr, out.data(), in.data());
  std::vector<std::uint32_t> expected(x.size());
  for (std::uint32_t t = 0; t < kThreads; ++t)
    for (std::uint32_t part = 0; part < 4; ++part) {
      const std::uint32_t other = kThreads - 1 - t;
      expected[4 * t + part] = part < 3 ? x[4 * t + part] : x[0] + x[1];
      expected[4 * (kThreads + t) + part] = part < 2 ? x[4 * (kThreads + other) + part] : 0;
      expected[4 * (2 * kThreads + t) + part] = x[4 * (2 * kThreads + other) + part];
    }
  EXPECT_EQ(out.values(), expected);
}

}  // namespace

}  // namespace attnspec::cuda
