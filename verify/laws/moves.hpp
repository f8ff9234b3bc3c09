// The laws that move rows: to another call, another head, another place in memory.
#pragma once

#include <vector>

#include "verify/laws/twin.hpp"

namespace attnspec::verify {

/// The same call again.
std::vector<Twin> repeat_twins(const FirstCall& first);
/// The kv heads with their groups in another order; the query heads of each group in another order.
std::vector<Twin> heads_twins(const FirstCall& first);
/// Memory with gaps for memory without, or the reverse.
std::vector<Twin> strides_twins(const FirstCall& first);
/// The sequences in the reverse order, and some of them alone.
std::vector<Twin> packing_twins(const FirstCall& first);
/// The last query of each sequence alone, and some of the last; of `nsa_compress` the last compressed rows, without the
/// tokens before theirs.
std::vector<Twin> decode_twins(const FirstCall& first);

}  // namespace attnspec::verify
