// What a call has to do, and how long that takes a GPU at least: what its time is compared with.
#pragma once

#include <cstdint>

#include "cuda/timing.hpp"
#include "verify/run/kernel.hpp"

namespace attnspec::fuzz {

/// What a call has to do, however it is done.
struct Work {
  std::int64_t entries = 0;  // of score matrices, over all query heads: a query and a key that it sees
  double operations = 0;     // multiplications and additions
  double bytes = 0;          // of its tensors: what has to be read, once, and what is written, once
};

/// entries: keys that a query sees, in blocks that are selected; of nsa the sum of its branches; of nsa_compressed
/// compressed rows; of moba_select the blocks whose scores are compared, those wholly in the past.
///
/// operations, in terms of the entries:
///   forward                  2 (dk + dv)    S = Q K^T, O = P V
///   backward                 6 dk + 4 dv    S again, dQ = dS K, dK = dS^T Q; dP = dO V^T, dV = P^T dO
///   moba_select              2 dk           <q, mean key>
/// which is 4 D and 10 D where dk = dv = D. What else is done (softmax, means, phi, merging) does not count, and
/// neither do entries that a kernel computes and masks. nsa_compress: none.
///
/// bytes: of k and v the rows that some query needs; of moba's k all that means are compared of; of the other tensors
/// all.
///
/// The blocks of moba and nsa are counted by rule: a query's own, and as many whole ones of the past as there are, or
/// as it may take. Without causality every block counts as a whole one. Of the rows of v, and of nsa's selected branch,
/// which several queries may share, those count that no choice can spare.
Work work_of(const verify::AnyCall& call);

/// How long a GPU takes at least, in milliseconds.
struct Roofline {
  double products = 0;  // the operations, at the highest rate of its tensor cores; 0: not known. fp32 at half of it, as
                        // tf32
  double memory = 0;    // the bytes, at the highest rate of its memory

  double milliseconds() const { return products > memory ? products : memory; }
};
Roofline roofline_of(const Work& work, reference::Format format, const cuda::DevicePeaks& peaks);

/// The roofline without the bytes that a cache can hold: no call takes less.
Roofline uncached_roofline_of(const Work& work, reference::Format format, const cuda::DevicePeaks& peaks);

}  // namespace attnspec::fuzz
