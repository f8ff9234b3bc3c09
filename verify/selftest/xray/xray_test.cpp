// X-rays: the model kernel is clean, planted defects are named by the kind and the place of their first wrong weight,
// and selections that a kernel keeps to itself are recovered.

#include "verify/xray/xray.hpp"

#include <gtest/gtest.h>

#include <algorithm>
#include <filesystem>
#include <pugixml.hpp>
#include <regex>
#include <set>
#include <stdexcept>
#include <string>
#include <vector>

#include "verify/cases/levels.hpp"
#include "verify/model/variants/variants.hpp"
#include "verify/selftest/judge/altered_kernel.hpp"
#include "verify/selftest/testing.hpp"
#include "verify/xray/indicators.hpp"
#include "verify/xray/recovered_selection.hpp"

namespace attnspec::verify {
namespace {

using namespace reference;

Xray xray_of(const std::string& kernel, const std::string& text) { return xray(find_kernel(kernel), parse_case(text)); }

/// The model kernel that implements an operator.
Kernel model_of(Operator op) {
  const Kernel moba = find_kernel("model:moba");
  return implements(moba, op) ? moba : find_kernel("model:nsa");
}

/// Every so many of the cases of level 1 that an X-ray takes a moment for.
std::vector<Case> small_cases(Operator op, std::size_t step) {
  std::vector<Case> all = level_cases(op, 1), cases;
  std::erase_if(all, [](const Case& c) {
    std::int64_t weights = 0, calls = 0;
    for (const Attention& attention : attentions_of(c)) {
      weights += attention.query_rows() * attention.columns();
      calls += (attention.query_rows() + attention.columns()) / c.dv;
    }
    return !c.session.empty() || weights > 4000 || calls > 60;
  });
  for (std::size_t i = 0; i < all.size(); i += step) cases.push_back(all[i]);
  return cases;
}

TEST(Xray, IsCleanOfTheModelKernelForEveryOperatorThatAttends) {
  for (const Operator op : kOperators) {
    if (!attends(op)) continue;
    const std::vector<Case> cases = small_cases(op, 2);
    EXPECT_GT(cases.size(), 10u) << name(op);
    std::int64_t whole = 0;
    for (const Case& c : cases) {
      const Xray result = xray(model_of(op), c);
      EXPECT_TRUE(result.is_clean()) << words(result);
      EXPECT_TRUE(result.notes.empty()) << words(result);
      whole += result.is_whole();
    }
    EXPECT_GT(2 * whole, std::ssize(cases)) << name(op);
  }
}

TEST(Xray, IsCleanOfEquivalentVariants) {
  for (const model::Variant& variant : model::variants()) {
    const Kernel kernel = find_kernel(std::string("variant:") + variant.name);
    for (const Operator op : kernel.operators) {
      if (!attends(op)) continue;
      for (const Case& c : small_cases(op, 24)) {
        const Xray result = xray(kernel, c);
        EXPECT_TRUE(result.is_clean()) << words(result);
      }
    }
  }
}

TEST(Xray, OfTheSpecificationHasTheWeightsOfTheModelKernel) {
  for (const char* text :
       {"moba(lens=20+9,heads=4,kv_heads=2,dk=8,block=4,dtype=fp32)",
        "selected(lens=20,heads=2,dk=8,block=4,dtype=fp32)", "window(lens=20,dk=8,window=5,dtype=fp32)",
        "nsa(lens=40+17,heads=4,kv_heads=2,dk=8,compress_block=8,compress_stride=4,block=8,top_n=3,"
        "window=9,dtype=fp32)"}) {
    const Case c = parse_case(text);
    const Xray specified = xray(c), observed = xray(model_of(c.op), c);
    ASSERT_EQ(specified.attentions.size(), observed.attentions.size());
    for (std::size_t i = 0; i < specified.attentions.size(); ++i) {
      const Matrix &expected = specified.attentions[i].forward.observed,
                   &weights = observed.attentions[i].forward.observed;
      EXPECT_LT((expected - weights).cwiseAbs().maxCoeff(), 1e-5) << text;
      EXPECT_LT((expected - observed.attentions[i].backward.observed).cwiseAbs().maxCoeff(), 1e-5) << text;
    }
  }
}

/// A planted defect, and the first wrong weight of one direction of one attention.
struct Planted {
  const char *kernel, *text;
  std::size_t attention;
  bool is_backward;
  WeightFault fault;
  Place query, key;
};

class XrayOfDefect : public testing::TestWithParam<Planted> {};

TEST_P(XrayOfDefect, NamesTheFirstWrongWeight) {
  const Planted& planted = GetParam();
  const Xray result = xray_of(planted.kernel, planted.text);
  const AttentionXray& one = result.attentions[planted.attention];
  const Weights& weights = planted.is_backward ? one.backward : one.forward;
  ASSERT_FALSE(weights.findings.empty()) << words(result);
  const auto of_kind = std::find_if(weights.findings.begin(), weights.findings.end(),
                                    [&](const WeightFinding& finding) { return finding.fault == planted.fault; });
  ASSERT_NE(of_kind, weights.findings.end()) << words(result);
  EXPECT_EQ(of_kind->query, planted.query) << words(result);
  EXPECT_EQ(of_kind->key, planted.key) << words(result);
}

INSTANTIATE_TEST_SUITE_P(
    Xray, XrayOfDefect,
    testing::Values(
        Planted{"defect:future_token_visible",
                "moba(lens=8,dk=8,block=2)",
                0,
                false,
                WeightFault::future_key,
                {0, 0, 0},
                {0, 1, 0}},
        Planted{"defect:future_token_visible",
                "moba(lens=8,dk=8,block=2)",
                0,
                true,
                WeightFault::future_key,
                {0, 0, 0},
                {0, 1, 0}},
        Planted{"defect:compressed_from_its_start",
                "nsa_compressed(lens=40,dk=8,compress_block=8,compress_stride=4,block=8,top_n=3)",
                0,
                false,
                WeightFault::future_key,
                {0, 0, 0},
                {0, 0, 0}},
        Planted{"defect:top_k_one_is_dense",
                "moba(lens=8,dk=8,block=2,top_k=1)",
                0,
                false,
                WeightFault::unselected_block,
                {0, 2, 0},
                {0, 0, 0}},
        Planted{
            "defect:one_key_dropped", "dense(lens=12,dk=8)", 0, false, WeightFault::missing_key, {0, 1, 0}, {0, 0, 0}},
        Planted{"defect:last_short_block_dropped",
                "selected(lens=7,dk=8,block=3)",
                0,
                false,
                WeightFault::missing_own_block,
                {0, 6, 0},
                {0, 6, 0}},
        Planted{"defect:own_block_not_forced",
                "moba(lens=12,dk=8,block=2)",
                0,
                false,
                WeightFault::missing_own_block,
                {0, 6, 0},
                {0, 6, 0}},
        Planted{"defect:window_of_one_more",
                "window(lens=12,dk=8,window=4)",
                0,
                false,
                WeightFault::outside_window,
                {0, 4, 0},
                {0, 0, 0}},
        Planted{"defect:window_of_one_less",
                "window(lens=12,dk=8,window=4)",
                0,
                false,
                WeightFault::missing_key,
                {0, 3, 0},
                {0, 0, 0}},
        Planted{"defect:backward_without_window",
                "window(lens=12,dk=8,window=4)",
                0,
                true,
                WeightFault::outside_window,
                {0, 4, 0},
                {0, 0, 0}},
        Planted{"defect:wrong_gqa_map",
                "selected(lens=12+5,heads=4,kv_heads=2,dk=8,block=4)",
                0,
                false,
                WeightFault::other_kv_head,
                {0, 0, 1},
                {0, 0, 1}},
        Planted{
            "defect:scale_off", "moba(lens=64,block=8)", 0, false, WeightFault::wrong_weight, {0, 2, 0}, {0, 1, 0}}),
    [](const auto& planted) {
      return planted.param.kernel + std::string("defect:").size() + ("_" + std::to_string(planted.index));
    });

TEST(Xray, SeesAKeyOfAnotherSequence) {
  const Xray result = xray_of("defect:empty_slot_is_row_before", "selected(lens=9+9,dk=8,block=4,top_k=4)");
  const auto& findings = result.attentions[0].forward.findings;
  ASSERT_FALSE(findings.empty());
  EXPECT_EQ(findings[0].fault, WeightFault::other_sequence) << words(result);
  EXPECT_EQ(findings[0].query.sequence, 1);
  EXPECT_EQ(findings[0].key, (Place{0, 8, 0}));
}

TEST(Xray, IsOfEachBranchOfNsa) {
  Kernel kernel = find_kernel("model:nsa");
  replace_forward(kernel, [](const AnyCall& call, const DoCall& do_call) {
    NsaProblem problem = call.nsa;
    ++problem.window;
    do_call({call.op, call.is_backward, call.problem, problem, call.tensors, call.selection, call.workspace});
  });
  const Xray result =
      xray(kernel, parse_case("nsa(lens=40,dk=8,compress_block=8,compress_stride=4,block=8,top_n=3,window=9)"));
  ASSERT_EQ(result.attentions.size(), 3u);
  EXPECT_TRUE(result.attentions[0].is_clean() && result.attentions[1].is_clean()) << words(result);
  const Weights& window = result.attentions[2].forward;
  ASSERT_EQ(window.findings.size(), 31u) << words(result);
  EXPECT_EQ(window.findings[0].fault, WeightFault::outside_window);
  EXPECT_EQ(window.findings[0].query, (Place{0, 9, 0}));
  EXPECT_EQ(window.findings[0].key, (Place{0, 0, 0}));
}

TEST(Xray, NamesALeakOfARowBeforeWhatIsMissing) {
  const Xray result = xray_of("defect:wrong_gqa_map", "selected(lens=12+5,heads=4,kv_heads=2,dk=8,block=4)");
  EXPECT_EQ(result.attentions[0].forward.findings[0].fault, WeightFault::other_kv_head) << words(result);
}

TEST(Xray, RowsWithALeakAreNotAccusedOfTheWeightsThatFollow) {
  const Xray result = xray_of("defect:future_token_visible", "moba(lens=8,dk=8,block=2)");
  const Weights& weights = result.attentions[0].forward;
  EXPECT_EQ(weights.followers, 4);
  for (const WeightFinding& finding : weights.findings) EXPECT_EQ(finding.fault, WeightFault::future_key);
}

/// The kernel, without its selection.
Kernel hiding(const std::string& name) {
  Kernel kernel = find_kernel(name);
  kernel.exports_selection = false;
  replace_forward(kernel, [](const AnyCall& call, const DoCall& do_call) {
    std::vector<std::int32_t> elsewhere(
        static_cast<std::size_t>(call.selection.tokens * call.selection.heads * call.selection.slots));
    AnyCall own = call;
    own.selection =
        packed_selection(elsewhere.data(), call.selection.tokens, call.selection.heads, call.selection.slots);
    do_call(own);
  });
  return kernel;
}

TEST(HiddenSelections, AreRecovered) {
  for (const char* text :
       {"moba(lens=40+9,heads=4,kv_heads=2,dk=8,block=4)", "moba(lens=40,dk=8,block=4,causal=0)",
        "moba(lens=112,block=16,top_k=3,regime=tie)", "moba(lens=400,q_lens=9,block=8,top_k=6,regime=tie)",
        "moba(lens=40,dk=8,block=4,gate=sink)"}) {
    const Xray open = xray_of("model:moba", text), hidden = xray(hiding("model:moba"), parse_case(text));
    EXPECT_EQ(hidden.attentions[0].source, SelectionSource::recovered);
    EXPECT_TRUE(hidden.is_clean() && hidden.is_whole()) << words(hidden);
    const Selection &wrote = open.attentions[0].selection, &recovered = hidden.attentions[0].selection;
    for (std::int64_t token = 0; token < wrote.tokens; ++token)
      for (std::int64_t head = 0; head < wrote.heads; ++head) {
        const auto sorted = [](std::span<const std::int32_t> row) {
          Blocks blocks(row.begin(), row.end());
          std::sort(blocks.begin(), blocks.end());
          return blocks;
        };
        EXPECT_EQ(sorted(wrote.row(token, head)), sorted(recovered.row(token, head))) << text << " " << token;
      }
  }
}

TEST(HiddenSelections, OfWeightsThatVanishAreCompleted) {
  for (const char* regime : {"disagreeing_heads", "underflow", "levers", "spiky"}) {
    const std::string text = std::string("moba(lens=100,dk=8,block=4,top_k=5,scale=40,regime=") + regime + ")";
    const Xray hidden = xray(hiding("model:moba"), parse_case(text));
    EXPECT_TRUE(hidden.is_clean()) << words(hidden);
  }
}

TEST(HiddenSelections, AreWrongByWeights) {
  const Xray result = xray(hiding("defect:own_block_not_forced"), parse_case("moba(lens=12,dk=8,block=2)"));
  const auto& findings = result.attentions[0].forward.findings;
  ASSERT_EQ(findings.size(), 12u) << words(result);
  EXPECT_EQ(findings[0].fault, WeightFault::unselected_block);
  EXPECT_EQ(findings[0].query, (Place{0, 6, 0}));
  EXPECT_EQ(findings[0].key, (Place{0, 2, 0}));
  EXPECT_GT(findings[0].observed, 0);
  EXPECT_EQ(findings[2].fault, WeightFault::missing_own_block);
  EXPECT_EQ(findings[2].key, (Place{0, 6, 0}));
  EXPECT_EQ(findings[2].observed, 0);
  EXPECT_GT(findings[2].expected, findings[2].bound);
}

TEST(RecoveredSelection, IsTheLightestThatIsAdmissible) {
  const SelectionRule rule{4, 2, {3}, {1, 1, 1, 0}, {0, 0, 0, 0}};
  const auto weight = [](const Blocks&, std::int32_t b) { return b == 1 ? 0.0 : 0.5; };
  EXPECT_EQ(recovered_selection(rule, {0, 3}, weight), (Blocks{0, 3}));
  EXPECT_EQ(recovered_selection(rule, {3}, weight), (Blocks{3, 1}));
  EXPECT_EQ(recovered_selection(rule, {2}, weight), (Blocks{3, 2}));
  EXPECT_EQ(nearest_admissible(rule, {0, 1}, weight), (Blocks{3, 0}));
}

TEST(Xray, SaysWhatASelectionIsWorthThatCannotBeOne) {
  const Kernel kernel = altered([](const AnyCall& call) { call.selection.row(5, 0)[0] = 9; });
  const Xray result = xray(kernel, parse_case("moba(lens=12,dk=8,block=2)"));
  ASSERT_EQ(result.attentions[0].forward.findings.size(), 1u) << words(result);
  EXPECT_EQ(result.attentions[0].forward.findings[0].fault, WeightFault::malformed_selection);
  EXPECT_EQ(result.attentions[0].backward.why_not, "the selection that it would be given is malformed");
  EXPECT_FALSE(result.is_whole());
}

TEST(Xray, NotesASelectionThatDependsOnValues) {
  const Kernel kernel = altered([](const AnyCall& call) {
    if (call["v"].load(8, 0, 0) == 1) std::swap(call.selection.row(11, 0)[0], call.selection.row(11, 0)[1]);
  });
  const Xray result = xray(kernel, parse_case("moba(lens=12,dk=8,block=2)"));
  EXPECT_EQ(result.notes, std::vector<std::string>{"selection => differs between calls that differ in v alone"});
}

TEST(Xray, SaysThatANumberIsMissing) {
  const Kernel kernel = altered([](const AnyCall& call) { call["o"].store(3, 0, 1, std::nan("")); });
  const Xray result = xray(kernel, parse_case("dense(lens=6,dk=8)"));
  const auto& findings = result.attentions[0].forward.findings;
  ASSERT_EQ(findings.size(), 1u);
  EXPECT_EQ(findings[0].fault, WeightFault::wrong_weight);
  EXPECT_EQ(findings[0].key, (Place{0, 1, 0}));
}

TEST(Xray, CannotSeeThroughAWrongCompression) {
  const Kernel kernel = with_altered_outputs(find_kernel("model:nsa"),
                                             [](const AnyCall& call) { call["v_compressed"].store(1, 0, 3, 0.5); });
  const Xray result =
      xray(kernel, parse_case("nsa(lens=40,dk=8,compress_block=8,compress_stride=4,block=8,top_n=3,window=9)"));
  EXPECT_FALSE(result.is_whole());
  EXPECT_NE(result.attentions[0].forward.why_not.find("v_compressed"), std::string::npos) << words(result);
  EXPECT_TRUE(result.attentions[2].forward.why_not.empty());
}

TEST(IndicatorValues, AreCompressedRowsWithOneNumberEach) {
  for (const char* phi : {"phi=mean,compress_block=12,compress_stride=4", "phi=mean,compress_block=4,compress_stride=4",
                          "phi=mean,compress_block=5,compress_stride=1", "phi=linear", "phi=mlp,hidden=3",
                          "phi=mlp,activation=gelu,hidden=9,shared_phi=1"}) {
    const Case c =
        parse_case(std::string("nsa(lens=30+41,heads=2,dk=4,dv=6,block=12,dtype=fp32,") +
                   (phi[4] == 'm' && phi[5] == 'e' ? "" : "compress_block=12,compress_stride=4,") + phi + ")");
    const Attention attention = attentions_of(c).front();
    const std::int64_t width = columns_of_a_call(c, attention);
    for (std::int64_t first = 0; first < attention.columns(); first += width) {
      Inputs inputs = make_inputs(c);
      set_indicator_values(c, attention, first, width, inputs);
      const Tensor rows = compress(nsa_problem_of(c), phi_heads(inputs.phi_v), inputs.v);
      for (std::int64_t column = 0; column < attention.columns(); ++column)
        for (std::int64_t d = 0; d < c.dv; ++d) {
          const double value = rows.at(column % rows.tokens, column / rows.tokens)[d];
          if (d < width && first + d == column)
            EXPECT_GT(value, 0.5) << phi;
          else
            EXPECT_EQ(value, 0) << phi;
        }
    }
  }
}

TEST(Xray, RefusesWhatItCannotDo) {
  const auto message = [](const std::string& kernel, const std::string& text) {
    return message_of<std::invalid_argument>([&] { xray_of(kernel, text); });
  };
  EXPECT_EQ(message("model:moba", "moba_select(lens=12)"),
            "case 'moba_select(lens=12)': cannot be X-rayed: moba_select does not attend");
  EXPECT_EQ(message("model:moba", "dense(lens=12,session=contents)"),
            "case 'dense(lens=12,session=contents)': cannot be X-rayed: session is several calls, leave it out");
  EXPECT_EQ(message("model:moba", "dense(lens=1025)"),
            "case 'dense(lens=1025)': cannot be X-rayed: it has 1050625 pairs of a query row and a key row, the limit "
            "is 1048576");
  EXPECT_EQ(message("model:moba", "dense(lens=5000,q_lens=100,dv=1)"),
            "case 'dense(lens=5000,q_lens=100,dv=1)': cannot be X-rayed: dv=1 needs 5100 calls, the limit is 4096");
  EXPECT_EQ(message("model:moba", "window(lens=12)"),
            "case 'window(lens=12)': cannot be X-rayed: model:moba: does not implement the operator");
  EXPECT_EQ(message_of<std::invalid_argument>([] { xray(parse_case("nsa_compress(lens=64)")); }),
            "case 'nsa_compress(lens=64)': cannot be X-rayed: nsa_compress does not attend");
}

TEST(Xray, IsOfEveryRowAndNotOfALaw) {
  const Xray result = xray_of("model:moba", "dense(lens=70,dk=8,law=future)");
  EXPECT_EQ(print(result.c), "dense(lens=70,dk=8)");
  EXPECT_EQ(xray_of("model:moba", "dense(lens=70,dk=8,sample=40)").attentions[0].forward.seen, 2485);
}

TEST(XrayInWords, NamesKindPlaceAndWeights) {
  EXPECT_EQ(
      words(xray_of("defect:future_token_visible", "moba(lens=4,dk=8,block=2)")),
      "moba(lens=4,dk=8,block=2)\n"
      "defect:future_token_visible  bf16 in; P~, P, dS bf16; normaliser sums unrounded weights; mean keys fp32; "
      "partial outputs fp32; out bf16\n"
      "o: 4 query rows x 4 keys, 1 call, on the selection that the kernel wrote\n"
      "  future key: 2 times in 2 rows\n"
      "    the first: sequence 0, head 0, query 0 at t = 0, which sees key 0: key 1 has weight 0.4141, where none "
      "belongs\n"
      "  other weights of 2 such rows are off too, since the weights of a row sum to 1\n"
      "dv: 4 query rows x 4 keys, 1 call, on the selection that the kernel wrote\n"
      "  future key: 2 times in 2 rows\n"
      "    the first: sequence 0, head 0, query 0 at t = 0, which sees key 0: key 1 has weight 0.4141, where none "
      "belongs\n"
      "FAIL future-key defect:future_token_visible o[seq=0,token=0,head=0,key=1] => 0.4141 expected 0 | ./attnspec "
      "xray "
      "'moba(lens=4,dk=8,block=2)' --kernel defect:future_token_visible\n"
      "FAIL future-key defect:future_token_visible dv[seq=0,token=0,head=0,key=1] => 0.4141 expected 0 | ./attnspec "
      "xray "
      "'moba(lens=4,dk=8,block=2)' --kernel defect:future_token_visible\n");
}

TEST(XrayInWords, SaysWhyARowSelectedItsBlocks) {
  EXPECT_EQ(words(xray(parse_case("moba(lens=7,dk=8,block=2,top_k=2)"))),
            "moba(lens=7,dk=8,block=2,top_k=2)\n"
            "the specification, no kernel\n"
            "o, sequence 0, head 0\n"
            "query  sees keys  selected                   left out                                  margin\n"
            "    0  0          0 own                      -                                         -\n"
            "    1  0-1        0 own                      -                                         -\n"
            "    2  0-2        1 own, 0 (2.289, rank 1)   -                                         -\n"
            "    3  0-3        1 own, 0 (-1.491, rank 1)  -                                         -\n"
            "    4  0-1 4      2 own, 0 (-1.141, rank 1)  1 (-2.477, rank 2)                        1.34, rounding "
            "4.4e-06\n"
            "    5  2-5        2 own, 1 (0.8178, rank 1)  0 (-0.5109, rank 2)                       1.33, rounding "
            "3.1e-06\n"
            "    6  4-6        3 own, 2 (1.316, rank 1)   0 (0.8123, rank 2), 1 (-0.05254, rank 3)  0.503, rounding "
            "2.3e-06\n");
}

TEST(XrayInWords, SaysWhichSelectionIsWrongAndWhy) {
  const std::string text = words(xray_of("defect:own_block_not_forced", "moba(lens=12,dk=8,block=2)"));
  EXPECT_NE(
      text.find("  missing own block: 4 times in 4 rows\n"
                "    the first: sequence 0, head 0, query 6 at t = 6, which sees keys 0-5: the row leaves out block "
                "3: forced block 3 is missing\n"),
      std::string::npos)
      << text;
}

TEST(XrayInWords, CountsWeightsThatRoundingHides) {
  const std::string text = words(xray_of("model:moba", "dense(lens=40,dk=8,scale=20)"));
  EXPECT_NE(text.find(" weights are so small that rounding hides whether they are there\n"), std::string::npos) << text;
  EXPECT_NE(text.find("X-ray: clean\n"), std::string::npos) << text;
}

/// The path that a colour is drawn with; empty where nothing has it.
std::string drawn(const std::string& picture, const std::string& colour) {
  pugi::xml_document document;
  EXPECT_TRUE(document.load_string(picture.c_str()));
  return document.child("svg").find_child_by_attribute("path", "fill", colour.c_str()).attribute("d").value();
}

TEST(XrayPicture, DrawsLeaksInRedAndWhatIsMissingInBlue) {
  constexpr const char *kRed = "#d32f2f", *kBlue = "#1565c0", *kOrange = "#ef8f00";
  const std::string clean = svg(xray_of("model:moba", "moba(lens=8,dk=8,block=2)")),
                    leak = svg(xray_of("defect:future_token_visible", "moba(lens=8,dk=8,block=2)")),
                    missing = svg(xray_of("defect:one_key_dropped", "dense(lens=12,dk=8)")),
                    wrong = svg(xray_of("defect:scale_off", "moba(lens=64,block=8)"));
  for (const char* colour : {kRed, kBlue, kOrange}) EXPECT_EQ(drawn(clean, colour), "");
  EXPECT_EQ(std::ranges::count(drawn(leak, kRed), 'M'), 4);  // one cell for each row
  EXPECT_EQ(drawn(leak, kBlue), "");
  EXPECT_EQ(std::ranges::count(drawn(missing, kBlue), 'M'), 11);
  EXPECT_NE(drawn(wrong, kOrange), "");
}

TEST(XrayPicture, EscapesTheNameOfAKernel) {
  Kernel kernel = model_kernel();
  kernel.name = "a<b>&c";
  const std::string picture = svg(xray(kernel, parse_case("dense(lens=4,dk=8)")));
  EXPECT_NE(picture.find("a&lt;b&gt;&amp;c: clean"), std::string::npos) << picture;
}

TEST(XrayPicture, OfManyTokensAndHeadsStaysSmall) {
  const std::string picture = svg(xray(parse_case("dense(lens=100,heads=10,dk=8)")));
  EXPECT_LT(picture.size(), 500'000u);
  EXPECT_NE(picture.find("2 more heads and sequences are not drawn"), std::string::npos);
}

TEST(XrayPicture, OfThePagesIsWhatTheirCommandsDraw) {
  const std::regex command("./attnspec xray '([^']+)'(?: --kernel (\\S+))? --out (\\w+\\.svg)");
  std::set<std::string> drawn_by_a_page;
  for (const char* page : {"docs/specification.md", "docs/xray.md"}) {
    const std::string text = read_file(std::string(ATTNSPEC_SOURCE_DIR "/") + page);
    for (std::sregex_iterator found(text.begin(), text.end(), command), end; found != end; ++found) {
      const auto& match = *found;
      const Case c = parse_case(match[1].str());
      const std::string picture = svg(match[2].matched ? xray(find_kernel(match[2].str()), c) : xray(c));
      EXPECT_TRUE(read_file(ATTNSPEC_SOURCE_DIR "/docs/figures/" + match[3].str()) == picture)
          << "docs/figures/" << match[3] << " is not what " << page << " says that it is: " << match[0];
      drawn_by_a_page.insert(match[3].str());
    }
  }
  for (const auto& file : std::filesystem::directory_iterator(ATTNSPEC_SOURCE_DIR "/docs/figures"))
    EXPECT_TRUE(drawn_by_a_page.contains(file.path().filename().string())) << file.path() << " is drawn by no page";
}

}  // namespace
}  // namespace attnspec::verify
