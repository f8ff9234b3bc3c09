#include "fuzz/report/charts.hpp"

#include <fmt/format.h>

#include <algorithm>
#include <cmath>
#include <numeric>
#include <vector>

#include "fuzz/report/html.hpp"

namespace attnspec::fuzz {

namespace {

using verify::Distribution;

/// The bars of a chart over powers of 2.
struct Bars {
  int first_octave, last_octave, bars_of_octave;
  std::vector<std::int64_t> counts;  // the first and last bar hold what is beyond, too

  Bars(const Distribution& distribution, int first, int last, int of_octave)
      : first_octave(first), last_octave(last), bars_of_octave(of_octave) {
    counts.resize(static_cast<std::size_t>((last - first) * of_octave));
    for (const auto& [bin, count] : distribution.bins()) {
      const double octave = static_cast<double>(bin) / Distribution::kBinsOfOctave - first;
      const double bar = std::clamp(std::floor(octave * of_octave), 0.0, static_cast<double>(counts.size()) - 1);
      counts[static_cast<std::size_t>(bar)] += count;
    }
  }

  double begin_of(std::size_t bar) const { return std::exp2(first_octave + static_cast<double>(bar) / bars_of_octave); }
};

std::string power_of_two(int octave) {
  if (octave < 0) return fmt::format("1/{}", 1 << -octave);
  if (octave < 10) return std::to_string(1 << octave);
  return fmt::format("{}{}", 1 << octave % 10, octave < 20 ? "k" : "M");
}

constexpr double kWidth = 260, kHeight = 84, kAxis = 18;

/// below_one: whether bars below 1 stand out, instead of those above.
std::string chart(const Bars& bars, int tick_octaves, bool below_one, const std::string& label) {
  const double width = kWidth / static_cast<double>(bars.counts.size());
  const auto max =
      static_cast<double>(std::max<std::int64_t>(1, *std::max_element(bars.counts.begin(), bars.counts.end())));
  std::string svg = fmt::format("<svg class=\"chart\" viewBox=\"-8 -4 {} {}\" role=\"img\" aria-label=\"{}\">\n",
                                kWidth + 16, kHeight + kAxis + 6, html::escaped(label));
  for (std::size_t bar = 0; bar < bars.counts.size(); ++bar) {
    if (bars.counts[bar] == 0) continue;
    const double height = std::max(1.0, kHeight * static_cast<double>(bars.counts[bar]) / max);
    const double begin = bars.begin_of(bar), end = bars.begin_of(bar + 1);
    const bool is_notable = below_one ? end <= 1.001 : begin >= 0.999;
    const std::string from = bar == 0                        ? "below"
                             : bar + 1 == bars.counts.size() ? "from"
                                                             : fmt::format("{:.3g} to", begin);
    svg += fmt::format(
        "<rect class=\"{}\" x=\"{:.2f}\" y=\"{:.2f}\" width=\"{:.2f}\" height=\"{:.2f}\"><title>{} {:.3g}: "
        "{}</title></rect>\n",
        is_notable ? "bar notable" : "bar", static_cast<double>(bar) * width + 0.5, kHeight - height, width - 1, height,
        from, from == "from" ? begin : end, html::counted(bars.counts[bar], "row"));
  }
  svg += fmt::format("<path class=\"axis\" d=\"M0 {0}H{1}\"/>\n", kHeight, kWidth);
  for (int octave = bars.first_octave; octave <= bars.last_octave; ++octave) {
    const double x = (octave - bars.first_octave) * bars.bars_of_octave * width;
    if (octave == 0) svg += fmt::format("<path class=\"one\" d=\"M{:.2f} 0V{}\"/>\n", x, kHeight);
    if (octave % tick_octaves == 0)
      svg += fmt::format("<text x=\"{:.2f}\" y=\"{}\">{}</text>\n", x, kHeight + 13, power_of_two(octave));
  }
  return svg + "</svg>\n";
}

constexpr double kMapWidth = 720, kMapLeft = 34, kMapTop = 16, kGap = 6;
constexpr std::array<const char*, 5> kLevelClasses{"none", "low", "middle", "high", "wrong"};

/// The worst of some rows of a head.
RowLevel worst(const ErrorMap& map, std::int64_t begin, std::int64_t end, std::int64_t head) {
  RowLevel level = RowLevel::not_judged;
  for (std::int64_t row = begin; row < end; ++row) level = std::max(level, map.level(row, head));
  return level;
}

}  // namespace

std::string error_chart(const Distribution& r) {
  Bars bars(r, -5, 4, 4);
  bars.counts.front() -= r.count_up_to(kSmallestDrawnR);
  return chart(
      bars, 2, false,
      fmt::format("Row error ratios of {} rows, from 1/32 to 16; 95 % are below {:.3g}", r.count(), r.quantile(0.95)));
}

std::string clearance_chart(const Distribution& clearances) {
  return chart(
      Bars(clearances, -3, 20, 1), 4, true,
      fmt::format("Gaps of {} selections in margins; {} are below 1", clearances.count(), clearances.count_up_to(1)));
}

std::string map_chart(const ErrorMap& map) {
  const std::int64_t rows = std::accumulate(map.lengths.begin(), map.lengths.end(), std::int64_t{0});
  const std::int64_t rows_of_cell = std::max<std::int64_t>(1, (rows + 359) / 360);
  std::int64_t cells = 0;
  for (const std::int64_t length : map.lengths) cells += (length + rows_of_cell - 1) / rows_of_cell;
  const auto gaps = static_cast<double>(map.lengths.size() - 1) * kGap;
  const double width = std::min(14.0, (kMapWidth - gaps) / static_cast<double>(std::max<std::int64_t>(1, cells)));
  const double height = std::clamp(240.0 / static_cast<double>(map.heads), 3.0, 14.0);
  const double bottom = kMapTop + height * static_cast<double>(map.heads);
  std::string svg = fmt::format(
      "<svg class=\"map\" viewBox=\"0 0 {:.1f} {:.1f}\" style=\"max-width:{:.0f}px\" role=\"img\" aria-label=\"Rows of "
      "{} by token and head\">\n",
      kMapLeft + static_cast<double>(cells) * width + gaps + 20, bottom + 16,
      1.25 * (kMapLeft + static_cast<double>(cells) * width + gaps + 20), html::escaped(map.output));
  const auto head_step = std::max<std::int64_t>(1, static_cast<std::int64_t>(std::ceil(11 / height)));
  for (std::int64_t head = 0; head < map.heads; head += head_step)
    svg += fmt::format("<text class=\"head\" x=\"{}\" y=\"{:.1f}\">{}</text>\n", kMapLeft - 5,
                       kMapTop + (static_cast<double>(head) + 0.5) * height + 3.5, head);
  double left = kMapLeft;
  std::int64_t begin = 0;
  for (std::size_t s = 0; s < map.lengths.size(); ++s) {
    const std::int64_t length = map.lengths[s], columns = (length + rows_of_cell - 1) / rows_of_cell;
    if (map.lengths.size() > 1 && columns * width > 30)
      svg += fmt::format("<text class=\"sequence\" x=\"{:.1f}\" y=\"10\">seq {}</text>\n", left, s);
    for (std::int64_t head = 0; head < map.heads; ++head)
      for (std::int64_t column = 0; column < columns;) {
        const auto level_at = [&](std::int64_t at) {
          return worst(map, begin + at * rows_of_cell, begin + std::min(length, (at + 1) * rows_of_cell), head);
        };
        const RowLevel level = level_at(column);
        const std::int64_t first = column;
        while (column < columns && level_at(column) == level) ++column;
        const std::int64_t last_token = std::min(length, column * rows_of_cell) - 1;
        svg += fmt::format(
            "<rect class=\"{}\" x=\"{:.2f}\" y=\"{:.2f}\" width=\"{:.2f}\" height=\"{:.2f}\"><title>seq {}, head {}, "
            "tokens {} to {}: {}</title></rect>\n",
            kLevelClasses[static_cast<std::size_t>(level)], left + static_cast<double>(first) * width,
            kMapTop + static_cast<double>(head) * height, static_cast<double>(column - first) * width - 0.4,
            height - 0.6, s, head, first * rows_of_cell, last_token, kRowLevelNames[static_cast<std::size_t>(level)]);
      }
    const double right = left + static_cast<double>(columns) * width;
    if (columns * width > 8)
      svg += fmt::format("<text class=\"token\" x=\"{:.1f}\" y=\"{:.1f}\">0</text>\n", left, bottom + 11);
    if (columns * width > 40)
      svg += fmt::format("<text class=\"token last\" x=\"{:.1f}\" y=\"{:.1f}\">{}</text>\n", right, bottom + 11,
                         length - 1);
    left = right + kGap;
    begin += length;
  }
  return svg + "</svg>\n";
}

}  // namespace attnspec::fuzz
