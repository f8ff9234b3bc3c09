// Reports: what they collect, and that nothing of it is markup.

#include <gtest/gtest.h>

#include <nlohmann/json.hpp>

#include "fuzz/report/html.hpp"
#include "fuzz/report/page.hpp"
#include "fuzz/report/report.hpp"
#include "fuzz/report/report_json.hpp"
#include "verify/kernels.hpp"

namespace {

using namespace attnspec::fuzz;
using namespace attnspec::verify;

FailingCase failing(const Kernel& kernel, const std::string& text) {
  FailingCase failing{.result = judge(kernel, parse_case(text)), .replay = "./attnspec"};
  failing.rows = judge_rows(kernel, failing.result);
  failing.numbers = few_numbers(failing.result.c);
  return failing;
}

TEST(ErrorMap, HasEveryRowOfTheWrongOutputs) {
  const JudgedAgain rows =
      failing(find_kernel("defect:future_token_visible"), "moba(lens=5+3,heads=2,dk=4,block=4)").rows;
  const ErrorMap& map = rows.maps.front();
  EXPECT_EQ(map.output, "o");
  EXPECT_EQ(map.lengths, (std::vector<std::int64_t>{5, 3}));
  EXPECT_EQ(map.heads, 2);
  EXPECT_TRUE(map.holds_all_rows);
  for (std::int64_t head = 0; head < 2; ++head) {
    EXPECT_EQ(map.level(0, head), RowLevel::wrong);
    EXPECT_LT(map.level(4, head), RowLevel::wrong);  // the last token of a sequence has no future
    EXPECT_LT(map.level(7, head), RowLevel::wrong);
    EXPECT_NE(map.level(7, head), RowLevel::not_judged);
  }
  const std::vector<WrongRun> wrong = wrong_rows(map);
  ASSERT_FALSE(wrong.empty());
  EXPECT_EQ(wrong.front().sequence, 0);
  EXPECT_EQ(wrong.front().first_token, 0);
  EXPECT_EQ(wrong.back().sequence, 1);
  EXPECT_EQ(wrong.back().head, 1);
  EXPECT_EQ(wrong.back().last_token, 1);
  ASSERT_FALSE(rows.wrong.empty());
  EXPECT_EQ(rows.wrong.front().expected.size(), 4u);
}

TEST(ErrorMap, OfALawHasTheRowsThatTheFindingsName) {
  const JudgedAgain rows = failing(find_kernel("defect:ties_decided_by_neighbours"),
                                   "moba_select(lens=3+1,dk=3,block=1,top_k=2,regime=tie,law=packing)")
                               .rows;
  ASSERT_EQ(rows.maps.size(), 1u);
  EXPECT_FALSE(rows.maps.front().holds_all_rows);
  EXPECT_EQ(rows.maps.front().level(2, 0), RowLevel::wrong);
  EXPECT_EQ(rows.maps.front().level(1, 0), RowLevel::not_judged);
}

TEST(Numbers, AreThoseOfTinyCasesOnly) {
  const auto few = few_numbers(parse_case("selected(lens=2,dk=2,block=1,top_k=2)"));
  ASSERT_TRUE(few);
  std::vector<std::string> names;
  for (const InputTensor& tensor : *few) names.push_back(tensor.name);
  EXPECT_EQ(names, (std::vector<std::string>{"q", "k", "v", "d_o", "selection"}));
  EXPECT_EQ(few->front().rows.size(), 2u);
  EXPECT_EQ(few->front().rows.front().values.size(), 2u);
  EXPECT_FALSE(few_numbers(parse_case("selected(lens=40,dk=2,block=1,top_k=2)")));
}

TEST(CaughtDefects, AreThoseThatSomeCaseShows) {
  const Kernel kernel = find_kernel("model:moba");
  const std::vector<CaseResult> window{judge(kernel, parse_case("window(lens=40,window=8)"))};
  const std::vector<CaughtDefect> caught = caught_defects(kernel, window);
  std::set<std::string> by_name;
  for (const CaughtDefect& defect : caught) {
    EXPECT_EQ(defect.op, Operator::window) << defect.name;
    if (!defect.caught_by.empty()) by_name.insert(defect.name);
  }
  EXPECT_TRUE(caught.empty());  // model:moba has no window
  const Kernel nsa = find_kernel("model:nsa");
  for (const CaughtDefect& defect : caught_defects(nsa, {judge(nsa, parse_case("window(lens=40,window=8)"))}))
    if (!defect.caught_by.empty()) by_name.insert(defect.name);
  EXPECT_TRUE(by_name.contains("window_of_one_more"));
  const std::vector<CaughtDefect> late =
      caught_defects(nsa, {judge(nsa, parse_case("window(lens=40,window=8)"))}, std::chrono::seconds(0));
  EXPECT_FALSE(late.empty());
  EXPECT_EQ(late.front().cases, 0);
}

TEST(Report, SumsByKernelAndOperator) {
  const std::vector<Kernel> kernels{find_kernel("model:moba"), find_kernel("defect:future_token_visible"),
                                    find_kernel("model:nsa")};
  Reporter reporter("check", kernels);
  std::vector<CaseResult> results;
  for (const char* text : {"moba(lens=40,heads=2,block=16)", "moba(lens=50,block=16,dtype=fp16)",
                           "moba(lens=30,block=16,law=repeat)", "moba(lens=60,block=16)"})
    for (const Kernel& kernel : {kernels[0], kernels[1]}) results.push_back(judge(kernel, parse_case(text)));
  reporter.note(kernels[0], "");
  reporter.note(kernels[0], "a note\n");
  const Report report = reporter.finish(results, 1, true);
  ASSERT_EQ(report.kernels.size(), 2u);  // the third judged nothing
  const KernelResults &model = report.kernels[0], &defect = report.kernels[1];
  EXPECT_EQ(model.notes, std::vector<std::string>{"a note"});
  EXPECT_EQ(model.cases(), 4);
  EXPECT_EQ(model.findings(), 0);
  EXPECT_EQ(defect.findings(), 3);
  EXPECT_EQ(report.findings(), 3);
  EXPECT_EQ(report.outcome(), "fail");
  ASSERT_EQ(model.operators.size(), 1u);
  EXPECT_EQ(model.operators[0].arithmetic.size(), 2u);
  EXPECT_EQ(model.operators[0].outputs[0].rows, 80 + 50 + 60);  // the selection, without the law's
  ASSERT_EQ(model.laws.size(), 1u);
  EXPECT_EQ(model.laws[0].passed, 1);
  EXPECT_EQ(model.slowest.size(), 4u);
  ASSERT_EQ(report.failing.size(), 3u);
  EXPECT_FALSE(report.failing[0].rows.maps.empty());
}

TEST(Report, ShowsEachKindOfFindingFirst) {
  const std::vector<Kernel> kernels{find_kernel("defect:future_token_visible")};
  std::vector<CaseResult> results;
  for (int seed = 0; seed < 25; ++seed)
    results.push_back(judge(kernels[0], parse_case("moba(lens=4,dk=2,block=4,seed=" + std::to_string(seed) + ")")));
  results.push_back(results.back());
  results.back().verdict = results.back().findings.front().verdict = Verdict::hang;
  const Report report = Reporter("check", kernels).finish(results, 1, true);
  ASSERT_EQ(report.failing.size(), kMaxShownCases);
  EXPECT_EQ(report.failing[1].result.verdict, Verdict::hang);
  EXPECT_TRUE(report.failing[1].rows.maps.empty());  // it would hang again
  EXPECT_EQ(report.findings(), 26);
}

TEST(Report, IsInconclusiveAsTheExitCodeIs) {
  const std::vector<Kernel> kernels{find_kernel("model:moba")};
  const CaseResult pass = judge(kernels[0], parse_case("moba(lens=40,block=16)"));
  EXPECT_EQ(Reporter("check", kernels).finish({pass}, 1, true).outcome(), "pass");
  EXPECT_EQ(Reporter("check", kernels).finish({pass}, 1, false).outcome(), "inconclusive");
  EXPECT_EQ(Reporter("check", kernels).finish(std::vector<CaseResult>{}, 1, true).outcome(), "inconclusive");
  CaseResult undecided = pass;
  undecided.verdict = Verdict::undecided;
  const Report report = Reporter("check", kernels).finish({pass, undecided}, 1, true);
  EXPECT_EQ(report.outcome(), "inconclusive");
  EXPECT_EQ(report.undecided.size(), 1u);
}

TEST(Page, ShowsWhatWasFoundAndEscapesIt) {
  const std::string markup = "<script>alert('&')</script>\n\x1b";
  Kernel kernel = find_kernel("defect:future_token_visible");
  kernel.name = kernel.summary = markup;
  FailingCase shown = failing(kernel, "moba(lens=2,dk=1,block=2)");
  shown.result.findings[0].detail = shown.replay = markup;
  shown.xray = "<svg id=\"xray\"></svg>";
  const std::vector<Kernel> kernels{kernel};
  Reporter reporter("replay", kernels);
  reporter.add(shown.result);
  reporter.note(kernel, markup);
  reporter.explain(kernel, {.stage = markup});
  reporter.show(shown);
  const Report report = reporter.finish(1, true);
  const std::string page = report_page(report);
  EXPECT_EQ(page.find("<script"), std::string::npos);
  EXPECT_EQ(page.find('\x1b'), std::string::npos);
  EXPECT_NE(page.find("&lt;script&gt;alert(&#39;&amp;&#39;)&lt;/script&gt;"), std::string::npos);
  EXPECT_NE(page.find("<svg id=\"xray\">"), std::string::npos);
  EXPECT_EQ(page.find("http://"), std::string::npos);
  EXPECT_EQ(page.find("https://"), std::string::npos);
  EXPECT_NE(page.find("By hand"), std::string::npos);
  const auto json = nlohmann::json::parse(report_json(report));
  EXPECT_EQ(json["version"], kReportVersion);
  EXPECT_EQ(json["kernels"][0]["diagnosis"][0], "stage: " + markup);
  EXPECT_EQ(json["failing"][0]["repeat"], markup);
  EXPECT_EQ(json["failing"][0]["xray_svg"], *shown.xray);
}

TEST(Html, FormatsNumbers) {
  EXPECT_EQ(html::count(12), "12");
  EXPECT_EQ(html::count(-123), "-123");
  EXPECT_EQ(html::count(1234567), "1&#8239;234&#8239;567");
  EXPECT_EQ(html::counted(1, "row"), "1 row");
  EXPECT_EQ(html::percent(1, 3), "33.3&nbsp;%");
  EXPECT_EQ(html::percent(0, 0), "&ndash;");
  EXPECT_EQ(html::duration(0.0123), "12&nbsp;ms");
  EXPECT_EQ(html::duration(12.34), "12.3&nbsp;s");
  EXPECT_EQ(html::duration(245), "4&nbsp;min&nbsp;05&nbsp;s");
}

}  // namespace
