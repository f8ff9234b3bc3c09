// The program as its users run it: exit codes, one clear line for bad input, and the printed replay command.

#include <gtest/gtest.h>
#include <sys/wait.h>

#include <array>
#include <cstdio>
#include <cstdlib>
#include <fstream>

#include "cuda/device.hpp"
#include "verify/calibration.hpp"
#include "verify/kernel.hpp"
#include "verify/selftest/testing.hpp"

namespace attnspec {
namespace {

struct Outcome {
  int code;
  std::string out, err;
};

/// Runs the program with a shell, so that quoting is the user's.
Outcome run(const std::string& arguments, const std::string& environment = "") {
  const TemporaryPath err("err");
  FILE* pipe = popen((environment + " " ATTNSPEC_PROGRAM " " + arguments + " 2>" + err.string()).c_str(), "r");
  Outcome result;
  std::array<char, 4096> buffer;
  while (const std::size_t n = fread(buffer.data(), 1, buffer.size(), pipe)) result.out.append(buffer.data(), n);
  result.code = WEXITSTATUS(pclose(pipe));
  result.err = read_file(err.path());
  return result;
}

/// Bad input: exit code 2, nothing on standard output, one line on standard error.
void expect_one_line(const std::string& arguments, const std::string& line, const std::string& environment = "") {
  const Outcome result = run(arguments, environment);
  EXPECT_EQ(result.code, 2) << arguments;
  EXPECT_EQ(result.out, "") << arguments;
  EXPECT_EQ(result.err, "attnspec: " + line + "\n") << arguments;
}

TEST(CommandLine, GivesOneLineForBadInput) {
  std::string names;  // those of this machine
  for (const verify::Kernel& kernel : verify::kernels()) names += kernel.name + ", ";
  expect_one_line("check model:mobba", "kernel 'model:mobba': is not known; there are " + names +
                                           "defect:NAME (list defects), variant:NAME (list variants), PATH.so and "
                                           "FILE.py:FUNCTION");
  if (const std::string why = cuda::find_devices().why_none; !why.empty())
    expect_one_line("check cuda:baseline", "kernel 'cuda:baseline': needs a CUDA device: " + why);
  expect_one_line("check ./nowhere.so", "kernel './nowhere.so': there is no such file");
  expect_one_line(
      "check ./nowhere.so+fp32_out",
      "kernel './nowhere.so+fp32_out': a library declares its own arithmetic, no option can be added to it");
  expect_one_line("check model:moba+exact", "arithmetic option 'exact': is none of " + arithmetic_names());
  expect_one_line("check model:moba+rounded_sum+normalise_first",
                  "arithmetic option 'normalise_first': contradicts rounded_sum");
  expect_one_line("check model:moba+fp32_out+fp32_out", "arithmetic option 'fp32_out': is given twice");
  expect_one_line(
      "calibrate --regime nowhere --rows 1",
      "regime=nowhere: is none of normal, diffuse, spiky, tie, near_tie, large, very_negative, token_tagged, "
      "head_tagged, constant_keys, repeated_tokens, cancelling_means, descending_magnitude, levers, "
      "edge_spike, disagreeing_heads, underflow, subnormal, captured:NAME");
  expect_one_line("replay 'moba(heads=3,kv_heads=2)'", "heads=3: must be a multiple of kv_heads=2");
  expect_one_line("replay 'moba(top_k=0)'", "top_k=0: must be at least 1");
  expect_one_line("replay 'moba(lens=3+-1)'", "lens=3+-1: a length is negative, so that the offsets would decrease");
  expect_one_line("replay nowhere.cases", "case file nowhere.cases: cannot be read");
  expect_one_line(
      "check --operator attention",
      "operator 'attention': is none of dense, selected, moba_select, moba, nsa_compress, nsa_compressed, window, nsa");
  expect_one_line("check defect:delta_missing --operator dense", "no kernel given implements an operator given");
  expect_one_line("golden nowhere.safetensors", "nowhere.safetensors: cannot be read");
  expect_one_line("golden", "/nonexistent: No such file or directory", "ATTNSPEC_GOLDEN_DIR=/nonexistent");
  expect_one_line("check --junit /nonexistent/x.xml", "--junit /nonexistent/x.xml: cannot be written");
  EXPECT_EQ(run("").code, 2);
  EXPECT_EQ(run("chek").code, 2);
  EXPECT_EQ(run("check --level 9").code, 2);
  EXPECT_EQ(run("calibrate --rows 0").code, 2);
  EXPECT_EQ(run("replay").code, 2);
}

TEST(CommandLine, TellsItsVersion) {
  const Outcome result = run("--version");
  EXPECT_EQ(result.code, 0);
  EXPECT_EQ(result.out, "attnspec " ATTNSPEC_VERSION "\n");
  EXPECT_EQ(result.err, "");
}

TEST(CommandLine, NamesATruncatedGoldenFile) {
  const TemporaryPath directory("golden");
  std::filesystem::create_directory(directory.path());
  const std::filesystem::path file = directory.path() / "moba_9.safetensors";
  std::ofstream(file, std::ios::binary) << std::string("\x10\0\0\0\0\0\0\0{}", 10);
  expect_one_line("golden", file.string() + ": truncated: its header has 16 bytes, the file 10",
                  "ATTNSPEC_GOLDEN_DIR=" + directory.string());
}

TEST(CommandLine, ReplaysACase) {
  const Outcome result = run("replay 'moba(lens=40,heads=2,kv_heads=1,block=16)'");
  EXPECT_EQ(result.code, 0) << result.err;
  EXPECT_NE(result.out.find("verdict: pass"), std::string::npos);
  for (const char* output : {"selection", "o", "lse", "dq", "dk", "dv"})
    EXPECT_NE(result.out.find(std::string("\n  ") + output + " "), std::string::npos) << output;
}

TEST(CommandLine, JudgesADeclaredArithmetic) {
  const Outcome result = run("replay 'dense(lens=40)' --kernel model:moba+rounded_sum+fp32_out");
  EXPECT_EQ(result.code, 0) << result.out;
  EXPECT_NE(result.out.find("normaliser sums rounded weights"), std::string::npos);
  EXPECT_NE(result.out.find("out fp32"), std::string::npos);
}

TEST(CommandLine, CalibratesARegime) {
  const Outcome result = run("calibrate --regime subnormal --rows 50");
  EXPECT_EQ(result.code, 0) << result.out;
  EXPECT_NE(result.out.find("59 regimes and arithmetics: 59 good, 0 bad"), std::string::npos) << result.out;
}

TEST(CommandLine, ReplaysACaseFile) {
  const TemporaryPath file("some.cases");
  std::ofstream(file.path()) << "moba(lens=5)  # a comment\ndense(lens=6)\n";
  const Outcome result = run("replay " + file.string());
  EXPECT_EQ(result.code, 0) << result.err;
  EXPECT_NE(result.out.find("dense(lens=6)"), std::string::npos);
}

TEST(CommandLine, PrintsAReplayCommandThatRepeatsTheFinding) {
  const Outcome found = run("replay 'moba(lens=80,block=16,seed=3)' --kernel defect:delta_missing");
  EXPECT_EQ(found.code, 1);
  const std::size_t line_begin = found.out.find("FAIL "), line_end = found.out.find('\n', line_begin);
  const std::string line = found.out.substr(line_begin, line_end - line_begin);
  const std::string command = line.substr(line.find("./attnspec ") + std::string("./attnspec ").size());
  const Outcome again = run(command);
  EXPECT_EQ(again.code, 1);
  EXPECT_NE(again.out.find(line), std::string::npos);
}

TEST(CommandLine, JudgesCapturedActivationsFromAnotherDirectory) {
  expect_one_line("replay 'moba(regime=captured:layer4)'",
                  "regime=captured:layer4: no captured activations of that name; there are: none in /tmp/..",
                  "ATTNSPEC_ACTIVATIONS_DIR=/tmp/..");
  expect_one_line(
      "replay 'moba(regime=captured:layer4)'",
      "regime=captured:layer4: no captured activations of that name; there are: none (/nowhere: No such file "
      "or directory)",
      "ATTNSPEC_ACTIVATIONS_DIR=/nowhere");
  EXPECT_EQ(run("replay 'moba(lens=64,heads=6,kv_heads=2,regime=captured:layer4)'").code, 0);
}

/// Whether standard error begins with a line, and has it once; progress may follow.
bool says_once(const Outcome& outcome, const std::string& line) {
  return outcome.err.starts_with(line) && outcome.err.find(line, 1) == std::string::npos;
}

TEST(CommandLine, LeavesOutCapturedActivationsThatAreMissing) {
  const TemporaryPath empty("no_activations");
  std::filesystem::create_directory(empty.path());
  for (const auto& [directory, why] : {std::pair<std::string, std::string>("/nowhere", "No such file or directory"),
                                       {empty.string(), "holds no .safetensors file"}}) {
    const std::string environment = "ATTNSPEC_ACTIVATIONS_DIR=" + directory;
    const std::string line = "attnspec: cases with captured activations are left out: " + directory + ": " + why +
                             " (ATTNSPEC_ACTIVATIONS_DIR names their folder)\n";
    const Outcome checked = run("check model:moba --operator moba_select", environment);
    EXPECT_EQ(checked.code, 0) << checked.out;
    EXPECT_TRUE(says_once(checked, line)) << checked.err;
    const Outcome listed = run("list regimes", environment);
    EXPECT_EQ(listed.code, 0);
    EXPECT_EQ(listed.err, line);
    EXPECT_EQ(listed.out.find("captured files"), std::string::npos);
    const Outcome searched =
        run("fuzz model:moba --cases 40 --seed 1 --findings " + empty.string() + "/x", environment);
    EXPECT_EQ(searched.code, 0) << searched.out;
    EXPECT_TRUE(says_once(searched, line)) << searched.err;
    const Outcome replayed = run("replay 'dense(lens=5)'", environment);
    EXPECT_EQ(replayed.code, 0);
    EXPECT_EQ(replayed.err, "");
  }
  setenv("ATTNSPEC_ACTIVATIONS_DIR", "/nowhere", 1);
  const auto jobs = verify::calibration_jobs({});
  unsetenv("ATTNSPEC_ACTIVATIONS_DIR");
  EXPECT_GT(jobs.size(), 0u);
  for (const verify::CalibrationJob& job : jobs) EXPECT_EQ(job.regime.find("captured"), std::string::npos);
  expect_one_line(
      "calibrate --rows 1 --regime captured:layer0",
      "regime=captured:layer0: no captured activations of that name; there are: none (/nowhere: No such file "
      "or directory)",
      "ATTNSPEC_ACTIVATIONS_DIR=/nowhere");
}

TEST(CommandLine, ListsWhatThereIs) {
  EXPECT_NE(run("list operators").out.find("moba_select"), std::string::npos);
  EXPECT_NE(run("list kernels").out.find("model:moba"), std::string::npos);
  EXPECT_NE(run("list regimes").out.find("layer0, layer4"), std::string::npos);
  EXPECT_NE(run("list laws").out.find("needs the promise batch-invariant"), std::string::npos);
  EXPECT_NE(run("list arithmetic").out.find("rounded_partials"), std::string::npos);
  EXPECT_NE(run("list variants").out.find("variant:exp2"), std::string::npos);
  EXPECT_NE(run("list defects").out.find("defect:delta_missing"), std::string::npos);
  EXPECT_EQ(run("--help").code, 0);
  EXPECT_NE(run("check --help").out.find("--junit"), std::string::npos);
}

}  // namespace
}  // namespace attnspec
