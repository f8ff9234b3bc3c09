#include <fmt/format.h>

#include <algorithm>
#include <cmath>
#include <iterator>
#include <map>
#include <pugixml.hpp>
#include <sstream>
#include <string>
#include <utility>
#include <vector>

#include "verify/xray/reasons.hpp"
#include "verify/xray/xray.hpp"

namespace attnspec::verify {

using namespace reference;

namespace {

constexpr const char *kInk = "#222", *kHidden = "#e4e7ec", *kUnselected = "#ffffff", *kSeen = "#fdf0c0",
                     *kLeak = "#d32f2f", *kMissing = "#1565c0", *kWrong = "#ef8f00", *kGrid = "#8a94a3";
/// Cells of a side of a grid, at most: of longer sequences a cell is several tokens.
constexpr std::int64_t kMaxCells = 96;
/// Grids in a picture, at most.
constexpr std::size_t kMaxGrids = 8;
constexpr int kSide = 420, kMargin = 46, kTop = 74, kHead = 46, kMinWidth = 230;
/// Greys of weights, from the smallest to the largest of a row.
constexpr const char* kGreys[] = {"#dcdcdc", "#c4c4c4", "#acacac", "#949494",
                                  "#7c7c7c", "#646464", "#4c4c4c", "#343434"};
constexpr std::size_t kFirstDarkGrey = 3;

void set(pugi::xml_node node, const char* key, const std::string& value) { node.append_attribute(key) = value.c_str(); }

struct Box {
  int x, y, width, height;
};

pugi::xml_node add_rect(pugi::xml_node svg, const Box& box, const std::string& fill) {
  pugi::xml_node node = svg.append_child("rect");
  node.append_attribute("x") = box.x;
  node.append_attribute("y") = box.y;
  node.append_attribute("width") = box.width;
  node.append_attribute("height") = box.height;
  set(node, "fill", fill);
  return node;
}

void add_outline(pugi::xml_node svg, const Box& box, const char* colour) {
  pugi::xml_node node = add_rect(svg, box, "none");
  set(node, "stroke", colour);
  set(node, "stroke-width", "2");
}

/// Boxes of one colour.
class Boxes {
 public:
  void add(const Box& box) {
    path_ += fmt::format("M{} {}h{}v{}h-{}z", box.x, box.y, box.width, box.height, box.width);
  }
  void draw(pugi::xml_node svg, const char* fill) const {
    if (path_.empty()) return;
    pugi::xml_node node = svg.append_child("path");
    set(node, "d", path_);
    set(node, "fill", fill);
  }

 private:
  std::string path_;
};

void add_line(pugi::xml_node svg, int x1, int y1, int x2, int y2) {
  pugi::xml_node node = svg.append_child("line");
  node.append_attribute("x1") = x1;
  node.append_attribute("y1") = y1;
  node.append_attribute("x2") = x2;
  node.append_attribute("y2") = y2;
  set(node, "stroke", kGrid);
}

void add_text(pugi::xml_node svg, int x, int y, const char* anchor, const std::string& text, const char* fill = kInk,
              int size = 12) {
  pugi::xml_node node = svg.append_child("text");
  node.append_attribute("x") = x;
  node.append_attribute("y") = y;
  set(node, "text-anchor", anchor);
  set(node, "fill", fill);
  if (size != 12) node.append_attribute("font-size") = size;
  node.text().set(text.c_str());
}

bool is_from_elsewhere(const WeightFinding& finding) {
  return finding.fault == WeightFault::other_sequence || finding.fault == WeightFault::other_kv_head;
}

/// A grid of one direction of one attention, of one sequence and head.
class Grid {
 public:
  Grid(const AttentionXray& one, const Weights& weights, std::string title, const Sequence& sequence, std::int64_t head)
      : one_(one), weights_(weights), title_(std::move(title)), sequence_(sequence), head_(head) {
    const std::int64_t longest = std::max({sequence.num_queries(), sequence.num_keys(), std::int64_t{1}});
    tokens_ = (longest + kMaxCells - 1) / kMaxCells;
    if (one.attention.has_blocks)  // so that no cell lies in two blocks
      while (tokens_ < one.attention.block && one.attention.block % tokens_ != 0) ++tokens_;
    cell_ = std::clamp(kSide / static_cast<int>((longest + tokens_ - 1) / tokens_), 4, 34);
    rows_ = (sequence.num_queries() + tokens_ - 1) / tokens_;
    columns_ = (sequence.num_keys() + tokens_ - 1) / tokens_;
    for (const WeightFinding& finding : weights.findings)
      if (finding.query.sequence == sequence.index && finding.query.head == head) findings_.push_back(&finding);
  }

  bool is_clean() const { return findings_.empty(); }
  int width() const {
    return std::max(kMinWidth, kMargin + cell_ * static_cast<int>(columns_) + kMargin) + width_of_reasons();
  }
  int height() const { return kHead + cell_ * static_cast<int>(rows_) + 14; }

  void draw(pugi::xml_node svg, int left, int top) const {
    const int x = left + kMargin, y = top + kHead, width = cell_ * static_cast<int>(columns_),
              height = cell_ * static_cast<int>(rows_);
    add_text(svg, x, top + 12, "start", title_);
    Layers layers;
    add_rect(svg, {x, y, width, height}, kHidden);
    for (std::int64_t row = 0; row < rows_; ++row) add_row(row, x, y + cell_ * static_cast<int>(row), layers);
    layers.unselected.draw(svg, kUnselected);
    layers.seen.draw(svg, kSeen);
    for (std::size_t grey = 0; grey < std::size(kGreys); ++grey) layers.weights[grey].draw(svg, kGreys[grey]);
    for (const Digit& digit : layers.digits)
      add_text(svg, digit.x, digit.y, "middle", digit.text, digit.is_on_dark ? "#fff" : kInk, 10);
    draw_findings(svg, x, y);
    if (one_.attention.has_blocks) draw_blocks(svg, x, y, height);
    pugi::xml_node frame = add_rect(svg, {x, y, width, height}, "none");
    set(frame, "stroke", kInk);
    draw_numbers(svg, x, y);
    if (has_reasons())
      add_text(svg, x + width + 14, y - 5, "start", "selected blocks, and why (score of the gate, rank)", kInk, 10);
    for (std::int64_t row = 0; has_reasons() && row < rows_; ++row)
      add_text(svg, x + width + 14, y + cell_ * static_cast<int>(row) + cell_ / 2 + 4, "start", reason(row), kInk, 11);
  }

 private:
  struct Digit {
    int x, y;
    std::string text;
    bool is_on_dark;
  };
  struct Layers {
    Boxes unselected, seen, weights[std::size(kGreys)];
    std::vector<Digit> digits;
  };

  int cell_at(std::int64_t token) const { return cell_ * static_cast<int>(token / tokens_); }
  Eigen::Index column_of(std::int64_t key) const {
    return kv_head(one_.attention.problem, head_) * one_.attention.keys() + sequence_.k_begin + key;
  }
  Eigen::Index row_of(std::int64_t token) const {
    return (sequence_.q_begin + token) * one_.attention.problem.heads + head_;
  }

  /// Which keys of a row of cells may be seen, are seen, and with which weight relative to the largest of its row.
  void add_row(std::int64_t cells, int x, int y, Layers& layers) const {
    enum class Kind { hidden, unselected, seen };
    std::vector<Kind> kinds(static_cast<std::size_t>(columns_), Kind::hidden);
    std::vector<double> greys(static_cast<std::size_t>(columns_), 0), shown = greys;
    const auto raise = [&](std::int64_t begin, std::int64_t end, Kind kind) {
      for (std::int64_t key = begin; key < end; ++key) {
        Kind& of_cell = kinds[static_cast<std::size_t>(key / tokens_)];
        of_cell = std::max(of_cell, kind);
      }
    };
    for (std::int64_t token = cells * tokens_; token < std::min((cells + 1) * tokens_, sequence_.num_queries());
         ++token) {
      const KeyRange reach = one_.attention.reach(sequence_, sequence_.q_begin + token);
      if (one_.attention.has_blocks)
        raise(std::max<std::int64_t>(reach.begin, 0), std::min(reach.end, sequence_.num_keys()), Kind::unselected);
      for (const auto& [begin, end] :
           visible_keys(one_.attention, one_.selection, sequence_, sequence_.q_begin + token, head_))
        raise(begin, end, Kind::seen);
      double largest = 0;
      const auto weight = [&](std::int64_t key) {
        const double p = std::abs(weights_.observed(row_of(token), column_of(key)));
        return std::isfinite(p) ? p : 0;
      };
      for (std::int64_t key = 0; key < sequence_.num_keys(); ++key) largest = std::max(largest, weight(key));
      for (std::int64_t key = 0; key < sequence_.num_keys() && largest > 0; ++key) {
        const auto at = static_cast<std::size_t>(key / tokens_);
        greys[at] = std::max(greys[at], std::sqrt(weight(key) / largest));
        shown[at] = weight(key);
      }
    }
    for (std::int64_t begin = 0, end = 0; begin < columns_; begin = end) {
      const Kind kind = kinds[static_cast<std::size_t>(begin)];
      while (end < columns_ && kinds[static_cast<std::size_t>(end)] == kind) ++end;
      if (kind == Kind::hidden) continue;
      (kind == Kind::seen ? layers.seen : layers.unselected)
          .add({x + cell_ * static_cast<int>(begin), y, cell_ * static_cast<int>(end - begin), cell_});
    }
    const int inset = cell_ >= 10 ? 1 : 0;
    for (std::int64_t column = 0; column < columns_; ++column) {
      const double grey = greys[static_cast<std::size_t>(column)];
      if (grey == 0) continue;
      const auto level =
          std::min(static_cast<std::size_t>(grey * static_cast<double>(std::size(kGreys))), std::size(kGreys) - 1);
      const int left = x + cell_ * static_cast<int>(column);
      layers.weights[level].add({left + inset, y + inset, cell_ - 2 * inset, cell_ - 2 * inset});
      if (has_digits())
        layers.digits.push_back({left + cell_ / 2, y + cell_ / 2 + 4,
                                 fmt::format("{:.2f}", shown[static_cast<std::size_t>(column)]),
                                 level >= kFirstDarkGrey});
    }
  }

  bool has_digits() const { return tokens_ == 1 && cell_ >= 28; }

  /// Whether there is room for why each row selected its blocks: in small pictures of the specification.
  bool has_reasons() const {
    return one_.source == SelectionSource::specification && tokens_ == 1 && cell_ >= 14 && !one_.rules.empty();
  }

  std::string reason(std::int64_t token) const {
    const std::int64_t packed = sequence_.q_begin + token, heads = one_.selection.heads,
                       head = head_ / (one_.attention.problem.heads / heads);
    const Reasons why = reasons(one_.rules[static_cast<std::size_t>(packed * heads + head)],
                                one_.selection.row(packed, head), sequence_.position(packed) / one_.attention.block);
    return why.left_out == "-" ? why.selected : why.selected + "; not " + why.left_out;
  }

  int width_of_reasons() const {
    std::size_t longest = 0;
    for (std::int64_t row = 0; has_reasons() && row < rows_; ++row) longest = std::max(longest, reason(row).size());
    return 6 * static_cast<int>(longest);
  }

  /// Leaks in red, what is missing in blue, weights that are wrong in orange; a selection that is wrong as an outline.
  void draw_findings(pugi::xml_node svg, int x, int y) const {
    std::map<std::string, Boxes> boxes;
    std::vector<std::pair<Box, const char*>> outlines;
    for (const WeightFinding* finding : findings_) {
      const int top = y + cell_at(finding->query.token);
      if (finding->fault == WeightFault::malformed_selection || finding->key.token < 0) {
        boxes[kLeak].add({x - 6, top, 5, cell_});
        continue;
      }
      if (is_from_elsewhere(*finding)) {
        boxes[kLeak].add({x + cell_ * static_cast<int>(columns_) + 3, top, 8, cell_});
        continue;
      }
      const bool is_block = finding->fault == WeightFault::missing_own_block ||
                            finding->fault == WeightFault::missing_block || !finding->detail.empty();
      KeyRange keys{finding->key.token, finding->key.token + 1};
      if (is_block) {
        const std::int64_t block = finding->key.token / one_.attention.block * one_.attention.block;
        const KeyRange reach = one_.attention.reach(sequence_, sequence_.q_begin + finding->query.token);
        keys = {block, std::min({block + one_.attention.block, sequence_.num_keys(),
                                 std::max(reach.end, finding->key.token + 1)})};
      }
      const Box box{x + cell_at(keys.begin), top, cell_at(keys.end - 1) + cell_ - cell_at(keys.begin), cell_};
      const char* colour = is_missing(finding->fault) ? kMissing : is_leak(finding->fault) ? kLeak : kWrong;
      if (finding->detail.empty())
        boxes[colour].add(box);
      else
        outlines.emplace_back(box, colour);
    }
    for (const auto& [colour, all] : boxes) all.draw(svg, colour.c_str());
    for (const auto& [box, colour] : outlines) add_outline(svg, box, colour);
  }

  void draw_blocks(pugi::xml_node svg, int x, int y, int height) const {
    const std::int64_t block = one_.attention.block;
    for (std::int64_t b = 0; b * block < sequence_.num_keys(); ++b) {
      const int left = cell_at(b * block), right = cell_at(std::min((b + 1) * block, sequence_.num_keys()) - 1) + cell_;
      if (b > 0 && tokens_ <= block) add_line(svg, x + left, y, x + left, y + height);
      if (right - left >= 40)
        add_text(svg, x + (left + right) / 2, y - 20, "middle", fmt::format("block {}", b), kInk, 10);
    }
  }

  /// Numbers of keys above the grid, and of queries on its left, as many as there is room for.
  void draw_numbers(pugi::xml_node svg, int x, int y) const {
    std::int64_t step = tokens_;
    while (cell_at(step) < 18) step *= 2;
    for (std::int64_t key = 0; key < sequence_.num_keys(); key += step)
      add_text(svg, x + cell_at(key) + cell_ / 2, y - 5, "middle", fmt::format("{}", key), kInk, 10);
    for (std::int64_t token = 0; token < sequence_.num_queries(); token += step)
      add_text(svg, x - 8, y + cell_at(token) + cell_ / 2 + 4, "end", fmt::format("{}", token), kInk, 10);
  }

  const AttentionXray& one_;
  const Weights& weights_;
  std::string title_;
  Sequence sequence_;
  std::int64_t head_;
  std::int64_t tokens_ = 1, rows_ = 0, columns_ = 0;  // tokens of a cell, cells of a side
  int cell_ = 1;                                      // pixels
  std::vector<const WeightFinding*> findings_;
};

/// Grids that stand beside each other: the forward and the backward of one sequence and head.
using Pair = std::vector<Grid>;

std::vector<Pair> grids_of(const Xray& xray) {
  std::vector<Pair> pairs;
  for (const AttentionXray& one : xray.attentions) {
    const AttentionNames& names = one.attention.names;
    for (const Sequence& sequence : sequences(one.attention.problem)) {
      for (std::int64_t head = 0; head < one.attention.problem.heads; ++head) {
        if (sequence.num_queries() == 0 || sequence.num_keys() == 0) continue;
        Pair pair;
        const auto add = [&](const Weights& weights, const std::string& what) {
          if (weights.is_there())
            pair.emplace_back(one, weights, fmt::format("{}, sequence {}, head {}", what, sequence.index, head),
                              sequence, head);
        };
        add(one.forward, names.o);
        add(one.backward, names.dv);
        if (!pair.empty()) pairs.push_back(std::move(pair));
      }
    }
  }
  const auto is_wrong = [](const Pair& pair) {
    return !std::all_of(pair.begin(), pair.end(), [](const Grid& grid) { return grid.is_clean(); });
  };
  std::stable_partition(pairs.begin(), pairs.end(), is_wrong);
  return pairs;
}

bool has_leaks_from_elsewhere(const Xray& xray) {
  return std::any_of(xray.attentions.begin(), xray.attentions.end(), [](const AttentionXray& one) {
    return std::any_of(one.forward.findings.begin(), one.forward.findings.end(), is_from_elsewhere) ||
           std::any_of(one.backward.findings.begin(), one.backward.findings.end(), is_from_elsewhere);
  });
}

void add_legend(pugi::xml_node svg, int y, bool with_bar) {
  int x = 12;
  const auto add = [&](const char* fill, const char* text, int width) {
    set(add_rect(svg, {x, y, 12, 12}, fill), "stroke", kGrid);
    add_text(svg, x + 17, y + 10, "start", text, kInk, 11);
    x += width;
  };
  add(kSeen, "seen", 58);
  add(kGreys[5], "weight", 68);
  add(kUnselected, "not selected", 96);
  add(kHidden, "hidden", 66);
  add(kLeak, "leak", 54);
  add(kMissing, "missing", 74);
  add(kWrong, "weight wrong", 100);
  if (with_bar) add(kLeak, "bar on the right: leak from another sequence or kv head", 330);
}

}  // namespace

std::string svg(const Xray& xray) {
  std::vector<Pair> pairs = grids_of(xray);
  const std::size_t left_out = pairs.size() - std::min(pairs.size(), kMaxGrids);
  pairs.erase(pairs.begin() + static_cast<std::ptrdiff_t>(std::min(pairs.size(), kMaxGrids)), pairs.end());
  const std::string case_text = print(xray.c);
  const bool with_bar = has_leaks_from_elsewhere(xray);
  int width = std::max(with_bar ? 860 : 540, 24 + 7 * static_cast<int>(case_text.size())), height = kTop;
  for (const Pair& pair : pairs) {
    int of_pair = 0, tallest = 0;
    for (const Grid& grid : pair) {
      of_pair += grid.width();
      tallest = std::max(tallest, grid.height());
    }
    width = std::max(width, of_pair);
    height += tallest;
  }
  height += left_out > 0 ? 24 : 4;
  pugi::xml_document document;
  pugi::xml_node root = document.append_child("svg");
  set(root, "xmlns", "http://www.w3.org/2000/svg");
  set(root, "viewBox", fmt::format("0 0 {} {}", width, height));
  root.append_attribute("width") = width;
  root.append_attribute("height") = height;
  set(root, "font-family", "sans-serif");
  set(root, "font-size", "12");
  add_rect(root, {0, 0, width, height}, "#fff");
  add_text(root, 12, 18, "start", case_text);
  add_text(root, 12, 36, "start",
           xray.kernel.empty() ? "the specification: rows are queries, columns keys"
                               : fmt::format("{}: {}; rows are queries, columns keys", xray.kernel,
                                             xray.is_clean() ? "clean" : "wrong"));
  add_legend(root, 48, with_bar);
  int y = kTop;
  for (const Pair& pair : pairs) {
    int x = 0, tallest = 0;
    for (const Grid& grid : pair) {
      grid.draw(root, x, y);
      x += grid.width();
      tallest = std::max(tallest, grid.height());
    }
    y += tallest;
  }
  if (left_out > 0)
    add_text(root, 12, y + 14, "start", fmt::format("{} more heads and sequences are not drawn", left_out));
  std::ostringstream text;
  document.save(text, " ", pugi::format_indent | pugi::format_no_declaration);
  return text.str();
}

}  // namespace attnspec::verify
