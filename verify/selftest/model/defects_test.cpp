// Every planted defect is rejected, by the comparison that should see it, and no equivalent variant is accused.

#include "verify/model/defects/defects.hpp"

#include <gtest/gtest.h>

#include <algorithm>
#include <cstddef>
#include <map>
#include <string>
#include <utility>

#include "verify/cases/levels.hpp"
#include "verify/judge/judge.hpp"
#include "verify/judge/report.hpp"
#include "verify/kernels.hpp"
#include "verify/model/variants/variants.hpp"

namespace attnspec::verify {
namespace {

/// The output of the first finding against a defect.
const std::map<std::string, std::string> kShowsIn{{"own_block_not_forced", "selection"},
                                                  {"future_token_visible", "o"},
                                                  {"top_k_one_is_dense", "o"},
                                                  {"merge_without_rescaling", "o"},
                                                  {"own_block_beside_top_k", "o"},
                                                  {"wrong_gqa_map", "o"},
                                                  {"lse_in_base_two", "lse"},
                                                  {"last_short_block_dropped", "o"},
                                                  {"dk_of_one_head", "dk"},
                                                  {"scale_off", "o"},
                                                  {"one_key_dropped", "lse"},
                                                  {"mean_over_block_size", "selection"},
                                                  {"gradients_of_another_head", "dq"},
                                                  {"strided_read_as_contiguous", "o"},
                                                  {"selection_read_as_contiguous", "o"},
                                                  {"masked_with_a_number", "o"},
                                                  {"scores_in_fp16", "lse"},
                                                  {"normaliser_in_fp16", "lse"},
                                                  {"output_sum_in_fp16", "o"},
                                                  {"partials_in_fp16", "o"},
                                                  {"means_in_fp16", "selection"},
                                                  {"gates_clamped", "o"},
                                                  {"delta_missing", "dq"},
                                                  {"window_of_one_more", "o"},
                                                  {"window_of_one_less", "o"},
                                                  {"window_without_start", "o"},
                                                  {"backward_without_window", "dq"},
                                                  {"compressed_from_its_start", "o"},
                                                  {"compressed_from_its_stride", "o"},
                                                  {"compressed_strictly_past", "o"},
                                                  {"nothing_visible_is_nan", "o"},
                                                  {"compressed_lse_in_base_two", "selection"},
                                                  {"importance_minus", "selection"},
                                                  {"importance_plus", "selection"},
                                                  {"importance_largest", "selection"},
                                                  {"importance_of_one_head", "selection"},
                                                  {"importance_of_one_tile", "selection"},
                                                  {"importance_of_logits", "selection"},
                                                  {"importance_in_half", "selection"},
                                                  {"initial_blocks_not_forced", "selection"},
                                                  {"own_block_only_forced", "selection"},
                                                  {"empty_slot_is_block_zero", "selection"},
                                                  {"blocks_side_by_side", "rows"},
                                                  {"blocks_across_sequences", "rows"},
                                                  {"position_forgotten", "rows"},
                                                  {"biases_forgotten", "rows"},
                                                  {"phi_of_the_first_head", "rows"},
                                                  {"weights_feature_by_feature", "rows"},
                                                  {"mean_over_stride", "rows"},
                                                  {"gelu_by_tanh", "rows"},
                                                  {"slope_forgotten", "d_tokens"},
                                                  {"silu_slope_is_sigmoid", "d_tokens"},
                                                  {"position_gradient_missing", "d_phi.position"},
                                                  {"token_gradient_of_last_block", "d_tokens"},
                                                  {"shared_phi_of_last_head", "d_phi.position"},
                                                  {"branches_share_tokens", "selected.o"},
                                                  {"window_reads_lse_of_selected", "d_window.dv"},
                                                  {"msa_one_list", "selection"},
                                                  {"msa_relu", "selection"},
                                                  {"msa_sum", "selection"},
                                                  {"msa_worth_in_half", "selection"},
                                                  {"msa_first_key_left_out", "selection"},
                                                  {"msa_own_competes", "selection"},
                                                  {"msa_first_before_own", "selection"},
                                                  {"dsa_without_relu", "selection"},
                                                  {"dsa_relu_of_sum", "selection"},
                                                  {"dsa_relu_of_weighted", "selection"},
                                                  {"dsa_weights_forgotten", "selection"},
                                                  {"dsa_weights_in_bf16", "selection"},
                                                  {"dsa_own_forced", "selection"},
                                                  {"dsa_coarse_bins", "selection"},
                                                  {"dsa_future_fills", "selection"},
                                                  {"dsa_zero_fills", "selection"},
                                                  {"qsa_own_forced", "selection"},
                                                  {"qsa_tail_forgotten", "selection"},
                                                  {"qsa_tail_in_budget", "selection"},
                                                  {"qsa_strictly_past", "selection"},
                                                  {"qsa_newest_forced", "selection"},
                                                  {"qsa_without_relu", "selection"},
                                                  {"qsa_largest_head", "selection"},
                                                  {"qsa_last_head_left_out", "selection"},
                                                  {"gates_swapped", "o"},
                                                  {"gates_normalised", "o"},
                                                  {"gates_through_sigmoid_again", "o"},
                                                  {"gate_missing_in_backward", "d_window.dv"},
                                                  {"gate_gradient_of_the_sum", "d_gates"},
                                                  {"dq_without_compressed", "dq"},
                                                  {"dq_of_the_last_branch", "dq"},
                                                  {"rightmost_tile_masked", "o"},
                                                  {"causal_bound_of_the_chunk", "lse"},
                                                  {"rows_beyond_window_missing", "o"},
                                                  {"empty_splits_unwritten", "o"},
                                                  {"lse_of_another_head", "lse"},
                                                  {"early_exit_at_padded_offset", "o"},
                                                  {"key_gradients_by_queries", "dv"},
                                                  {"dirty_padding_of_queries", "dk"},
                                                  {"no_queries_no_key_gradients", "dk"},
                                                  {"overlap_lost_in_decode", "rows"},
                                                  {"gate_dropped_when_split", "o"},
                                                  {"list_shared_by_a_tile", "o"},
                                                  {"selection_read_head_by_head", "o"},
                                                  {"mask_of_ascending_lists", "o"},
                                                  {"lists_ignored_without_mask", "o"},
                                                  {"empty_slot_is_row_before", "o"},
                                                  {"window_padded_with_key_zero", "lse"},
                                                  {"block_count_rounded_down", "selection"}};

/// Defects and variants by their index in the list.
class Defects : public testing::TestWithParam<std::size_t> {};
class Variants : public testing::TestWithParam<std::size_t> {};

TEST_P(Defects, AreRejectedByLevelOne) {
  const std::string name = model::defects().at(GetParam()).name;
  const Kernel kernel = find_kernel("defect:" + name);
  for (const Case& c : level_cases(kernel.operators.front(), 1)) {
    const CaseResult result = judge(kernel, c);
    if (!is_finding(result.verdict)) continue;
    if (std::string(model::defects().at(GetParam()).kind) != "laws") {
      EXPECT_EQ(result.findings.front().output, kShowsIn.at(name));
    }
    return;
  }
  FAIL() << "not rejected";
}

/// The law that a defect breaks.
constexpr std::pair<const char*, Law> kBreaks[] = {{"order_of_a_counter", Law::repeat},
                                                   {"maximum_before_the_mask", Law::future},
                                                   {"values_centred", Law::unselected},
                                                   {"second_of_a_pair", Law::heads},
                                                   {"contiguous_through_a_scale", Law::strides},
                                                   {"scale_of_several", Law::packing},
                                                   {"ties_decided_by_neighbours", Law::packing},
                                                   {"queries_at_the_first_key", Law::decode},
                                                   {"fixed_point_sum", Law::power},
                                                   {"inputs_rounded_down", Law::negation},
                                                   {"inputs_in_fixed_point", Law::reciprocal},
                                                   {"blocks_while_ascending", Law::slots},
                                                   {"wrong_gqa_map", Law::groups},
                                                   {"last_short_block_dropped", Law::prefix},
                                                   {"merge_without_rescaling", Law::all_blocks},
                                                   {"top_k_one_is_dense", Law::own_block},
                                                   {"window_of_one_less", Law::whole_window},
                                                   {"two_local_blocks", Law::as_moba},
                                                   {"gates_through_sigmoid_again", Law::one_hot},
                                                   {"importance_minus", Law::mass},
                                                   {"delta_missing", Law::dk_sum},
                                                   {"backward_without_window", Law::dv_sum},
                                                   {"gradients_of_another_head", Law::one_row},
                                                   {"wrong_gqa_map", Law::heads},
                                                   {"future_token_visible", Law::future},
                                                   {"blocks_across_sequences", Law::packing},
                                                   {"window_of_one_more", Law::unselected}};

/// By the cases of level 1 with that law, which nothing else judges.
TEST(LawDefects, BreakTheirLaw) {
  for (const auto& [name, law] : kBreaks) {
    const Kernel kernel = find_kernel(std::string("defect:") + name);
    bool is_broken = false;
    for (const Case& c : level_cases(kernel.operators.front(), 1)) {
      if (c.law != law) continue;
      const Verdict verdict = judge(kernel, c).verdict;
      is_broken = is_broken || verdict == Verdict::law_broken ||
                  (law == Law::repeat && verdict == Verdict::nondeterministic);  // the runs of one guarded call
    }
    EXPECT_TRUE(is_broken) << name;
  }
}

/// Every eighth case of level 1, other ones for the next variant.
TEST_P(Variants, AreAccepted) {
  const std::string name = model::variants().at(GetParam()).name;
  const Kernel kernel = find_kernel("variant:" + name);
  std::size_t i = GetParam();
  for (const Operator op : kernel.operators) {
    for (const Case& c : level_cases(op, 1)) {
      if (i++ % 8 != 0) continue;
      const CaseResult result = judge(kernel, c);
      ASSERT_FALSE(is_finding(result.verdict)) << failure_line(result, result.findings.front());
    }
  }
}

INSTANTIATE_TEST_SUITE_P(Equivalent, Variants, testing::Range<std::size_t>(0, model::variants().size()),
                         [](const auto& instance) { return model::variants().at(instance.param).name; });

INSTANTIATE_TEST_SUITE_P(Planted, Defects, testing::Range<std::size_t>(0, model::defects().size()),
                         [](const auto& instance) { return model::defects().at(instance.param).name; });

}  // namespace
}  // namespace attnspec::verify
