// fuzz and defects as their users run them: exit codes, files of findings, the printed command, one line for bad input.

#include <gtest/gtest.h>
#include <sys/wait.h>
#include <unistd.h>

#include <array>
#include <csignal>
#include <cstdio>
#include <filesystem>
#include <fstream>
#include <numeric>

#include "verify/cases/case.hpp"
#include "verify/cases/regimes.hpp"
#include "verify/cases/safetensors.hpp"

namespace {

namespace fs = std::filesystem;

struct Outcome {
  int code;
  std::string out, err;
};

struct FuzzCommand : testing::Test {
  fs::path directory = fs::temp_directory_path() / ("attnspec_fuzz_" + std::to_string(::getpid()));
  FuzzCommand() { fs::create_directory(directory); }
  ~FuzzCommand() override { fs::remove_all(directory); }

  /// Runs the program with a shell in the directory of its own.
  Outcome run(const std::string& arguments, const std::string& before = "") const {
    const fs::path err_path = directory / "err";
    FILE* pipe = popen(
        ("cd " + directory.string() + " && " + before + " " ATTNSPEC_PROGRAM " " + arguments + " 2>err").c_str(), "r");
    Outcome result;
    std::array<char, 4096> buffer;
    while (const std::size_t n = fread(buffer.data(), 1, buffer.size(), pipe)) result.out.append(buffer.data(), n);
    result.code = WEXITSTATUS(pclose(pipe));
    std::ifstream err(err_path);
    result.err.assign(std::istreambuf_iterator<char>(err), {});
    return result;
  }

  void expect_one_line(const std::string& arguments, const std::string& line) const {
    const Outcome result = run(arguments);
    EXPECT_EQ(result.code, 2) << arguments;
    EXPECT_EQ(result.out, "") << arguments;
    EXPECT_EQ(result.err, "attnspec: " + line + "\n") << arguments;
  }
};

std::string line_with(const std::string& text, const std::string& part) {
  const std::size_t at = text.find(part);
  if (at == std::string::npos) return "";
  const std::size_t begin = text.rfind('\n', at) + 1;
  return text.substr(begin, text.find('\n', at) - begin);
}

TEST_F(FuzzCommand, PassesACorrectKernel) {
  const Outcome result = run("fuzz model:moba --cases 40 --seed 1");
  EXPECT_EQ(result.code, 0) << result.out << result.err;
  EXPECT_NE(result.out.find("40 cases and "), std::string::npos) << result.out;
  EXPECT_NE(result.out.find("seed 1"), std::string::npos);
  EXPECT_NE(result.out.find("at 95 % the kernel fails on fewer than 0.075 of such cases (3 / 40)"), std::string::npos)
      << result.out;
  EXPECT_FALSE(fs::exists(directory / "findings"));
}

TEST_F(FuzzCommand, WritesFindingsThatReplay) {
  const Outcome found = run("fuzz defect:one_key_dropped --cases 50 --seed 3");
  EXPECT_EQ(found.code, 1) << found.out << found.err;
  const std::string failure = line_with(found.out, "FAIL "), command = line_with(found.out, ".case' --kernel");
  ASSERT_NE(command, "") << found.out;
  const Outcome again = run(command.substr(command.find("./attnspec ") + std::string("./attnspec ").size()));
  EXPECT_EQ(again.code, 1) << again.err;
  EXPECT_NE(again.out.find(failure), std::string::npos) << again.out;

  const std::size_t begin = command.find('\'') + 1;
  const fs::path file = directory / command.substr(begin, command.rfind('\'') - begin);
  EXPECT_EQ(failure.find("FAIL " + file.parent_path().filename().string() + " defect:"), 0u) << failure;
  const auto cases = attnspec::verify::read_case_file(file.string());
  ASSERT_EQ(cases.size(), 1u);
  const auto tensors = attnspec::verify::read_safetensors(fs::path(file).replace_extension(".safetensors").string());
  EXPECT_EQ(tensors.meta("case"), attnspec::verify::print(cases[0]));
  EXPECT_EQ(tensors.meta("failure"), failure);
  const attnspec::verify::Inputs inputs = attnspec::verify::make_inputs(cases[0]);
  const auto& k = tensors.at("k");
  EXPECT_EQ(k.shape, (std::vector<std::int64_t>{inputs.k.tokens, inputs.k.heads, inputs.k.dim}));
  std::size_t at = 0;
  for (std::int64_t token = 0; token < inputs.k.tokens; ++token)
    for (std::int64_t head = 0; head < inputs.k.heads; ++head)
      for (std::int64_t d = 0; d < inputs.k.dim; ++d) EXPECT_EQ(k.values[at++], inputs.k.at(token, head)[d]);
  for (const char* name : {"q", "v", "d_o"}) EXPECT_NO_THROW(tensors.at(name));
}

TEST_F(FuzzCommand, ShrinksACrash) {
  const std::string library = ATTNSPEC_FOREIGN_DIR "/crashes_for_some.so";
  const Outcome found = run("fuzz " + library + " --cases 50 --seed 1");
  EXPECT_EQ(found.code, 1) << found.out << found.err;
  const std::string failure = line_with(found.out, "FAIL crash ");
  EXPECT_NE(failure.find(" call => ended by signal SIGSEGV in the forward call | "), std::string::npos) << found.out;
  const std::size_t command = failure.find("./attnspec ") + std::string("./attnspec ").size();
  const std::size_t begin = failure.find('\'', command) + 1;
  const auto c = attnspec::verify::parse_case(failure.substr(begin, failure.find('\'', begin) - begin));
  EXPECT_EQ(std::accumulate(c.lens.begin(), c.lens.end(), std::int64_t{0}), 21) << failure;
  const Outcome again = run(failure.substr(command));
  EXPECT_EQ(again.code, 1) << again.err;
  EXPECT_EQ(line_with(again.out, "FAIL "), failure);
}

TEST_F(FuzzCommand, ListsTheCasesThatAKernelCanDo) {
  const Outcome listed = run("list cases --kernel " ATTNSPEC_EXAMPLE " --operator dense");
  EXPECT_EQ(listed.code, 0) << listed.err;
  EXPECT_NE(listed.out.find("; the limits of " ATTNSPEC_EXAMPLE " exclude "), std::string::npos) << listed.out;
  EXPECT_EQ(listed.out.find("dtype=fp16"), std::string::npos);
  EXPECT_NE(listed.out.find("\ndense("), std::string::npos);
}

/// What the table of a check says of a kernel, without its name.
std::string row_of(const std::string& table, const std::string& op) {
  const std::string line = line_with(table, " " + op + " ");
  return line.substr(line.find(" " + op + " "));
}

TEST_F(FuzzCommand, JudgesAForeignKernelInSeveralProcessesAsInOne) {
  std::ofstream file(directory / "some.cases");
  for (int lens = 1; lens <= 40; ++lens) file << "dense(lens=" << lens << ",dk=8,seed=" << lens << ")\n";
  file.close();
  const Outcome one = run("check " ATTNSPEC_EXAMPLE " --operator dense --jobs 1 --cases some.cases"),
                three = run("check " ATTNSPEC_EXAMPLE " --operator dense --jobs 3 --cases some.cases");
  EXPECT_EQ(one.code, 0) << one.out << one.err;
  EXPECT_EQ(row_of(one.out, "dense"), row_of(three.out, "dense"));
}

TEST_F(FuzzCommand, CheckPrintsACommandThatShowsTheFindingOfAKernelThatRemembersCalls) {
  std::ofstream(directory / "two.cases") << "dense(lens=9,dk=8)\ndense(lens=9,dk=8,seed=1)\n";
  const Outcome found = run("check " ATTNSPEC_ADVERSARY " --cases two.cases --jobs 1");
  EXPECT_EQ(found.code, 1) << found.err;
  const std::string failure = line_with(found.out, "FAIL ");
  EXPECT_NE(failure.find("(call 2, contents)"), std::string::npos) << failure;
  const Outcome again = run(failure.substr(failure.find("./attnspec ") + std::string("./attnspec ").size()));
  EXPECT_EQ(again.code, 1) << again.err;
  EXPECT_EQ(line_with(again.out, "FAIL "), failure);
}

TEST_F(FuzzCommand, EndsAKernelThatHangs) {
  const std::string library = ATTNSPEC_FOREIGN_DIR "/hangs_in_call.so";
  const Outcome found = run("replay 'dense(lens=5)' --kernel " + library + " --timeout 1");
  EXPECT_EQ(found.code, 1) << found.out << found.err;
  EXPECT_NE(found.out.find("call => did not return from the forward call within 1 s | "), std::string::npos)
      << found.out;
}

TEST_F(FuzzCommand, GoesOnAndTellsSwarms) {
  const Outcome result = run("fuzz defect:delta_missing --cases 45 --seed 1 --keep-going --verbose --findings found");
  EXPECT_EQ(result.code, 1);
  EXPECT_NE(result.out.find("45 cases and "), std::string::npos) << result.out;
  EXPECT_NE(result.out.find("cases with findings, "), std::string::npos) << result.out;
  const std::size_t first = result.err.find("swarm: everything\n");
  ASSERT_NE(first, std::string::npos) << result.err;
  EXPECT_NE(result.err.find("\nswarm: ", first), std::string::npos) << result.err;  // progress may lie between
  EXPECT_TRUE(fs::exists(directory / "found" / "value-out-of-bound"));
}

TEST_F(FuzzCommand, EndsWithTheSummaryWhenItIsInterrupted) {
  const Outcome result = run("fuzz model:moba --seconds 60", "timeout --foreground --preserve-status --signal=INT 1");
  EXPECT_EQ(result.code, 0) << result.err;
  EXPECT_NE(result.out.find("no finding: "), std::string::npos) << result.out;
}

TEST_F(FuzzCommand, EndsWithTheSummaryWhenItIsTerminated) {
  const Outcome result = run("fuzz model:moba --seconds 60", "timeout --foreground --preserve-status --signal=TERM 1");
  EXPECT_EQ(result.code, 0) << result.err;
  EXPECT_NE(result.out.find("no finding: "), std::string::npos) << result.out;
}

/// Ctrl-C reaches the whole process group.
TEST_F(FuzzCommand, IsInterruptedWithoutHarmToAKernelOfAnotherProcess) {
  const Outcome result =
      run("fuzz " ATTNSPEC_EXAMPLE " --seconds 60", "timeout --foreground --preserve-status --signal=INT 3");
  EXPECT_EQ(result.code, 0) << result.out << result.err;
  EXPECT_NE(result.out.find("no finding: "), std::string::npos) << result.out;
}

TEST_F(FuzzCommand, FindsDefects) {
  const Outcome result = run("defects future_token_visible delta_missing");
  EXPECT_EQ(result.code, 0) << result.err;
  EXPECT_NE(result.out.find("2 of 2 defects caught; seed 0; cases until then: median "), std::string::npos)
      << result.out;
  EXPECT_NE(line_with(result.out, "delta_missing").find(" dq "), std::string::npos) << result.out;
  const Outcome missed = run("defects importance_of_one_head --cases 1");
  EXPECT_EQ(missed.code, 1);
  EXPECT_NE(missed.out.find("NOT CAUGHT"), std::string::npos) << missed.out;
  EXPECT_NE(missed.out.find("0 of 1 defects caught; seed 0\n"), std::string::npos) << missed.out;
}

TEST_F(FuzzCommand, GivesOneLineForBadInput) {
  expect_one_line("fuzz", "KERNEL is required");
  expect_one_line("fuzz model:moba --operator window",
                  "operator 'window': model:moba implements dense, selected, moba_select, moba, msa_select, "
                  "dsa_select, qsa_select");
  expect_one_line("fuzz model:moba --law future --law slow",
                  "law=slow: is none of none, repeat, future, unselected, heads, strides, packing, decode, power, "
                  "negation, reciprocal, slots, groups, prefix, all_blocks, own_block, whole_window, as_moba, one_hot, "
                  "mass, dk_sum, dv_sum, one_row");
  expect_one_line("fuzz model:moba --operator dense --law unselected", "law 'unselected': no operator has it");
  expect_one_line("fuzz model:moba --cases 1 --findings /proc/nowhere", "/proc/nowhere: cannot be written");
  expect_one_line("defects nowhere", "defect 'nowhere': is not known (list defects)");
  EXPECT_EQ(run("fuzz model:mobba").code, 2);
  EXPECT_NE(run("fuzz --help").out.find("--keep-going"), std::string::npos);
}

TEST_F(FuzzCommand, SaysWhichRangeANumberIsOutside) {
  expect_one_line("fuzz model:moba --seconds -1", "--seconds: -1 is not above 0");
  expect_one_line("fuzz model:moba --seconds 0", "--seconds: 0 is not above 0");
  expect_one_line("fuzz model:moba --seconds nan", "--seconds: nan is not a number");
  expect_one_line("fuzz model:moba --seconds 1e999", "--seconds: 1e999 is too large");
  expect_one_line("fuzz model:moba --seconds soon", "--seconds: soon is not a number");
  expect_one_line("fuzz model:moba --cases 0", "--cases: 0 is below 1");
  expect_one_line("fuzz model:moba --cases 1.5", "--cases: 1.5 is not a whole number");
  expect_one_line("fuzz model:moba --cases 99999999999999999999", "--cases: 99999999999999999999 is too large");
  expect_one_line("fuzz model:moba --seed x", "--seed: x is not a whole number");
  expect_one_line("fuzz model:moba --seed -1", "--seed: -1 is below 0");
  expect_one_line("fuzz model:moba --seed 18446744073709551616", "--seed: 18446744073709551616 is too large");
  expect_one_line("fuzz model:moba --jobs 0", "--jobs: 0 is below 1");
  expect_one_line("fuzz model:moba --timeout 0", "--timeout: 0 is not from 0.001 to 1000000");
  expect_one_line("defects --cases 0", "--cases: 0 is below 1");
  expect_one_line("defects --seed -7", "--seed: -7 is below 0");
}

}  // namespace
