#include "verify/cases/law.hpp"

namespace attnspec::verify {

namespace {

/// Values that some rows do not read.
bool has_unread_values(Operator op) { return has_window(op) || (attends(op) && has_slots(op)); }
/// Heads of a group without a common selection.
bool has_own_selections(Operator op) { return has_queries(op) && !shares_selection(op); }
/// Several key heads, which may change places.
bool has_key_heads(Operator op) { return has_key(op, "kv_heads"); }
bool selects_and_attends(Operator op) { return selects(op) && attends(op); }
bool has_importance_alone(Operator op) { return has_importance(op) && !has_branches(op); }

}  // namespace

bool has_law(Operator op, Law law) {
  switch (law) {
    case Law::repeat:
    case Law::future:
    case Law::strides:
    case Law::packing:
    case Law::decode:
    case Law::prefix: return true;
    case Law::heads: return has_key_heads(op) || has_own_selections(op);
    case Law::power:
    case Law::one_row: return has_gradients(op);
    case Law::negation:
    case Law::reciprocal: return has_queries(op);
    case Law::dk_sum:
    case Law::dv_sum: return attends(op);
    case Law::unselected: return has_unread_values(op);
    case Law::groups: return has_key_heads(op) && has_own_selections(op);
    case Law::slots: return reads_selection(op);
    case Law::all_blocks:
    case Law::own_block: return selects_and_attends(op);
    case Law::whole_window: return has_window(op);
    case Law::as_moba:
    case Law::one_hot: return has_branches(op);
    case Law::mass: return has_importance_alone(op);
    case Law::none: break;
  }
  return false;
}

bool needs_causality(Law law) { return law == Law::future || law == Law::prefix || law == Law::own_block; }

}  // namespace attnspec::verify
