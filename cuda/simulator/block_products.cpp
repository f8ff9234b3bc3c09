// Products of warpgroups. Each warp computes its own 16 rows when it asks for them, and its lanes get the sums at the
// wait; until then they find NaN. What a product reads is checked at both ends.
#include <algorithm>
#include <cmath>
#include <cstring>

#include "cuda/simulator/block.hpp"
#include "cuda/simulator/device.hpp"
#include "cuda/simulator/formats.hpp"

namespace attnspec::cuda::simulator {

namespace {

constexpr int kGroupWarps = 4, kRows = 16, kDepth = 16;
constexpr std::uintptr_t kAtomBytes = 1024, kRowBytes = 128, kChunkBytes = 16;

/// The chunk that lies at an address before its row's chunks are permuted.
std::uintptr_t permuted(std::uintptr_t address) { return address ^ (address / kRowBytes % 8 * kChunkBytes); }

/// Chunk `chunk` of row `row`, from a matrix's first element on.
std::uintptr_t chunk_at(const Swizzled& matrix, int row, int chunk) {
  const std::uintptr_t panel = static_cast<std::uintptr_t>(matrix.panel_bytes);
  return permuted(reinterpret_cast<std::uintptr_t>(matrix.first) + static_cast<std::uintptr_t>(row) * kRowBytes +
                  static_cast<std::uintptr_t>(chunk / 8) * panel +
                  static_cast<std::uintptr_t>(chunk % 8) * kChunkBytes);
}

/// Where the element in row i and column j of a fragment is that lane 4 g + t holds as its number n.
int fragment_row(int lane, int number) { return lane / 4 + number / 2 % 2 * 8; }
int fragment_column(int lane, int number) { return lane % 4 * 2 + number % 2; }

}  // namespace

Block::Accumulation& Block::accumulation(Warp& warp, const Collective::Lanes& lanes) {
  const auto& first = lanes.at<const Product>(0);
  for (Accumulation& known : warp.accumulations)
    if (known.sums[0] == first.sums) return known;
  Accumulation& made = warp.accumulations.emplace_back();
  made.columns = first.columns;
  made.rows.resize(static_cast<std::size_t>(kRows * first.columns));
  for (int lane = 0; lane < kWarpLanes; ++lane) {
    float* const sums = made.sums[static_cast<std::size_t>(lane)] = lanes.at<const Product>(lane).sums;
    for (int n = 0; n < first.columns / 2; ++n) {
      const int row = fragment_row(lane, n), column = n / 4 * 8 + fragment_column(lane, n);
      made.rows[static_cast<std::size_t>(row * first.columns + column)] = sums[n];
      sums[n] = NAN;
    }
  }
  return made;
}

void Block::read_for_product(const Chunk& chunk) {
  access_shared(chunk.thread, AccessKind::read, chunk.address, kChunkBytes, kChunkBytes);
  const SharedMemory::Writer writer = shared_.writer(chunk.address);
  if (writer.time > at(writer.thread).fenced)
    report(FaultKind::unfenced, chunk.thread, [&] {
      return "shared memory: a product reads what thread " + to_string(index_of(writer.thread)) +
             " has written since its last fence_async_proxy";
    });
}

void Block::multiply(const Collective::Lanes& lanes) {
  const int first_thread = lanes.first_thread, warp_number = first_thread / kWarpLanes;
  if ((warp_number / kGroupWarps + 1) * kGroupWarps * kWarpLanes > num_threads_)
    report(FaultKind::divergent_barrier, thread(), [] { return std::string("the warpgroup is not complete"); });
  Warp& warp = warp_of(first_thread);
  if (!warp.is_fenced)
    report(FaultKind::unfenced, thread(),
           [] { return std::string("a product without wgmma_fence since the last wait"); });
  const auto& product = lanes.at<const Product>(0);
  const auto decode = product.is_bf16 ? float_of_bf16 : float_of_fp16;
  Accumulation& to = accumulation(warp, lanes);
  to.group = warp.groups;
  if (!product.adds) std::fill(to.rows.begin(), to.rows.end(), 0.f);

  const auto read = [&](const Swizzled& matrix, int row, int chunk, float(&numbers)[8]) {
    const Chunk mine{first_thread + row % kWarpLanes, chunk_at(matrix, row, chunk)};
    read_for_product(mine);
    to.chunks.push_back(mine);
    std::uint16_t bits[8];
    std::memcpy(bits, reinterpret_cast<const void*>(mine.address), sizeof bits);
    std::transform(bits, bits + 8, numbers, decode);
  };
  const auto require_atoms = [&](const Swizzled& matrix, std::uintptr_t chunks) {
    const auto first = reinterpret_cast<std::uintptr_t>(matrix.first);
    if (first % kAtomBytes + chunks * kChunkBytes > kRowBytes ||
        static_cast<std::uintptr_t>(matrix.panel_bytes) % kAtomBytes != 0)
      report(FaultKind::misaligned, thread(), [] {
        return std::string("a swizzled matrix that does not begin in the first row of 8 at a multiple of 1024 bytes");
      });
  };

  float a[kRows][kDepth], numbers[8];
  if (product.a != nullptr) {
    for (int lane = 0; lane < kWarpLanes; ++lane)
      for (int n = 0; n < 8; ++n) {
        const std::uint32_t pair = lanes.at<const Product>(lane).a[n / 2];
        a[fragment_row(lane, n)][n / 4 * 8 + fragment_column(lane, n)] =
            decode(static_cast<std::uint16_t>(n % 2 == 0 ? pair : pair >> 16));
      }
  } else {
    require_atoms(product.a_shared, 2);
    for (int row = 0; row < kRows; ++row)
      for (int chunk = 0; chunk < 2; ++chunk) {
        read(product.a_shared, warp_number % kGroupWarps * kRows + row, chunk, numbers);
        std::copy(numbers, numbers + 8, a[row] + 8 * chunk);
      }
  }

  const auto columns = static_cast<std::size_t>(product.columns);
  std::vector<float> b(kDepth * columns);
  require_atoms(product.b, product.b_as_it_is ? 8 : 2);
  for (int row = 0; row < (product.b_as_it_is ? kDepth : product.columns); ++row)
    for (int chunk = 0; chunk < (product.b_as_it_is ? product.columns : kDepth) / 8; ++chunk) {
      read(product.b, row, chunk, numbers);
      for (std::size_t n = 0; n < 8; ++n) {
        const auto across = static_cast<std::size_t>(chunk) * 8 + n, down = static_cast<std::size_t>(row);
        b[product.b_as_it_is ? down * columns + across : across * columns + down] = numbers[n];
      }
    }

  for (std::size_t row = 0; row < kRows; ++row)
    for (std::size_t k = 0; k < kDepth; ++k)
      for (std::size_t column = 0; column < columns; ++column)
        to.rows[row * columns + column] += a[row][k] * b[k * columns + column];
}

void Block::wait_for_products(const Collective::Lanes& lanes, int groups_left) {
  Warp& warp = warp_of(lanes.first_thread);
  warp.is_fenced = false;
  const auto is_done = [&](const Accumulation& sums) { return sums.group < warp.groups - groups_left; };
  for (const Accumulation& done : warp.accumulations) {
    if (!is_done(done)) continue;
    for (const Chunk& chunk : done.chunks) read_for_product(chunk);
    for (int lane = 0; lane < kWarpLanes; ++lane)
      for (int n = 0; n < done.columns / 2; ++n) {
        const int row = fragment_row(lane, n), column = n / 4 * 8 + fragment_column(lane, n);
        done.sums[static_cast<std::size_t>(lane)][n] = done.rows[static_cast<std::size_t>(row * done.columns + column)];
      }
  }
  std::erase_if(warp.accumulations, is_done);
}

}  // namespace attnspec::cuda::simulator
