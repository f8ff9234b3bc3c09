// The command completion: a script for bash, made of the program's own commands and options.

#include <fmt/format.h>
#include <fmt/ranges.h>

#include <string_view>
#include <vector>

#include "fuzz/command_line/command.hpp"
#include "fuzz/command_line/options.hpp"

namespace attnspec::fuzz {

namespace {

/// The script. {commands}: patterns of all commands; {values}, {options}, {words}: lines of `case` that give the values
/// of an option, the options of a command, and its commands or the values of its argument; {arithmetic}: names.
/// A word is completed up to the cursor. Bash cuts words at ':' and '=', so that a reply must not repeat what is
/// before.
constexpr std::string_view kScript =
    R"(# Completion of attnspec for bash. Load it with: source <(./attnspec completion bash)
_attnspec() {{
  local line=${{COMP_LINE:0:COMP_POINT}} path= option= current= before= values= sums= typed cut= separator word
  local -a words
  read -ra words <<<"$line"
  if [[ $line != *[[:space:]] ]]; then
    current=${{words[-1]}}
    unset 'words[-1]'
  fi
  for word in "${{words[@]:1}}"; do
    option=
    case "$path/$word" in
      {commands}) path+=/$word ;;
      */--*) option=$word ;;
    esac
  done
  if [[ $current == --*=* ]]; then
    option=${{current%%=*}} before=$option= current=${{current#*=}}
  fi
  case "$path $option" in
{values}
    *)
      if [[ $current == -* ]]; then
        case "$path" in
{options}
        esac
      else
        case "$path" in
{words}
        esac
      fi
      ;;
  esac
  if [[ $sums && $current == *+* ]]; then
    before+=${{current%+*}}+ current=${{current##*+}}
    values="{arithmetic}"
  fi
  COMPREPLY=()
  [[ $values ]] || return 0
  mapfile -t COMPREPLY < <(compgen -W "$values" -P "$before" -- "$current")
  typed=$before$current
  for separator in : =; do
    if [[ $COMP_WORDBREAKS == *"$separator"* && $typed == *"$separator"* ]]; then
      typed=${{typed##*"$separator"}}
    fi
  done
  cut=$before$current
  cut=${{cut%"$typed"}}
  COMPREPLY=("${{COMPREPLY[@]#"$cut"}}")
}}
complete -o bashdefault -o default -F _attnspec attnspec ./attnspec
)";

/// The lines of the script's `case`s.
struct Lines {
  std::vector<std::string> commands;  // patterns
  std::string values, options, words;
};

std::string joined(const std::vector<std::string>& words) { return fmt::format("{}", fmt::join(words, " ")); }

/// `values="..."` of a kind, and whether options of arithmetic can follow a value after '+'.
std::string values_line(const std::string& kind) {
  const char* sums = kind == kKernelValue || kind == kArithmeticValue ? " sums=1" : "";
  return fmt::format("values=\"{}\"{}", joined(values_of(kind)), sums);
}

/// The kind of an option's values, without the ranges that --help appends.
std::string kind_of(const CLI::Option& option) {
  const std::string type = option.get_type_name();
  return type.substr(0, type.find(':'));
}

/// Adds a command and those within it. path: as in "/list/kernels".
void add(const CLI::App& command, const std::string& path, Lines& lines) {
  std::vector<std::string> options, words;
  for (const CLI::App* inner : command.get_subcommands([](const CLI::App*) { return true; })) {
    const std::string inner_path = path + "/" + inner->get_name();
    words.push_back(inner->get_name());
    lines.commands.push_back(inner_path);
    add(*inner, inner_path, lines);
  }
  std::string arguments = fmt::format("values=\"{}\"", joined(words));
  for (const CLI::Option* option : command.get_options()) {
    if (option->get_positional()) arguments = values_line(option->get_name());
    for (const std::string& name : option->get_lnames()) {
      options.push_back("--" + name);
      if (option->get_items_expected_max() > 0)
        lines.values += fmt::format("    \"{} --{}\") {} ;;\n", path, name, values_line(kind_of(*option)));
    }
  }
  lines.options += fmt::format("          \"{}\") values=\"{}\" ;;\n", path, joined(options));
  lines.words += fmt::format("          \"{}\") {} ;;\n", path, arguments);
}

/// Without the last line's end.
std::string_view trimmed(std::string_view text) { return text.substr(0, text.find_last_not_of('\n') + 1); }

std::string bash_script(const CLI::App& program) {
  Lines lines;
  add(program, "", lines);
  return fmt::format(kScript, fmt::arg("commands", fmt::join(lines.commands, " | ")),
                     fmt::arg("values", trimmed(lines.values)), fmt::arg("options", trimmed(lines.options)),
                     fmt::arg("words", trimmed(lines.words)),
                     fmt::arg("arithmetic", joined(values_of(kArithmeticValue))));
}

}  // namespace

Command add_completion(CLI::App& program) {
  CLI::App* app = program.add_subcommand("completion", "print a script that completes commands, options and names");
  app->require_subcommand(1);
  add_example(*app, "./attnspec completion bash");
  add_example(*app->add_subcommand("bash", "for bash: source <(./attnspec completion bash)"),
              "./attnspec completion bash");
  return {app, [&program] {
            fmt::print("{}", bash_script(program));
            return 0;
          }};
}

}  // namespace attnspec::fuzz
