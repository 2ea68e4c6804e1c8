// How `--help` looks: nothing is wider than a terminal of 80 columns.
#pragma once

#include <string>
#include <string_view>
#include <vector>

#include <CLI/CLI.hpp>

namespace sagegen::cli {

inline constexpr std::size_t kHelpColumns = 80;

// The words of `text`, filled into lines of at most `columns`, each behind `indent` spaces; ends with a newline. A word
// that is longer has a line of its own.
std::string filled(std::string_view text, std::size_t indent, std::size_t columns = kHelpColumns);

// Examples as they are, but commands that are wider than that go on behind a backslash.
std::string folded(const std::string& examples);

// Options in a column, what they mean in another.
class HelpFormatter final : public CLI::Formatter {
 public:
  std::string make_footer(const CLI::App* app) const override;
  std::string make_description(const CLI::App* app) const override;
  std::string make_group(std::string group, bool is_positional,
                         std::vector<const CLI::Option*> options) const override;
  std::string make_option(const CLI::Option* option, bool is_positional) const override;
  std::string make_subcommand(const CLI::App* command) const override;
};

// Options that are defined while it lives stand under this heading.
class OptionGroup {
 public:
  OptionGroup(CLI::App& app, const std::string& heading);
  ~OptionGroup();
  OptionGroup(const OptionGroup&) = delete;
  OptionGroup& operator=(const OptionGroup&) = delete;

 private:
  CLI::App& app_;
  std::string before_;
};

}  // namespace sagegen::cli
