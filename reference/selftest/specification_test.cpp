// docs/specification.md and the reference name each other: every equation its function, every function its equation.
// And every equation runs in an operator.

#include <gtest/gtest.h>

#include <filesystem>
#include <map>
#include <regex>
#include <set>
#include <sstream>
#include <string>
#include <utility>
#include <vector>

#include "verify/selftest/testing.hpp"

namespace attnspec {
namespace {

using Pairs = std::set<std::pair<std::string, std::string>>;  // equation, function

/// Every match of a pattern: the whole, then its groups.
std::vector<std::vector<std::string>> matches(const std::string& text, const std::string& pattern) {
  std::vector<std::vector<std::string>> result;
  const std::regex regex(pattern);
  for (std::sregex_iterator match(text.begin(), text.end(), regex), end; match != end; ++match)
    result.emplace_back(match->begin(), match->end());
  return result;
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
      const std::string words = std::regex_replace(comment[1], std::regex("\n *///"), "");
      for (const auto& list : matches(words, "Equations? ([A-Z][0-9]+(?:, [A-Z][0-9]+)*)")) {
        for (const auto& tag : matches(list[1], "[A-Z][0-9]+")) pairs.insert({tag[0], comment[2]});
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

/// The text of every function that computes an operator; overloads share a name.
std::map<std::string, std::string> function_texts() {
  std::map<std::string, std::string> texts;
  const std::regex definition("[A-Za-z][^(=;]*?(\\w+)\\(.*");
  for (const auto& file : reference_files()) {
    if (file.extension() != ".cpp" || file.parent_path().filename() == "noise") continue;
    std::istringstream lines(read_file(file));
    std::string* text = nullptr;
    for (std::string line; std::getline(lines, line);) {
      std::smatch match;
      if (std::regex_match(line, match, definition)) text = &texts[match[1]];
      if (text) *text += line + "\n";
      if (line.ends_with("}") && !line.starts_with(" ")) text = nullptr;
    }
  }
  return texts;
}

/// The functions that an operator of the specification's table calls, or its backward, or a function that the
/// paragraph below the table names; and these themselves.
std::set<std::string> functions_that_run() {
  const std::string document = read_file(ATTNSPEC_SOURCE_DIR "/docs/specification.md");
  const std::string beside = document.substr(document.find("\n**Beside the operators.**"));
  std::vector<std::string> entries;
  for (const auto& row : matches(document, "\n\\| (`[a-z_`, ]+) \\|"))
    for (const auto& name : matches(row[1], "\\w+")) entries.insert(entries.end(), {name[0], name[0] + "_backward"});
  for (const auto& name : matches(beside.substr(0, beside.find("\n\n")), "`(\\w+)`")) entries.push_back(name[1]);
  const std::map<std::string, std::string> texts = function_texts();
  std::set<std::string> running;
  while (!entries.empty()) {
    const std::string function = entries.back();
    entries.pop_back();
    if (!running.insert(function).second || texts.count(function) == 0) continue;
    for (const auto& call : matches(texts.at(function), "(\\w+)\\(")) entries.push_back(call[1]);
  }
  return running;
}

TEST(Specification, EveryEquationRunsInAnOperator) {
  const std::set<std::string> running = functions_that_run();
  for (const auto& [equation, function] : in_document())
    EXPECT_EQ(running.count(function), 1u) << "no operator runs " << equation << ", " << function;
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
