// A finding as files: the shrunk case, which `replay` takes, and its input tensors.
#pragma once

#include <string>

#include "fuzz/search/search.hpp"

namespace attnspec::fuzz {

/// The finding that tells most of a failing case: the first with the case's verdict, if it was kept.
const verify::Finding& main_finding(const verify::CaseResult& result);

/// Throws std::runtime_error when nothing could be written into the directory, so that nothing is searched in vain.
/// Makes the directory only for the trial.
void require_writable_directory(const std::string& directory);

/// Writes DIRECTORY/<verdict>/<operator>-<seed of the case as it was found>.case: comments with the kernel, the case as
/// it was found and the failure line, then the shrunk case; and beside it, with .safetensors, the tensors it is called
/// with. Returns the path of the case file. Throws std::runtime_error when a file cannot be written.
std::string write_finding(const std::string& directory, const Found& found);

/// The command that repeats the finding in a case file.
std::string replay_file_command(const std::string& case_file, const std::string& kernel);

}  // namespace attnspec::fuzz
