#include "fuzz/report/html.hpp"

#include <fmt/format.h>

namespace attnspec::fuzz::html {

std::string escaped(std::string_view text) {
  std::string safe;
  for (const char c : text) {
    const auto byte = static_cast<unsigned char>(c);
    switch (c) {
      case '&': safe += "&amp;"; break;
      case '<': safe += "&lt;"; break;
      case '>': safe += "&gt;"; break;
      case '"': safe += "&quot;"; break;
      case '\'': safe += "&#39;"; break;
      case '\n': safe += c; break;
      default: safe += byte < 0x20 || byte == 0x7f ? fmt::format("\\x{:02x}", byte) : std::string(1, c);
    }
  }
  return safe;
}

std::string code(std::string_view text) { return "<code>" + escaped(text) + "</code>"; }

std::string count(std::int64_t number) {
  std::string digits = std::to_string(number);
  for (std::ptrdiff_t at = std::ssize(digits) - 3; at > (number < 0 ? 1 : 0); at -= 3)
    digits.insert(static_cast<std::size_t>(at), "&#8239;");
  return digits;
}

std::string counted(std::int64_t number, std::string_view thing) {
  return fmt::format("{} {}{}", count(number), thing, number == 1 ? "" : "s");
}

std::string three_digits(double x) { return fmt::format("{:.3g}", x); }

std::string percent(std::int64_t part, std::int64_t all) {
  return all == 0 ? "&ndash;"
                  : fmt::format("{:.3g}&nbsp;%", 100 * static_cast<double>(part) / static_cast<double>(all));
}

std::string duration(double seconds) {
  if (seconds < 0.9995) return fmt::format("{:.0f}&nbsp;ms", 1000 * seconds);
  if (seconds < 59.95) return fmt::format("{:.1f}&nbsp;s", seconds);
  const auto whole = static_cast<std::int64_t>(seconds + 0.5);
  return fmt::format("{}&nbsp;min&nbsp;{:02}&nbsp;s", whole / 60, whole % 60);
}

std::string table(const std::vector<std::string>& columns, const std::vector<std::vector<std::string>>& rows) {
  const auto is_text = [&](std::size_t i) { return columns[i].starts_with('<'); };
  const auto cell = [&](const char* tag, std::size_t i, const std::string& content) {
    return fmt::format("<{}{}>{}</{}>", tag, is_text(i) ? "" : " class=\"number\"", content,
                       std::string_view(tag).substr(0, 2));
  };
  std::string html = "<div class=\"wide\"><table><thead><tr>";
  for (std::size_t i = 0; i < columns.size(); ++i)
    html += cell("th scope=\"col\"", i, columns[i].substr(is_text(i) ? 1 : 0));
  html += "</tr></thead><tbody>\n";
  for (const auto& row : rows) {
    html += "<tr>";
    for (std::size_t i = 0; i < row.size(); ++i) html += cell("td", i, row[i]);
    html += "</tr>\n";
  }
  return html + "</tbody></table></div>\n";
}

std::string section(std::string_view id, std::string_view heading, std::string_view lead, std::string_view body) {
  return fmt::format("<section id=\"{}\">\n<h2>{}</h2>\n<p class=\"lead\">{}</p>\n{}</section>\n", id, heading, lead,
                     body);
}

std::string details(std::string_view summary, std::string_view body) {
  return fmt::format("<details><summary>{}</summary>\n{}</details>\n", summary, body);
}

}  // namespace attnspec::fuzz::html
