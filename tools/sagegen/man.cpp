// `sagegen man`: the manual page, made from the commands as they are.
#include <fmt/format.h>
#include <fmt/ranges.h>

#include "tools/sagegen/app.h"
#include "tools/sagegen/command_tree.h"
#include "tools/sagegen/environment.h"
#include "tools/sagegen/files.h"
#include "tools/sagegen/generator.h"
#include "tools/sagegen/options.h"

namespace sagegen::cli {
namespace {

constexpr const char* kDate =
    "2026-11-30";  // of the form of the page; the commands are those of the version

struct ManCommand {
  std::string out;
};

// Text of a line: hyphens stay hyphens, so that options can be copied, and nothing is a request.
std::string roff(std::string_view text) {
  std::string escaped;
  for (const char c : text) {
    const bool begins = escaped.empty() || escaped.back() == '\n';
    if (begins && (c == '.' || c == '\'')) escaped += "\\&";
    if (c == '\\')
      escaped += "\\e";
    else if (c == '-')
      escaped += "\\-";
    else if (c == '^')
      escaped += "\\(ha";
    else if (c == '~')
      escaped += "\\(ti";
    else if (c == '`')
      escaped += "\\(ga";
    else
      escaped += c;
  }
  return escaped;
}

// Behind a macro: one argument.
std::string argument(const std::string& text) {
  std::string quoted;
  for (const char c : roff(text)) {
    if (c == '"')
      quoted += "\\(dq";
    else
      quoted += c;
  }
  return "\"" + quoted + "\"";
}

std::string option_text(const OptionEntry& option) {
  std::vector<std::string> names;
  for (const std::string& name : option.names)
    names.push_back(option.is_positional ? fmt::format("\\fI{}\\fR", roff(name))
                                         : fmt::format("\\fB{}\\fR", roff(name)));
  std::string text = fmt::format(".TP\n{}", fmt::join(names, ", "));
  if (option.most > 0 && !option.is_positional)
    text += fmt::format(" \\fI{}\\fR", roff(option.value));
  if (option.most > 1) text += " ...";
  text += "\n" + roff(option.description) + "\n";
  std::string more;
  if (option.is_enumerated) more += fmt::format("One of {}. ", fmt::join(option.words, ", "));
  if (!option.initial.empty() && option.description.find("default") == std::string::npos)
    more += fmt::format("Default: {}. ", option.initial);
  if (option.is_required && !option.is_positional) more += "Required. ";
  if (more.empty()) return text;
  more.pop_back();
  return text + ".br\n" + roff(more) + "\n";
}

// Lines that begin with two blanks keep their form; a heading stands over them.
std::string footer_text(const std::string& footer) {
  return ".PP\n.nf\n" + roff(footer) + "\n.fi\n";
}

std::string command_text(const CommandEntry& command) {
  std::string synopsis = fmt::format("\\fBsagegen {}\\fR [\\fIOPTIONS\\fR]", roff(command.name));
  for (const OptionEntry& option : command.options) {
    if (!option.is_positional) continue;
    const std::string name =
        fmt::format("\\fI{}\\fR{}", roff(option.names.front()), option.most > 1 ? "..." : "");
    synopsis += option.is_required ? " " + name : fmt::format(" [{}]", name);
  }
  std::string text = fmt::format(".SS {}\n{}\n.PP\n{}\n", argument("sagegen " + command.name),
                                 synopsis, roff(command.description));
  std::string group;
  for (const OptionEntry& option : command.options) {
    if (!option.is_positional && option.group != group) {
      group = option.group;
      text += fmt::format(".PP\n{}:\n", roff(group));
    }
    text += option_text(option);
  }
  return text + footer_text(command.footer);
}

std::string page(const CLI::App& tree) {
  const CommandEntry tool = entry_of(tree);
  std::string text = fmt::format(
      ".\\\" Made by `sagegen man`; edits are lost.\n"
      ".TH SAGEGEN 1 {} {} {}\n"
      ".SH NAME\nsagegen \\- quantized attention kernels as PTX, made and checked\n"
      ".SH SYNOPSIS\n\\fBsagegen\\fR [\\fIOPTIONS\\fR] \\fICOMMAND\\fR ...\n"
      ".SH DESCRIPTION\n{}\n",
      kDate, argument("sagegen " + tool_version()), argument("User Commands"),
      roff(tool.description));
  text += "Results go to stdout, progress and errors to stderr.\n";
  for (const OptionEntry& option : tool.options) text += option_text(option);
  text += ".SH COMMANDS\n";
  for (const CommandEntry& command : commands_of(tree)) text += command_text(command);
  text += ".SH EXIT STATUS\n";
  for (const ExitCode& exit : kExitCodes)
    text += fmt::format(".TP\n\\fB{}\\fR\n{}\n", static_cast<int>(exit.code), roff(exit.meaning));
  text += ".SH ENVIRONMENT\n";
  for (const EnvironmentVariable& variable : environment_variables())
    text += fmt::format(".TP\n\\fB{}\\fR\n{}\n", roff(variable.name), roff(variable.meaning));
  return text;
}

}  // namespace

void add_man(App& app) {
  app.add<ManCommand>(
      "man", "print the manual page",
      "  sagegen man --out sagegen.1\n"
      "  sagegen man | man -l -",
      [](CLI::App& options, ManCommand& command) {
        refuse_empty(options.add_option("--out", command.out, "write it to this file instead"));
      },
      [&app](const ManCommand& command, Output& output) {
        const std::string text = page(app.tree());
        if (command.out.empty()) {
          output.bytes(text);
          output.json({{"text", text}});
          return Exit::ok;
        }
        write_file(command.out, text);
        output.json({{"file", command.out}});
        return Exit::ok;
      });
}

}  // namespace sagegen::cli
