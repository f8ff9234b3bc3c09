// A libFuzzer target for everything that parses what comes from outside: cases, case files, kernel names with their
// arithmetic, safetensors. Whatever it is given, a parser takes it or throws std::invalid_argument or
// std::runtime_error; a case that was taken prints so that it parses back. The first byte of an input says which parser
// the rest is for.

#include <unistd.h>

#include <cstddef>
#include <cstdint>
#include <cstdlib>
#include <fstream>
#include <stdexcept>
#include <string>

#include "reference/noise/arithmetic.hpp"
#include "verify/cases/case.hpp"
#include "verify/cases/safetensors.hpp"

namespace {

using namespace attnspec;

void require(bool holds) {
  if (!holds) std::abort();
}

/// The path of a file that holds the text.
std::string file_of(const std::string& text) {
  static const std::string path = "/tmp/attnspec_parsers_" + std::to_string(getpid());
  static const int deletes_at_exit = std::atexit([] { unlink(path.c_str()); });
  require(deletes_at_exit == 0);
  std::ofstream(path, std::ios::binary) << text;
  return path;
}

void parse(char what, const std::string& text) {
  switch (what) {
    case 'c': {
      const verify::Case c = verify::parse_case(text);
      require(verify::parse_case(verify::print(c)) == c);
      break;
    }
    case 'f': verify::read_case_file(file_of(text)); break;
    case 'k': reference::parse_arithmetic(text); break;
    case 's': verify::read_safetensors(file_of(text)); break;
    default: break;
  }
}

}  // namespace

extern "C" int LLVMFuzzerTestOneInput(const std::uint8_t* data, std::size_t size) {
  const std::string input(reinterpret_cast<const char*>(data), size);
  try {
    if (!input.empty()) parse(input[0], input.substr(1));
  } catch (const std::invalid_argument&) {
  } catch (const std::runtime_error&) {
  }
  return 0;
}
