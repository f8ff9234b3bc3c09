// Reports: the failure line, the table, the JUnit file.
#pragma once

#include <cstddef>
#include <exception>
#include <set>
#include <string>
#include <vector>

#include "verify/judge/judge.hpp"

namespace attnspec::verify {

/// What an error says, in one line: control characters that it quotes become escapes.
std::string one_line(const std::exception& error);

/// An error as the line that a user is given, "attnspec: ...".
std::string error_line(const std::exception& error);

/// A number for a column: two decimals below 10, else three significant digits, "1.23e+105", "inf".
std::string short_number(double x);

/// The one command that repeats a case alone: judges it again, or times and judges it.
std::string replay_command(const std::string& kernel, const Case& c);
std::string bench_command(const std::string& kernel, const Case& c);
using Command = std::string (*)(const std::string& kernel, const Case& c);

/// Where a finding is, "o[seq=0,token=4,head=1,d=5]", or the tensor that it is about; of a session with the call.
std::string where(const Finding& finding);

/// One failure, one line: verdict, kernel, output[place], => observed, expected, bound, ratio. Numbers in hexadecimal
/// and decimal.
std::string failure(const CaseResult& result, const Finding& finding);

/// The same, then the command that repeats it.
std::string failure_line(const CaseResult& result, const Finding& finding, Command command = replay_command);

/// Why a case is undecided and the command that repeats it, one line: "UNDECIDED KERNEL: 3 rows of o | ./attnspec ...".
std::string undecided_line(const CaseResult& result);
/// Such lines that a command prints.
inline constexpr std::size_t kMaxUndecidedLines = 3;

/// The directions that the errors of an output add up in, "o, in deviations: softmax scale off 5.2, ..."; and whether
/// they do in any.
std::string direction_line(const Directions& directions);
bool add_up(const Directions& directions);

/// Everything that was judged of one case, several lines: per output the rows, worst and root mean square R, verdict.
std::string details(const CaseResult& result);

/// Rows as lines, each column as wide as its widest entry: those of text begin on the left, the others end on the
/// right. All rows have as many entries as the first.
std::string aligned(const std::vector<std::vector<std::string>>& rows, const std::set<std::size_t>& text_columns);

/// One line per kernel and operator: cases, rows judged, worst R, undecided rows, verdicts; then the totals, why the
/// first cases are undecided, and for each kernel that passes what that excludes (D2).
std::string table(const std::vector<CaseResult>& results);

/// What a pass excludes: how many rows may have a block or key left out, or one too many, at 95 %. Empty where no fault
/// was imagined. Tag D2.
std::string excluded_line(const std::string& kernel, const ImaginedCounts& imagined);

/// The totals of that table: "63 cases: 61 pass, 2 value-out-of-bound".
std::string totals(const std::vector<CaseResult>& results);

/// What the judge could not see of a kernel's outputs, one line with its end; empty where it saw all.
std::string lse_not_judged(const Kernel& kernel);

/// 0 everything passed; 1 a finding; 3 inconclusive: nothing is wrong, but rows are undecided, or a kernel and operator
/// had no case that it supports or no row in which a block or key left out, or one too many, would show.
int exit_code(const std::vector<CaseResult>& results);

/// Throws std::runtime_error, which names the option that the path was given to, when no file could be written there:
/// so that nothing is judged in vain.
void require_writable(const char* option, const std::string& path);

/// Writes the file whole or not at all. Throws as require_writable does.
void write_file(const char* option, const std::string& path, const std::string& text);

/// JUnit XML, one test case per judged case; undecided and unsupported ones are `skipped`. Throws std::runtime_error
/// when the file cannot be written; nothing is left half written.
void write_junit(const std::string& path, const std::vector<CaseResult>& results);

}  // namespace attnspec::verify
