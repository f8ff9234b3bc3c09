// The failure line, the table, exit codes, the JUnit file and JSON.

#include "verify/judge/report.hpp"

#include <gtest/gtest.h>

#include <cmath>
#include <nlohmann/json.hpp>
#include <pugixml.hpp>

#include "verify/judge/result_json.hpp"
#include "verify/selftest/testing.hpp"

namespace attnspec::verify {
namespace {

CaseResult result_with(Verdict verdict, const char* text = "moba(lens=9)") {
  CaseResult result;
  result.c = parse_case(text);
  result.kernel = "model:x";
  result.verdict = verdict;
  result.outputs.push_back({"o", 9, is_finding(verdict) ? 1 : 0, verdict == Verdict::undecided ? 2 : 0, 1.5, 4});
  if (is_finding(verdict)) result.findings.push_back({verdict, "o", 0, 4, 1, 5, 0.75, 0.5, 0.001, 31.5, 0, ""});
  return result;
}

TEST(FailureLine, HasAFixedGrammarAndEndsWithTheReplayCommand) {
  CaseResult result = result_with(Verdict::value_out_of_bound);
  EXPECT_EQ(failure_line(result, result.findings.at(0)),
            "FAIL value-out-of-bound model:x o[seq=0,token=4,head=1,d=5] => 0x1.8p-1 (0.75) expected 0x1p-1 (0.5) "
            "bound 0.001 ratio 250 | ./attnspec replay 'moba(lens=9)' --kernel model:x");
  result.findings.at(0).limit = 2;
  EXPECT_NE(failure_line(result, result.findings.at(0)).find("; its row R 31.5 limit 2 |"), std::string::npos);
  result.findings.at(0) = {Verdict::selection_mismatch, "selection", 0, 4, 1, -1, 0, 0, 0, 0, 0, "block 2 twice"};
  EXPECT_EQ(failure_line(result, result.findings.at(0)),
            "FAIL selection-mismatch model:x selection[seq=0,token=4,head=1] => block 2 twice | "
            "./attnspec replay 'moba(lens=9)' --kernel model:x");
}

TEST(FailureLine, NamesATensorWithoutAPlace) {
  CaseResult result = result_with(Verdict::stray_write);
  result.findings.at(0) = {Verdict::stray_write, "dk", -1, -1, -1, -1, 0, 0, 0, 0, 0, "memory outside it was written"};
  EXPECT_EQ(failure_line(result, result.findings.at(0)),
            "FAIL stray-write model:x dk => memory outside it was written | ./attnspec replay 'moba(lens=9)' --kernel "
            "model:x");
}

TEST(FailureLine, SaysOfHowManyRowsTheSampleIs) {
  CaseResult result = result_with(Verdict::value_out_of_bound);
  result.outputs[0].all = 1000;
  EXPECT_EQ(failure_line(result, result.findings.at(0)).find("judged"), std::string::npos);
  result.c.sample = 9;
  EXPECT_NE(failure_line(result, result.findings.at(0)).find(" ratio 250; judged 9 of 1000 rows of o | "),
            std::string::npos);
  EXPECT_NE(details(result).find("  a sample: judged 9 of 1000 rows of o\nverdict: "), std::string::npos);
}

TEST(UndecidedLine, SaysWhyAndHowToRepeatIt) {
  CaseResult result = result_with(Verdict::undecided);
  EXPECT_EQ(undecided_line(result),
            "UNDECIDED model:x: 2 of 11 rows of o | ./attnspec replay 'moba(lens=9)' --kernel model:x");
  result.reason = "backward not judged: it overflows";
  EXPECT_EQ(undecided_line(result),
            "UNDECIDED model:x: backward not judged: it overflows; 2 of 11 rows of o | ./attnspec replay "
            "'moba(lens=9)' --kernel model:x");
}

TEST(Table, CountsEveryVerdict) {
  const std::string text =
      table({result_with(Verdict::pass), result_with(Verdict::pass), result_with(Verdict::undecided),
             result_with(Verdict::value_out_of_bound, "dense(lens=9)")});
  EXPECT_EQ(text,
            "kernel   operator  cases  rows judged  worst R  undecided rows  verdicts\n"
            "model:x  moba          3           27     1.50               2  2 pass, 1 undecided\n"
            "model:x  dense         1            9     1.50               0  1 value-out-of-bound\n"
            "4 cases: 2 pass, 1 undecided, 1 value-out-of-bound\n"
            "UNDECIDED model:x: 2 of 11 rows of o | ./attnspec replay 'moba(lens=9)' --kernel model:x\n");
}

TEST(Table, NamesThePromiseThatLawCasesNeed) {
  CaseResult few = result_with(Verdict::not_supported, "dense(lens=9,law=packing)");
  few.reason = "law packing: the kernel does not promise to be batch-invariant";
  CaseResult many = result_with(Verdict::not_supported, "dense(lens=9,law=heads)");
  many.reason = "law heads: the kernel does not promise to be row-independent";
  CaseResult limited = many;
  limited.reason = "dk 64 is above its limit 32";
  const std::string text = table({result_with(Verdict::pass), few, many, many, limited});
  EXPECT_NE(text.find("5 cases: 1 pass, 1 not-supported, 1 law case needs batch-invariant, 2 law cases need "
                      "row-independent\n"),
            std::string::npos)
      << text;
}

TEST(Table, KeepsItsColumnsForEveryError) {
  CaseResult huge = result_with(Verdict::value_out_of_bound), infinite = huge, wrong = huge;
  huge.outputs[0].worst_r = 1.2345e99;
  infinite.c = parse_case("dense(lens=9)");
  infinite.outputs[0].worst_r = HUGE_VAL;
  wrong.c = parse_case("window(lens=9)");
  wrong.outputs[0].worst_r = 394.6;
  EXPECT_EQ(table({huge, infinite, wrong}),
            "kernel   operator  cases  rows judged   worst R  undecided rows  verdicts\n"
            "model:x  moba          1            9  1.23e+99               0  1 value-out-of-bound\n"
            "model:x  dense         1            9       inf               0  1 value-out-of-bound\n"
            "model:x  window        1            9       395               0  1 value-out-of-bound\n"
            "3 cases: 3 value-out-of-bound\n");
  EXPECT_NE(details(huge).find(" 1.23e+99 "), std::string::npos) << details(huge);
}

TEST(Table, EndsWithWhatAPassExcludes) {
  CaseResult pass = result_with(Verdict::pass), blind = result_with(Verdict::pass, "dense(lens=9)");
  pass.outputs[0].imagined = {{400, 300}, {90, 60}};
  EXPECT_TRUE(table({pass, pass})
                  .ends_with("2 cases: 2 pass\n"
                             "at 95 % model:x leaves out a block or key in fewer than 0.5 % of rows (3 / 600), and has "
                             "one too many in fewer than 2.5 % of rows (3 / 120)\n"));
  blind.outputs[0].imagined = {{9, 0}, {}};
  EXPECT_TRUE(table({blind}).ends_with(
      "1 cases: 1 pass\n"
      "INCONCLUSIVE model:x dense: a block or key left out, or one too many, would show in no row\n"
      "at 95 % model:x leaves out a block or key in an unknown number of rows (it would show in none), and has "
      "one too many in an unknown number of rows (it would show in none)\n"))
      << table({blind});
  EXPECT_EQ(exit_code({pass, blind}), 3);
  EXPECT_EQ(exit_code({pass, pass}), 0);
  CaseResult wrong = result_with(Verdict::value_out_of_bound);
  wrong.outputs[0].imagined = pass.outputs[0].imagined;
  EXPECT_TRUE(table({wrong}).ends_with("1 cases: 1 value-out-of-bound\n"));
}

TEST(ExitCode, IsZeroOneOrThree) {
  const CaseResult pass = result_with(Verdict::pass), wrong = result_with(Verdict::non_finite);
  CaseResult unsupported = result_with(Verdict::not_supported);
  unsupported.outputs.clear();
  EXPECT_EQ(exit_code({pass, pass}), 0);
  EXPECT_EQ(exit_code({pass, unsupported}), 0);
  EXPECT_EQ(exit_code({unsupported}), 3);
  EXPECT_EQ(exit_code({pass, result_with(Verdict::undecided)}), 3);
  EXPECT_EQ(exit_code({result_with(Verdict::undecided), wrong}), 1);
  unsupported.c = parse_case("dense()");
  EXPECT_EQ(exit_code({pass, unsupported}), 3);  // an operator of which nothing was judged
}

TEST(Junit, HoldsEveryCaseAndItsFindings) {
  const TemporaryPath file("junit.xml");
  write_junit(file.string(),
              {result_with(Verdict::pass), result_with(Verdict::value_out_of_bound), result_with(Verdict::undecided)});
  pugi::xml_document document;
  ASSERT_TRUE(document.load_file(file.path().c_str()));
  const pugi::xml_node suite = document.child("testsuites").child("testsuite");
  EXPECT_STREQ(suite.attribute("name").value(), "model:x moba");
  EXPECT_EQ(suite.attribute("tests").as_int(), 3);
  EXPECT_EQ(suite.attribute("failures").as_int(), 1);
  EXPECT_EQ(suite.attribute("skipped").as_int(), 1);
  EXPECT_EQ(
      std::string(suite.find_child([](pugi::xml_node n) { return n.child("failure"); }).child("failure").text().get())
          .substr(0, 5),
      "FAIL ");
  EXPECT_THROW(write_junit("/nonexistent/directory/x.xml", {}), std::runtime_error);
}

TEST(ErrorLine, IsOneLineWhateverItQuotes) {
  EXPECT_EQ(error_line(std::runtime_error("case 'a\nb\x7f\xc3\xa9'")), "attnspec: case 'a\\x0ab\\x7f\xc3\xa9'\n");
}

TEST(Json, HasThePartsOfAResultApart) {
  CaseResult result = result_with(Verdict::value_out_of_bound);
  result.directions = {{"o", {{"softmax scale off", 5, 1}, {"o scaled", -0.5, 1}}}, {"o2", {{"o scaled", 0.04, 1}}}};
  const nlohmann::ordered_json json = json_of(result);
  EXPECT_EQ(json.at("kernel"), "model:x");
  EXPECT_EQ(json.at("case"), "moba(lens=9)");
  EXPECT_EQ(json.at("verdict"), "value-out-of-bound");
  EXPECT_EQ(json.at("rows_judged"), 9);
  ASSERT_EQ(json.at("findings").size(), 1u);
  const auto& finding = json.at("findings")[0];
  EXPECT_EQ(finding.at("verdict"), "value-out-of-bound");
  EXPECT_EQ(finding.at("where"), "o[seq=0,token=4,head=1,d=5]");
  EXPECT_EQ(finding.at("failure"), failure(result, result.findings.at(0)));
  EXPECT_EQ(failure_line(result, result.findings.at(0)),
            finding.at("failure").get<std::string>() + " | " + json.at("repeat").get<std::string>());
  EXPECT_EQ(json.at("repeat"), "./attnspec replay 'moba(lens=9)' --kernel model:x");
  EXPECT_EQ(json.at("directions"),
            (std::vector<std::string>{"o, in deviations: softmax scale off 5.0, o scaled -0.5"}));
  EXPECT_EQ(json_of(result, bench_command).at("repeat"), "./attnspec bench model:x --case 'moba(lens=9)'");
}

TEST(Json, SaysWhyACaseIsNotSupported) {
  CaseResult result = result_with(Verdict::not_supported);
  EXPECT_FALSE(json_of(result).contains("reason"));
  result.reason = "dk 64 is above its limit 32";
  EXPECT_EQ(json_of(result).at("reason"), result.reason);
}

TEST(Json, IsOneLineOfUtf8WhateverAKernelSays) {
  CaseResult result = result_with(Verdict::call_failed);
  result.findings.at(0).detail = "no\nmemory \xff";
  const std::string text = json_text(json_of(result));
  EXPECT_EQ(text.find('\n'), text.size() - 1);
  EXPECT_NE(text.find("no\\nmemory \xef\xbf\xbd"), std::string::npos) << text;
}

TEST(Details, ShowEveryDirection) {
  CaseResult result = result_with(Verdict::pass);
  result.directions = {{"o", {{"softmax scale off", 0.04, 1}, {"o scaled", -5, 1}}}};
  EXPECT_NE(details(result).find("\n  o, in deviations: softmax scale off 0.0, o scaled -5.0\nverdict: "),
            std::string::npos)
      << details(result);
}

TEST(Details, ShowEveryOutput) {
  EXPECT_EQ(details(result_with(Verdict::pass)),
            "moba(lens=9)\nmodel:x  \n"
            "  output                  rows   worst R     rms R undecided     wrong\n"
            "  o                          9      1.50      0.67         0         0\n"
            "verdict: pass\n");
}

}  // namespace
}  // namespace attnspec::verify
