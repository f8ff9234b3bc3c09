#include "verify/run/placed_memory.hpp"

#include <algorithm>
#include <cstring>

namespace attnspec::verify {

PlacedMemory::~PlacedMemory() {
  for (const Block& block : all_) upstream_->deallocate(block.data, block.bytes, block.alignment);
}

void PlacedMemory::visit(std::size_t place) {
  constexpr int kNan = 0xff;  // every byte of a NaN, of every format; as a block of a selection: none
  for (const Block& block : all_) std::memset(block.data, kNan, block.bytes);
  places_.resize(std::max(places_.size(), place + 1));
  place_ = place;
  next_ = 0;
}

void* PlacedMemory::do_allocate(std::size_t bytes, std::size_t alignment) {
  std::vector<Block>& blocks = places_.at(place_);
  blocks.resize(std::max(blocks.size(), next_ + 1));
  Block& block = blocks[next_++];
  if (block.bytes < bytes || block.alignment < alignment) {
    block = {upstream_->allocate(bytes, alignment), bytes, alignment};
    all_.push_back(block);
  }
  return block.data;
}

}  // namespace attnspec::verify
