// The commands and their options as plain data, read from what CLI11 parses with: help, completions and the manual page
// are made from it, so that none of them can lack an option.
#pragma once

#include <string>
#include <vector>

#include <CLI/CLI.hpp>

namespace sagegen::cli {

struct OptionEntry {
  std::vector<std::string> names;  // "-q", "--quiet"; of a positional argument its only name, "KEY"
  bool is_positional = false, is_required = false;
  int most = 0;                    // values that may follow at once; 0: it is a flag
  std::string value;               // what they are: "FILE", "DIR", "TARGET", "N", ...
  bool is_enumerated = false;      // no other words than `words` are taken
  std::vector<std::string> words;  // to choose from, as far as they are few
  std::string description, group, initial;
};

struct CommandEntry {
  std::string name, description, footer;
  std::vector<OptionEntry> options;  // in the order of the help
};

OptionEntry entry_of(const CLI::Option& option);
// The command itself, without those below it.
CommandEntry entry_of(const CLI::App& command);
// Those below `app`, in their order.
std::vector<CommandEntry> commands_of(const CLI::App& app);

// Says what options take where CLI11 would say TEXT.
void name_values(CLI::App& command);

// Whether files are what a value is.
bool is_path(const std::string& value);

}  // namespace sagegen::cli
