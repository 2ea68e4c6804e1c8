#include "tools/sagegen/command_tree.h"

#include <algorithm>
#include <sstream>

#include "sagegen/runtime/emulator.h"
#include "sagegen/target.h"
#include "tools/model/gpus.h"
#include "tools/sagegen/help.h"

namespace sagegen::cli {
namespace {

struct Named {
  const char* command;  // empty: of every command
  const char* option;
  const char* value;
};

constexpr Named kNamed[] = {
    {"list", "--target", "TARGET|all"},
    {"emit", "--target", "TARGET|all"},
    {"bundle", "--target", "TARGET|all"},
    {"", "--target", "TARGET"},
    {"", "--device", "DEVICE"},
    {"", "KEY", "KEY"},
    {"emu", "--out", "KEY=FILE"},
    {"emu", "--expect", "KEY=FILE"},
    {"emu", "--arg", "ARGUMENT"},
    {"", "FILE", "FILE"},
    {"", "NAME", "PATH"},
    {"", "MAP", "FILE"},
    {"", "--default", "DTYPE"},
    {"emit", "--out", "DIR"},
    {"trace", "--out", "DIR"},
    {"kv", "--out", "PATH"},
    {"", "--bundle", "FILE"},
    {"", "--out", "FILE"},
    {"", "--set", "FILE"},
    {"", "--input", "FILE"},
    {"", "--ptx", "PATH"},
    {"", "--cache", "DIR"},
    {"", "--html", "FILE"},
    {"", "--shapes", "FILE"},
    {"", "--state", "FILE"},
    {"", "--svg", "DIR"},
    {"", "--root", "DIR"},
    {"", "--gpu", "GPU"},
    {"", "--plan", "PLAN"},
    {"", "--only", "OPTIONS"},
    {"", "--schedule", "SCHEDULE"},
    {"", "--groups", "GROUPS"},
    {"", "--dist", "NAME"},
    {"", "--prefix", "PREFIX"},
    {"", "--filter", "REGEX"},
    {"", "--shard", "I/N"},
    {"", "--budget", "SECONDS"},
    {"", "--patience", "SECONDS"},
    {"", "--seqlens", "N,N,..."},
    {"", "--kv-seqlens", "N,N,..."},
    {"", "--entry", "NAME"},
    {"", "--grid", "SIZE"},
    {"", "--block", "SIZE"},
};

std::string name_of(const CLI::Option& option) {
  return option.get_lnames().empty() ? option.get_name() : "--" + option.get_lnames().front();
}

std::vector<std::string> targets() {
  std::vector<std::string> names;
  for (const TargetInfo& info : supported_targets()) names.push_back(info.name);
  return names;
}

// What a value can be, where help does not list it.
std::vector<std::string> usual_words(const std::string& value) {
  std::vector<std::string> words;
  if (value.starts_with("TARGET")) words = targets();
  if (value == "TARGET|all") words.emplace_back("all");
  if (value == "DEVICE") {
    words = {"auto", "cuda", "cuda:0", "emulator"};
    for (int i = 0; i <= static_cast<int>(runtime::EmulatorProfile::ideal); ++i)
      words.push_back("emulator:" + to_string(static_cast<runtime::EmulatorProfile>(i)));
  }
  if (value == "GPU") {
    for (const model::Gpu& gpu : model::gpus()) words.emplace_back(gpu.name);
  }
  return words;
}

std::string short_name(const std::string& type) {
  if (type == "INT" || type == "UINT") return "N";
  return type == "FLOAT" ? "X" : type;
}

}  // namespace

bool is_path(const std::string& value) {
  return value == "FILE" || value == "DIR" || value == "PATH";
}

void name_values(CLI::App& command) {
  for (CLI::Option* option : command.get_options([](const CLI::Option*) { return true; })) {
    if (option->get_items_expected_max() == 0) continue;
    const std::string name = name_of(*option);
    const auto* const found = std::ranges::find_if(kNamed, [&](const Named& named) {
      return named.option == name &&
             (*named.command == '\0' || command.get_name() == named.command);
    });
    if (found != std::end(kNamed)) option->type_name(found->value);
  }
}

OptionEntry entry_of(const CLI::Option& option) {
  OptionEntry entry;
  entry.is_positional = option.get_positional();
  entry.is_required = option.get_required();
  for (const std::string& name : option.get_snames()) entry.names.push_back("-" + name);
  for (const std::string& name : option.get_lnames()) entry.names.push_back("--" + name);
  if (entry.names.empty()) entry.names.push_back(option.get_name());
  entry.most = option.get_items_expected_max();
  // "TEXT", or of one_of() "TEXT:{a,b}".
  const std::string type = option.get_type_name();
  const std::size_t list = type.find(":{");
  entry.value = short_name(type.substr(0, list));
  if (list != std::string::npos) {
    std::istringstream words(type.substr(list + 2, type.find('}', list) - list - 2));
    for (std::string word; std::getline(words, word, ',');) entry.words.push_back(word);
    entry.is_enumerated = true;
    if (entry.value == "TEXT") entry.value = "WORD";
  } else if (entry.most > 0) {
    entry.words = usual_words(entry.value);
  }
  entry.description = option.get_description();
  entry.group = option.get_group();
  entry.initial = option.get_default_str();
  return entry;
}

CommandEntry entry_of(const CLI::App& command) {
  CommandEntry entry{.name = command.get_name(),
                     .description = command.get_description(),
                     .footer = folded(command.get_footer()),
                     .options = {}};
  const auto add = [&](bool positional, const std::string& group) {
    for (const CLI::Option* option : command.get_options()) {
      if (option->get_positional() == positional && (positional || option->get_group() == group))
        entry.options.push_back(entry_of(*option));
    }
  };
  add(true, "");
  for (const std::string& group : command.get_groups()) add(false, group);
  return entry;
}

std::vector<CommandEntry> commands_of(const CLI::App& app) {
  std::vector<CommandEntry> commands;
  for (const CLI::App* command : app.get_subcommands([](const CLI::App*) { return true; }))
    commands.push_back(entry_of(*command));
  return commands;
}

}  // namespace sagegen::cli
