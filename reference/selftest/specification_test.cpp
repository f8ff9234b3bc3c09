// docs/specification.md and the reference name each other: every equation its function, every function its equation.

#include <gtest/gtest.h>

#include <filesystem>
#include <regex>
#include <set>
#include <string>
#include <utility>
#include <vector>

#include "verify/selftest/testing.hpp"

namespace attnspec {
namespace {

using Pairs = std::set<std::pair<std::string, std::string>>;  // equation, function

/// Every match of a pattern.
std::vector<std::smatch> matches(const std::string& text, const std::string& pattern) {
  const std::regex regex(pattern);
  return {std::sregex_iterator(text.begin(), text.end(), regex), std::sregex_iterator()};
}

/// Headers and sources of the reference in all its folders but that of its tests.
std::vector<std::filesystem::path> reference_files() {
  std::vector<std::filesystem::path> files;
  const std::filesystem::path root = ATTNSPEC_SOURCE_DIR "/reference";
  for (const auto& entry : std::filesystem::recursive_directory_iterator(root)) {
    const std::string extension = entry.path().extension();
    const bool is_test = *entry.path().lexically_relative(root).begin() == "selftest";
    if (!is_test && (extension == ".hpp" || extension == ".cpp")) files.push_back(entry.path());
  }
  return files;
}

/// "**M2** `pool_keys`" at the head of a paragraph; a method by its own name.
Pairs in_document() {
  Pairs pairs;
  const std::string text = read_file(ATTNSPEC_SOURCE_DIR "/docs/specification.md");
  for (const auto& match : matches(text, "\n\\*\\*([A-Z][0-9]+)\\*\\* `(?:[A-Za-z]+::)?([a-z_]+)`"))
    pairs.insert({match[1], match[2]});
  return pairs;
}

/// "Equation M2" or "Equations B6, B7" in the doc comment above a declaration.
Pairs in_reference() {
  Pairs pairs;
  for (const auto& file : reference_files()) {
    if (file.extension() != ".hpp") continue;
    const std::string text = read_file(file);
    for (const auto& comment : matches(text, "((?:[ ]*///[^\n]*\n)+)[^\n(]*?([a-z_]+)\\(")) {
      const std::string words = std::regex_replace(comment[1].str(), std::regex("\n *///"), "");
      for (const auto& list : matches(words, "Equations? ([A-Z][0-9]+(?:, [A-Z][0-9]+)*)")) {
        const std::string tags = list[1];
        for (const auto& tag : matches(tags, "[A-Z][0-9]+")) pairs.insert({tag[0], comment[2]});
      }
    }
  }
  return pairs;
}

TEST(Specification, NamesForEveryEquationTheFunctionThatNamesIt) {
  const Pairs document = in_document(), reference = in_reference();
  EXPECT_GE(document.size(), 20u);
  for (const auto& [equation, function] : document)
    EXPECT_EQ(reference.count({equation, function}), 1u)
        << equation << " names " << function << ", which does not name it";
  for (const auto& [equation, function] : reference)
    EXPECT_EQ(document.count({equation, function}), 1u)
        << function << " names " << equation << ", which does not name it";
}

/// A tag "F1" derived in docs/numerics.md under a bold heading of that name.
TEST(Numerics, DerivesEveryTagThatTheNoisePredictionUses) {
  const std::string document = read_file(ATTNSPEC_SOURCE_DIR "/docs/numerics.md");
  std::set<std::string> derived, used;
  for (const auto& match : matches(document, "\n\\*\\*([A-Z][0-9]+) ")) derived.insert(match[1]);
  for (const auto& file : reference_files()) {
    if (file.filename().string().find("noise") == std::string::npos) continue;
    const std::string text = read_file(file);
    for (const auto& match : matches(text, "(?:[Tt]ags?|//|to) ([A-Z][0-9])\\b")) used.insert(match[1]);
  }
  EXPECT_GE(derived.size(), 18u);
  for (const std::string& tag : used) EXPECT_EQ(derived.count(tag), 1u) << tag;
}

}  // namespace
}  // namespace attnspec
