#include "cuda/simulator/source_line.hpp"

#include <dlfcn.h>
#include <link.h>

#include <cstdint>
#include <cstdio>
#include <cstdlib>
#include <filesystem>
#include <map>
#include <mutex>
#include <optional>
#include <string_view>

namespace attnspec::cuda::simulator {

namespace {

bool belongs_to_kernel(std::string_view file) {
  return !file.starts_with("/usr/") && file.find("/cuda/primitives/") == std::string_view::npos;
}

/// One line of addr2line, "FILE:LINE" or "FILE:LINE (discriminator 3)"; nothing where it does not know.
std::optional<SourceLine> parse(std::string_view text) {
  const std::size_t colon = text.rfind(':');
  if (colon == std::string_view::npos || text.starts_with("??")) return std::nullopt;
  return SourceLine{std::string(text.substr(0, colon)), std::atoi(text.data() + colon + 1)};
}

/// What addr2line says of an address inside an ELF file, innermost line first.
SourceLine ask(const std::string& program, std::uintptr_t address) {
  SourceLine found{program, 0};
  char command[64];
  std::snprintf(command, sizeof command, "addr2line -i %#zx -e '", static_cast<std::size_t>(address));
  FILE* const answers = popen((command + program + "' 2>/dev/null").c_str(), "r");
  if (answers == nullptr) return found;
  char text[4096];
  while (std::fgets(text, sizeof text, answers) != nullptr) {
    const std::optional<SourceLine> line = parse(text);
    if (!line) continue;
    if (found.line == 0) found = *line;
    if (!belongs_to_kernel(line->file)) continue;
    found = *line;
    break;
  }
  pclose(answers);
  return found;
}

}  // namespace

SourceLine source_line(const void* return_address) {
  static std::mutex mutex;
  static std::map<const void*, SourceLine> known;
  const std::scoped_lock lock(mutex);
  const auto [entry, is_new] = known.try_emplace(return_address);
  if (!is_new) return entry->second;
  Dl_info file;
  link_map* map = nullptr;
  if (dladdr1(return_address, &file, reinterpret_cast<void**>(&map), RTLD_DL_LINKMAP) == 0) return {};
  const bool is_main_program = map->l_name[0] == '\0';
  const std::string program = is_main_program ? std::filesystem::read_symlink("/proc/self/exe").string() : map->l_name;
  entry->second = ask(program, reinterpret_cast<std::uintptr_t>(return_address) - 1 - map->l_addr);
  return entry->second;
}

}  // namespace attnspec::cuda::simulator
