// bench as its users run it: the table, the JSON file, exit codes, one line for bad input.

#include <gtest/gtest.h>
#include <sys/wait.h>

#include <array>
#include <cstdio>
#include <nlohmann/json.hpp>

#include "cuda/device.hpp"
#include "verify/selftest/testing.hpp"

namespace attnspec {
namespace {

struct Outcome {
  int code;
  std::string out, err;
};

Outcome run(const std::string& arguments) {
  const TemporaryPath err("bench_err");
  FILE* pipe = popen((ATTNSPEC_PROGRAM " bench " + arguments + " 2>" + err.string()).c_str(), "r");
  Outcome result;
  std::array<char, 4096> buffer;
  while (const std::size_t n = fread(buffer.data(), 1, buffer.size(), pipe)) result.out.append(buffer.data(), n);
  result.code = WEXITSTATUS(pclose(pipe));
  result.err = read_file(err.path());
  return result;
}

void expect_one_line(const std::string& arguments, const std::string& line) {
  const Outcome result = run(arguments);
  EXPECT_EQ(result.code, 2) << arguments;
  EXPECT_EQ(result.out, "") << arguments;
  EXPECT_EQ(result.err, "attnspec: " + line + "\n") << arguments;
}

TEST(BenchCommand, GivesOneLineForBadInput) {
  expect_one_line("model:moba", "kernel 'model:moba': cannot be timed");
  expect_one_line(ATTNSPEC_EXAMPLE " --case 'dense(lens=20,law=repeat)'",
                  "case dense(lens=20,law=repeat): sessions and laws are not timed");
  expect_one_line(ATTNSPEC_EXAMPLE " --case 'dense(lens=20,session=again)'",
                  "case dense(lens=20,session=again): sessions and laws are not timed");
  expect_one_line(ATTNSPEC_EXAMPLE " --case 'dense(lens=-1)'",
                  "lens=-1: a length is negative, so that the offsets would decrease");
  expect_one_line(
      ATTNSPEC_EXAMPLE " --case 'dense(lens=20,heads=2)' --sample 3",
      "sample=3: must be 0, or at least 4: the first and the last row of every sequence and head are always "
      "judged");
  expect_one_line(ATTNSPEC_EXAMPLE " --case 'nsa(lens=20)'", "no kernel given implements the operator of a case");
  expect_one_line(ATTNSPEC_EXAMPLE " --case 'dense(lens=20)' --json /nonexistent/x.json",
                  "--json /nonexistent/x.json: cannot be written");
  EXPECT_EQ(run(ATTNSPEC_EXAMPLE " --direction sideways").code, 2);
  expect_one_line(ATTNSPEC_EXAMPLE " --repetitions 0", "--repetitions: 0 is below 1");
  expect_one_line(ATTNSPEC_EXAMPLE " --sample -1", "--sample: -1 is below 0");
  expect_one_line(ATTNSPEC_EXAMPLE " --seconds -2.5", "--seconds: -2.5 is not above 0");
  expect_one_line(ATTNSPEC_EXAMPLE " --seed -1", "--seed: -1 is below 0");
}

TEST(BenchCommand, SaysThatThereIsNoGpu) {
  const std::string why = cuda::find_devices().why_none;
  if (why.empty()) GTEST_SKIP() << "there is one";
  expect_one_line("", "no kernel given, and no cuda: kernels: " + why);
}

TEST(BenchCommand, TimesAndJudges) {
  const TemporaryPath file("bench.json");
  const Outcome result = run(ATTNSPEC_EXAMPLE
                             " --case 'dense(lens=30,heads=2,dk=16)' --case 'moba(lens=40,heads=2,dk=16,block=16)' "
                             "--sample 32 --repetitions 3 --seed 7 --json " +
                             file.string());
  EXPECT_EQ(result.code, 0) << result.out << result.err;
  EXPECT_NE(result.out.find("seed 7"), std::string::npos);
  EXPECT_NE(result.out.find("\nmoba(lens=40,heads=2,dk=16,block=16,sample=32)\n"), std::string::npos) << result.out;
  const auto json = nlohmann::json::parse(read_file(file.path()));
  EXPECT_EQ(json.at("plan").at("seed"), 7);
  ASSERT_EQ(json.at("results").size(), 2u);
  const auto& dense = json.at("results")[0];
  EXPECT_EQ(dense.at("kernel"), ATTNSPEC_EXAMPLE);
  EXPECT_EQ(dense.at("case"), "dense(lens=30,heads=2,dk=16,sample=32)");
  EXPECT_EQ(dense.at("verdict"), "pass");
  EXPECT_GT(dense.at("rows_judged"), 0);
  EXPECT_LE(dense.at("rows_judged"), 5 * 32);  // o, lse, dq, dk, dv
  EXPECT_GT(dense.at("workspace_bytes"), 0);
  ASSERT_EQ(dense.at("measurements").size(), 2u);
  const auto& forward = dense.at("measurements")[0];
  EXPECT_EQ(forward.at("direction"), "forward");
  EXPECT_EQ(forward.at("timed_by"), "host clock");
  EXPECT_EQ(forward.at("runs").size(), 6u);
  EXPECT_EQ(forward.at("entries"), 2 * 30 * 31 / 2);
  EXPECT_GT(forward.at("ms"), 0);
  EXPECT_EQ(json.at("results")[1].at("measurements").size(), 1u);  // the example's moba has no backward
}

TEST(BenchCommand, FailsWithAFinding) {
  const TemporaryPath file("bench.json");
  const Outcome result =
      run(ATTNSPEC_ADVERSARY " --case 'dense(lens=50,heads=4,dk=16)' --direction forward --json " + file.string());
  EXPECT_EQ(result.code, 1) << result.out << result.err;
  EXPECT_NE(result.out.find("\nFAIL "), std::string::npos) << result.out;
  EXPECT_NE(result.out.find(" | ./attnspec bench " ATTNSPEC_ADVERSARY " --case "), std::string::npos) << result.out;
  const auto json = nlohmann::json::parse(read_file(file.path())).at("results")[0];
  EXPECT_EQ(json.at("verdict"), json.at("findings")[0].at("verdict"));
  EXPECT_EQ(json.at("repeat"),
            "./attnspec bench " ATTNSPEC_ADVERSARY " --case '" + json.at("case").get<std::string>() + "'");
}

}  // namespace
}  // namespace attnspec
