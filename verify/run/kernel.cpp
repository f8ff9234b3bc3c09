#include "verify/run/kernel.hpp"

#include <algorithm>
#include <string_view>

namespace attnspec::verify {

namespace {

/// The first line of a text, of so many bytes at most, without control characters. A character of UTF-8 is not cut.
std::string first_line(const std::string& text, std::size_t max_bytes) {
  constexpr std::string_view kCut = "...";
  std::string line = text.substr(0, text.find('\n'));
  if (line.size() > max_bytes) {
    std::size_t end = max_bytes - kCut.size();
    while (end > 0 && (static_cast<unsigned char>(line[end]) & 0xc0) == 0x80) --end;
    line.replace(end, std::string::npos, kCut);
  }
  for (char& c : line)
    if (static_cast<unsigned char>(c) < 0x20 || c == 0x7f) c = ' ';
  return line;
}

}  // namespace

CallFailed::CallFailed(const std::string& text, Verdict how)
    : std::runtime_error(first_line(text, kMaxFailureLine)), verdict(how) {
  if (const std::size_t end = text.find('\n'); end != std::string::npos) more = text.substr(end + 1);
}

const char* name(EqualBits promise) {
  switch (promise) {
    case EqualBits::none: return "none";
    case EqualBits::same_call: return "deterministic";
    case EqualBits::same_shape: return "row-independent";
    case EqualBits::any_batch: return "batch-invariant";
  }
  return "";
}

bool implements(const Declaration& declared, Operator op) {
  return std::find(declared.operators.begin(), declared.operators.end(), op) != declared.operators.end();
}

bool has_backward(const Declaration& declared, Operator op) {
  const auto& forward_only = declared.forward_only;
  return has_gradients(op) && std::find(forward_only.begin(), forward_only.end(), op) == forward_only.end();
}

}  // namespace attnspec::verify
