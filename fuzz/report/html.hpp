// Pieces of HTML.
#pragma once

#include <cstdint>
#include <string>
#include <string_view>
#include <vector>

namespace attnspec::fuzz::html {

/// Text as it may stand between tags and in an attribute: nothing in it is markup. Control characters become escapes.
std::string escaped(std::string_view text);

std::string code(std::string_view text);

/// 1234567 as "1 234 567", with spaces that do not break.
std::string count(std::int64_t number);

/// "1 case", "2 cases".
std::string counted(std::int64_t number, std::string_view thing);

/// A number above 0 in three digits; "0" of 0.
std::string three_digits(double x);

/// "12.3 %".
std::string percent(std::int64_t part, std::int64_t all);

/// "850 ms", "12.3 s", "4 min 05 s".
std::string duration(double seconds);

/// A table whose cells are HTML. `columns`: headings; a column whose heading begins with '<' stands on the left and
/// without that character, others are numbers, on the right.
std::string table(const std::vector<std::string>& columns, const std::vector<std::vector<std::string>>& rows);

/// A section of the page, with a heading and a sentence that says what it shows.
std::string section(std::string_view id, std::string_view heading, std::string_view lead, std::string_view body);

/// Something that is shown when its summary is clicked.
std::string details(std::string_view summary, std::string_view body);

}  // namespace attnspec::fuzz::html
