// What tests share: messages of exceptions, names of arithmetic options, and files of their own.
#pragma once

#include <unistd.h>

#include <filesystem>
#include <fstream>
#include <iterator>
#include <string>

#include "reference/noise/arithmetic.hpp"

namespace attnspec {

/// What the exception says that an action throws; empty when it throws none.
template <class Exception, class Action>
std::string message_of(const Action& action) {
  try {
    action();
  } catch (const Exception& error) {
    return error.what();
  }
  return "";
}

/// "fp32_weights, rounded_sum, ...": all options, as messages list them.
inline std::string arithmetic_names() {
  std::string names;
  for (const reference::ArithmeticOption& option : reference::arithmetic_options()) {
    if (!names.empty()) names += ", ";
    names += option.name;
  }
  return names;
}

inline std::string read_file(const std::filesystem::path& path) {
  std::ifstream file(path, std::ios::binary);
  return {std::istreambuf_iterator<char>(file), {}};
}

/// A path in the temporary directory, of this process alone. What lies there in the end, a file or a directory, is
/// removed.
class TemporaryPath {
 public:
  explicit TemporaryPath(const std::string& name)
      : path_(std::filesystem::temp_directory_path() / ("attnspec_" + std::to_string(::getpid()) + "_" + name)) {}
  TemporaryPath(const TemporaryPath&) = delete;
  TemporaryPath& operator=(const TemporaryPath&) = delete;
  ~TemporaryPath() { std::filesystem::remove_all(path_); }

  const std::filesystem::path& path() const { return path_; }
  std::string string() const { return path_.string(); }

 private:
  std::filesystem::path path_;
};

}  // namespace attnspec
