#include "tools/sagegen/help.h"

#include <algorithm>
#include <utility>

#include <fmt/format.h>
#include <fmt/ranges.h>

#include "tools/sagegen/command_tree.h"

namespace sagegen::cli {
namespace {

constexpr std::size_t kSecondColumn = 28;

// `left`, and `text` beside it, or below it if `left` is too wide.
std::string in_columns(const std::string& left, const std::string& text) {
  const std::string right = filled(text, kSecondColumn);
  if (text.empty()) return left + "\n";
  if (left.size() + 2 > kSecondColumn) return left + "\n" + right;
  return left + right.substr(left.size());
}

}  // namespace

std::string filled(std::string_view text, std::size_t indent, std::size_t columns) {
  std::string lines, line;
  while (true) {
    text.remove_prefix(std::min(text.find_first_not_of(" \n"), text.size()));
    if (text.empty()) break;
    const std::string_view word = text.substr(0, text.find_first_of(" \n"));
    text.remove_prefix(word.size());
    if (!line.empty() && indent + line.size() + 1 + word.size() > columns) {
      lines += std::string(indent, ' ') + line + "\n";
      line.clear();
    }
    line += line.empty() ? "" : " ";
    line += word;
  }
  return line.empty() ? lines : lines + std::string(indent, ' ') + line + "\n";
}

std::string folded(const std::string& examples) {
  constexpr std::string_view kGoesOn = " \\", kIndent = "      ";
  std::string lines;
  for (std::size_t begin = 0; begin < examples.size();) {
    const std::size_t end = std::min(examples.find('\n', begin), examples.size());
    std::string line = examples.substr(begin, end - begin);
    const bool is_command = line.starts_with("  sagegen ");
    while (is_command && line.size() > kHelpColumns) {
      // At a blank that no quotes enclose.
      std::size_t at = 0;
      char quote = '\0';
      for (std::size_t i = kIndent.size(); i + kGoesOn.size() <= kHelpColumns; ++i) {
        if (line[i] == quote)
          quote = '\0';
        else if (quote == '\0' && (line[i] == '"' || line[i] == '\''))
          quote = line[i];
        else if (quote == '\0' && line[i] == ' ')
          at = i;
      }
      if (at == 0) break;
      lines += line.substr(0, at) + std::string(kGoesOn) + "\n";
      line = std::string(kIndent) + line.substr(at + 1);
    }
    lines += line;
    if (end < examples.size()) lines += '\n';
    begin = end + 1;
  }
  return lines;
}

std::string HelpFormatter::make_footer(const CLI::App* app) const {
  return folded(app->get_footer()) + "\n";
}

std::string HelpFormatter::make_description(const CLI::App* app) const {
  return filled(app->get_description(), 0);
}

// Between groups CLI11 has an empty line of its own.
std::string HelpFormatter::make_group(std::string group, bool is_positional,
                                      std::vector<const CLI::Option*> options) const {
  const bool is_first = is_positional || group == "Options";
  const std::string text =
      CLI::Formatter::make_group(std::move(group), is_positional, std::move(options));
  return is_first ? text : text.substr(text.find_first_not_of('\n'));
}

std::string HelpFormatter::make_option(const CLI::Option* option, bool) const {
  const OptionEntry entry = entry_of(*option);
  std::string left = fmt::format("  {}", fmt::join(entry.names, ","));
  std::string text = entry.description;
  const std::string words = fmt::format("{{{}}}", fmt::join(entry.words, ","));
  if (!entry.is_positional && entry.most > 0) {
    const bool fits = entry.is_enumerated && left.size() + 1 + words.size() <= kHelpColumns;
    left += " " + (fits ? words : entry.value);
  }
  if (entry.most > 1) left += " ...";
  if (!entry.initial.empty() && text.find("default") == std::string::npos)
    text += fmt::format(" (default: {})", entry.initial);
  if (entry.is_required && !entry.is_positional) text += " (required)";
  return in_columns(left, text);
}

std::string HelpFormatter::make_subcommand(const CLI::App* command) const {
  return in_columns("  " + command->get_name(), command->get_description());
}

OptionGroup::OptionGroup(CLI::App& app, const std::string& heading)
    : app_(app), before_(app.option_defaults()->get_group()) {
  app_.option_defaults()->group(heading);
}

OptionGroup::~OptionGroup() { app_.option_defaults()->group(before_); }

}  // namespace sagegen::cli
