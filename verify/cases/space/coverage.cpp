#include "verify/cases/space/coverage.hpp"

#include <iterator>

#include "verify/cases/space/space.hpp"

namespace attnspec::verify {

namespace {

/// Calls visit(index) for every triple of classes.
template <class Visit>
void for_each_triple(Operator op, const std::vector<std::size_t>& classes, const Visit& visit) {
  const std::size_t n = case_classes().size();
  for (std::size_t i = 0; i < classes.size(); ++i)
    for (std::size_t j = i + 1; j < classes.size(); ++j) {
      const std::size_t pair = ((static_cast<std::size_t>(op) * n + classes[i]) * n + classes[j]) * n;
      for (std::size_t k = j + 1; k < classes.size(); ++k) visit(pair + classes[k]);
    }
}

}  // namespace

std::string CaseClass::name() const { return axes()[axis].name + ": " + axes()[axis].values[value].name; }

const std::vector<CaseClass>& case_classes() {
  static const std::vector<CaseClass> all = [] {
    std::vector<CaseClass> classes;
    for (std::size_t axis = 0; axis < axes().size(); ++axis)
      for (std::size_t value = 0; value < axes()[axis].values.size(); ++value)
        if (axes()[axis].values[value].holds) classes.push_back({axis, value});
    return classes;
  }();
  return all;
}

std::vector<std::size_t> classes_of(const Case& c) {
  std::vector<std::size_t> indices;
  for (std::size_t i = 0; i < case_classes().size(); ++i) {
    const Axis& axis = axes()[case_classes()[i].axis];
    const Value& value = axis.values[case_classes()[i].value];
    if (axis.has(c.op) && (!value.has || value.has(c.op)) && value.holds(c)) indices.push_back(i);
  }
  return indices;
}

Coverage::Coverage()
    : seen_(std::size(kOperators) * case_classes().size() * case_classes().size() * case_classes().size()),
      classes_(std::size(kOperators) * case_classes().size()) {}

std::int64_t Coverage::count_new(const Case& c) const {
  std::int64_t triples = 0;
  for_each_triple(c.op, classes_of(c), [&](std::size_t triple) { triples += !seen_[triple]; });
  return triples;
}

void Coverage::add(const Case& c) {
  const std::vector<std::size_t> classes = classes_of(c);
  for (const std::size_t i : classes) classes_[static_cast<std::size_t>(c.op) * case_classes().size() + i] = true;
  for_each_triple(c.op, classes, [&](std::size_t triple) {
    size_ += !seen_[triple];
    seen_[triple] = true;
  });
}

std::vector<std::size_t> Coverage::never_seen(Operator op) const {
  std::vector<std::size_t> classes;
  for (std::size_t i = 0; i < case_classes().size(); ++i) {
    const Axis& axis = axes()[case_classes()[i].axis];
    const Value& value = axis.values[case_classes()[i].value];
    if (axis.has(op) && (!value.has || value.has(op)) &&
        !classes_[static_cast<std::size_t>(op) * case_classes().size() + i])
      classes.push_back(i);
  }
  return classes;
}

}  // namespace attnspec::verify
