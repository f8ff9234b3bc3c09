// The program as its users run it: exit codes, one clear line for bad input, and the printed replay command.

#include <gtest/gtest.h>
#include <sys/wait.h>

#include <algorithm>
#include <array>
#include <cstdio>
#include <cstdlib>
#include <fstream>
#include <sstream>
#include <vector>

#include "cuda/device.hpp"
#include "verify/calibration/calibration.hpp"
#include "verify/kernels.hpp"
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
      "edge_spike, disagreeing_heads, underflow, subnormal, smallest, largest_values, largest_gradients, largest_keys, "
      "wide_gates, cancelling_weights, captured:NAME");
  expect_one_line("replay 'moba(heads=3,kv_heads=2)'", "heads=3: must be a multiple of kv_heads=2");
  expect_one_line("replay 'moba(top_k=0)'", "top_k=0: must be at least 1");
  expect_one_line("replay 'moba(lens=3+-1)'", "lens=3+-1: a length is negative, so that the offsets would decrease");
  expect_one_line("replay moba",
                  "case 'moba': is no file, and a case is written operator(key=value,...), such as "
                  "'moba(lens=300,heads=4,block=32)'");
  expect_one_line("replay nowhere.cases", "case file nowhere.cases: cannot be read");
  expect_one_line(
      "check --operator attention",
      "operator 'attention': is none of dense, selected, moba_select, moba, nsa_compress, nsa_compressed, window, nsa, "
      "msa_select, dsa_select, qsa_select");
  expect_one_line("check defect:delta_missing --operator dense", "no kernel given implements an operator given");
  expect_one_line("golden nowhere.safetensors", "nowhere.safetensors: cannot be read");
  expect_one_line("golden", "/nonexistent: No such file or directory", "ATTNSPEC_GOLDEN_DIR=/nonexistent");
  expect_one_line("check --junit /nonexistent/x.xml", "--junit /nonexistent/x.xml: cannot be written");
  EXPECT_EQ(run("").code, 2);
  EXPECT_EQ(run("chek").code, 2);
  expect_one_line("check --level 9", "--level: 9 is not from 1 to 2");
  expect_one_line("check --timeout -1", "--timeout: -1 is not from 0.001 to 1000000");
  expect_one_line("calibrate --rows 0", "--rows: 0 is below 1");
  expect_one_line("calibrate --seed -1", "--seed: -1 is below 0");
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

TEST(CommandLine, ExplainsAFinding) {
  const std::string output = run("replay 'window(lens=40,window=8,dk=16)' --kernel defect:window_of_one_more").out;
  for (const char* line : {"\nstage: scores, mask or softmax (o and lse are wrong)\n", "\nwhere: o is wrong in ",
                           "\nbehaves like: the window holds w + 1 keys ("})
    EXPECT_NE(output.find(line), std::string::npos) << line << output;
}

TEST(CommandLine, ReplaysACase) {
  const Outcome result = run("replay 'moba(lens=40,heads=2,kv_heads=1,block=16)'");
  EXPECT_EQ(result.code, 0) << result.err;
  EXPECT_NE(result.out.find("verdict: pass"), std::string::npos);
  for (const char* output : {"selection", "o", "lse", "dq", "dk", "dv"})
    EXPECT_NE(result.out.find(std::string("\n  ") + output + " "), std::string::npos) << output;
}

TEST(CommandLine, XraysAKernel) {
  const TemporaryPath picture("picture.svg");
  const Outcome clean = run("xray 'moba(lens=8,dk=8,block=2)' --kernel model:moba --out " + picture.string());
  EXPECT_EQ(clean.code, 0) << clean.err;
  EXPECT_NE(clean.out.find("X-ray: clean\n"), std::string::npos) << clean.out;
  EXPECT_EQ(read_file(picture.path()).substr(0, 5), "<svg ");
  const Outcome wrong = run("xray 'moba(lens=8,dk=8,block=2)' --kernel defect:future_token_visible");
  EXPECT_EQ(wrong.code, 1) << wrong.err;
  EXPECT_NE(wrong.out.find("FAIL future-key defect:future_token_visible o[seq=0,token=0,head=0,key=1] => "),
            std::string::npos)
      << wrong.out;
  EXPECT_EQ(run("xray 'moba(lens=8,dk=8,block=2)'").code, 0);
  expect_one_line("xray 'dense(lens=5000)' --kernel model:moba",
                  "case 'dense(lens=5000)': cannot be X-rayed: it has 25000000 pairs of a query row and a key row, the "
                  "limit is 1048576");
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
  EXPECT_NE(result.out.find("\n2 cases: 2 pass\nat 95 % model:moba leaves out a block or key in fewer than "),
            std::string::npos)
      << result.out;
}

TEST(CommandLine, ChecksTheCasesOfAFileAndStopsAtTheFirstFinding) {
  const TemporaryPath file("some.cases");
  std::ofstream(file.path()) << "moba(lens=40,block=16)\ndense(lens=6)\nmoba(lens=50,block=16)\nwindow(lens=9)\n";
  const Outcome all = run("check model:moba --cases " + file.string());
  EXPECT_EQ(all.code, 0) << all.err;
  EXPECT_TRUE(all.out.find("\n3 cases: 3 pass\n") != std::string::npos) << all.out;
  const Outcome first = run("check defect:delta_missing --stop-at-first --cases " + file.string());
  EXPECT_EQ(first.code, 1) << first.err;
  EXPECT_NE(first.out.find("\n1 cases: 1 value-out-of-bound\n"), std::string::npos) << first.out;
  EXPECT_NE(first.err.find("stopped at the first finding: 1 of 2 cases judged\n"), std::string::npos) << first.err;
  std::ofstream(file.path()) << "# nothing\n";
  expect_one_line("check model:moba --cases " + file.string(), "case file " + file.string() + ": holds no case");
  expect_one_line("check model:moba --level 2 --cases " + file.string(), "--level excludes --cases");
}

TEST(CommandLine, ListsTheCasesOfALevelAsACaseFile) {
  const Outcome listed = run("list cases --level 1 --kernel model:moba --operator moba_select");
  EXPECT_EQ(listed.code, 0) << listed.err;
  EXPECT_EQ(listed.out.find("# moba_select, level 1: "), 0u) << listed.out.substr(0, 200);
  const TemporaryPath file("listed.cases");
  std::ofstream(file.path()) << listed.out;
  const Outcome level = run("check model:moba --operator moba_select"),
                of_file = run("check model:moba --cases " + file.string());
  EXPECT_EQ(level.out, of_file.out);
  expect_one_line("list cases --kernel model:moba --operator nsa", "the kernel does not implement an operator given");
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

TEST(CommandLine, PrintsTheTableSoFarWhenItIsTerminated) {
  const TemporaryPath junit("interrupted.xml"), out("interrupted.out"), err("interrupted.err");
  const std::string script = ATTNSPEC_PROGRAM " check model:moba --level 2 --junit " + junit.string() + " >" +
                             out.string() + " 2>" + err.string() + " & until grep -q cases, " + err.string() +
                             "; do sleep 0.1; done; kill -TERM $!; wait $!";
  const int status = std::system(script.c_str());
  EXPECT_EQ(WEXITSTATUS(status), 3) << read_file(err.path());
  const std::string table = read_file(out.path()), said = read_file(err.path());
  EXPECT_NE(table.find("\nmodel:moba  dense "), std::string::npos) << table;
  EXPECT_NE(said.find("interrupted: "), std::string::npos) << said;
  EXPECT_NE(said.find(" cases judged\n"), std::string::npos) << said;
  EXPECT_NE(read_file(junit.path()).find("<testcase "), std::string::npos);
}

TEST(CommandLine, ReplayPrintsTheTableSoFarWhenItIsTerminated) {
  const TemporaryPath file("long.cases"), out("replay.out"), err("replay.err");
  std::ofstream cases(file.path());
  for (int seed = 0; seed < 500; ++seed) cases << "dense(lens=200,seed=" << seed << ")\n";
  cases.close();
  const std::string script = ATTNSPEC_PROGRAM " replay " + file.string() + " --kernel model:moba >" + out.string() +
                             " 2>" + err.string() + " & until grep -q verdict " + out.string() +
                             "; do sleep 0.1; done; kill -TERM $!; wait $!";
  const int status = std::system(script.c_str());
  EXPECT_EQ(WEXITSTATUS(status), 3) << read_file(err.path());
  EXPECT_NE(read_file(out.path()).find("\nmodel:moba  dense "), std::string::npos);
  EXPECT_NE(read_file(err.path()).find(" of 500 cases judged\n"), std::string::npos);
}

TEST(CommandLine, TellsHowFarALargeCaseIs) {
  const Outcome result = run("replay 'dense(lens=2000,heads=4)' --kernel model:moba");
  EXPECT_EQ(result.code, 0) << result.out;
  EXPECT_NE(result.err.find("/40000 rows of model:moba, "), std::string::npos) << result.err;
  EXPECT_NE(result.err.find(" s left\n"), std::string::npos) << result.err;
}

/// The commands of the program, as --help lists them: "check", "list kernels".
std::vector<std::string> commands(const std::string& of = "") {
  const std::string help = run(of + " --help").out;
  std::vector<std::string> names;
  const std::string title = "\nSubcommands:\n";
  const std::size_t place = help.find(title);
  if (place == std::string::npos) return names;
  std::istringstream lines(help.substr(place + title.size()));
  for (std::string line, name; std::getline(lines, line) && !line.empty();)
    if (std::istringstream(line) >> name && line.substr(2).starts_with(name)) {
      names.push_back(of + name);
      for (const std::string& inner : commands(of + name + " ")) names.push_back(inner);
    }
  return names;
}

TEST(CommandLine, HelpOfEveryCommandHasAnExampleThatRuns) {
  const auto all = commands();
  for (const char* name : {"check", "bench", "list kernels", "completion bash"})
    EXPECT_NE(std::find(all.begin(), all.end(), name), all.end()) << name;
  for (const std::string& name : all) {
    const std::string help = run(name + " --help").out, before = "Example:\n  ./attnspec ";
    const std::size_t begin = help.find(before);
    ASSERT_NE(begin, std::string::npos) << help;
    const std::string example =
        help.substr(begin + before.size(), help.find('\n', begin + before.size()) - begin - before.size());
    EXPECT_TRUE(example.starts_with(name.substr(0, name.find(' ')))) << example;
    const Outcome outcome = run(example, "cd " ATTNSPEC_SOURCE_DIR " && ");
    EXPECT_EQ(outcome.code, 0) << example << "\n" << outcome.out << outcome.err;
    EXPECT_NE(outcome.out, "") << example;
  }
}

/// The script in the repository's folder, with everything installed and built.
TEST(CommandLine, TheScriptPassesHelpOn) {
  const TemporaryPath directory("script");
  const std::filesystem::path top = directory.path(), build = top / "build/release", bin = top / "bin";
  std::filesystem::create_directories(build / "fuzz");
  std::filesystem::create_directories(bin);
  std::filesystem::copy_file(ATTNSPEC_SOURCE_DIR "/attnspec", top / "attnspec");
  std::filesystem::create_symlink(ATTNSPEC_PROGRAM, build / "fuzz/attnspec");
  std::ofstream(build / "build.ninja") << "";
  for (const auto& [tool, says] : {std::pair("ninja", "no work to do"), {"dpkg-query", "installed"}}) {
    std::ofstream(bin / tool) << "#!/bin/sh\necho " << says << "\n";
    std::filesystem::permissions(bin / tool, std::filesystem::perms::owner_all);
  }
  const auto script = [&](const std::string& arguments) {
    const TemporaryPath out("script_out");
    const int status = std::system(
        ("PATH=" + bin.string() + ":$PATH " + (top / "attnspec").string() + " " + arguments + " >" + out.string())
            .c_str());
    EXPECT_EQ(WEXITSTATUS(status), 0) << arguments;
    return read_file(out.path());
  };
  const std::string help = run("--help").out;
  EXPECT_EQ(script("--help"), help);
  EXPECT_EQ(script(""), help);
  EXPECT_EQ(script("list operators"), run("list operators").out);
}

/// What bash offers for a line that is typed so far.
std::string completions(const std::string& line, const std::string& word_breaks = ":=") {
  const TemporaryPath script("complete.sh");
  std::ofstream(script.path()) << "source <(" ATTNSPEC_PROGRAM " completion bash)\nCOMP_WORDBREAKS=$'" << word_breaks
                               << "' COMP_LINE=$1 COMP_POINT=${#1}\n_attnspec\necho \"${COMPREPLY[*]}\"\n";
  const TemporaryPath out("complete");
  EXPECT_EQ(std::system(("bash " + script.string() + " '" + line + "' >" + out.string()).c_str()), 0);
  std::string text = read_file(out.path());
  return text.substr(0, text.find('\n'));
}

TEST(CommandLine, CompletesCommandsOptionsAndValues) {
  EXPECT_EQ(completions("./attnspec "), "check fuzz bench defects power replay xray calibrate golden list completion");
  EXPECT_EQ(completions("attnspec de"), "defects");
  EXPECT_EQ(completions("attnspec list "), "operators kernels regimes laws arithmetic variants defects cases");
  EXPECT_EQ(completions("attnspec completion "), "bash");
  EXPECT_EQ(completions("attnspec check --"),
            "--help --level --cases --operator --stop-at-first --jobs --junit --report --json --timeout");
  EXPECT_EQ(completions("attnspec check model:moba --operator nsa"), "nsa_compress nsa_compressed nsa");
  EXPECT_EQ(completions("attnspec check --operator dense model:"), "moba nsa");
  EXPECT_EQ(completions("attnspec check --operator dense model:", "="), "model:moba model:nsa");
  EXPECT_EQ(completions("attnspec check --operator=moba_"), "moba_select");
  EXPECT_EQ(completions("attnspec check --operator=moba_", ":"), "--operator=moba_select");
  EXPECT_EQ(completions("attnspec fuzz model:moba --law r"), "repeat reciprocal");
  EXPECT_EQ(completions("attnspec fuzz defect:delta_m"), "delta_missing");
  EXPECT_EQ(completions("attnspec fuzz variant:ex"), "exp2");
  EXPECT_EQ(completions("attnspec fuzz model:moba+rounded_s"), "moba+rounded_sum");
  EXPECT_EQ(completions("attnspec defects delta_m"), "delta_missing");
  EXPECT_EQ(completions("attnspec defects --arithmetic fp32_out+rounded_su"), "fp32_out+rounded_sum");
  EXPECT_EQ(completions("attnspec calibrate --regime subn"), "subnormal");
  EXPECT_EQ(completions("attnspec calibrate --regime captured:layer"), "layer0 layer4");
  EXPECT_EQ(completions("attnspec replay x.cases --kernel model:n"), "nsa");
  EXPECT_EQ(completions("attnspec bench --direction "), "forward backward");
  EXPECT_EQ(completions("attnspec check --junit "), "");  // files
  EXPECT_EQ(completions("attnspec golden "), "");
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
