// From an address in a kernel's code to its line of source.
#pragma once

#include <string>

namespace attnspec::cuda::simulator {

struct SourceLine {
  std::string file;
  int line = 0;

  bool operator==(const SourceLine&) const = default;
};

/// The line of kernel source that a call returns to. Where it was inlined, the innermost line that belongs neither to
/// the primitives nor to system headers. Asks addr2line, once for each address; without it, or without debug
/// information, the file is the program's and the line 0.
SourceLine source_line(const void* return_address);

}  // namespace attnspec::cuda::simulator
