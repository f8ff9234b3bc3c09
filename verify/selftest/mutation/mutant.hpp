// Included by the files that mutation.py rewrites, in its copy of the tree alone.
#pragma once

#include <cstdlib>

/// Whether this mutant runs: the one whose number the environment variable ATTNSPEC_MUTANT holds.
inline bool attnspec_mutant(int number) {
  static const int running = [] {
    const char* text = std::getenv("ATTNSPEC_MUTANT");
    return text == nullptr ? 0 : std::atoi(text);
  }();
  return number == running;
}
