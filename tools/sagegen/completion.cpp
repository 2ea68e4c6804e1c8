// `sagegen completion`: scripts for shells, made from the commands as they are.
#include <algorithm>

#include <fmt/format.h>
#include <fmt/ranges.h>

#include "tools/sagegen/app.h"
#include "tools/sagegen/command_tree.h"
#include "tools/sagegen/files.h"
#include "tools/sagegen/kernel_choice.h"
#include "tools/sagegen/options.h"

namespace sagegen::cli {
namespace {

enum class Shell { bash, zsh, fish, keys };

struct CompletionCommand {
  Shell shell = Shell::bash;
  std::string out;
};

std::string replaced(std::string text, std::string_view from, std::string_view to) {
  for (std::size_t at = 0; (at = text.find(from, at)) != std::string::npos; at += to.size())
    text.replace(at, from.size(), to);
  return text;
}

// For all three shells: within single quotes nothing is special but the quote.
std::string quoted(const std::string& text) { return "'" + replaced(text, "'", "'\\''") + "'"; }

std::vector<std::string> names_of(const CommandEntry& command) {
  std::vector<std::string> names;
  for (const OptionEntry& option : command.options) {
    if (!option.is_positional) names.insert(names.end(), option.names.begin(), option.names.end());
  }
  return names;
}

// ---- bash -----------------------------------------------------------------------------------------

constexpr const char* kNamedFile = "KEY=FILE";

constexpr const char* kBash = R"bash(
# What COMMAND takes behind OPTION, or as its argument of a number from 1: how many values, of which kind
# (words, keys, paths, paths behind a =, or else), and the words.
_sagegen_values() {
  most=0 kind= list=
  case "$1 $2" in
%VALUES%  esac
}

_sagegen_options() {
  case "$1" in
%OPTIONS%  esac
}

_sagegen() {
  # Bash splits words at : and =, too.
  local -a words=()
  local i word glue=
  for ((i = 0; i <= COMP_CWORD; ++i)); do
    word=${COMP_WORDS[i]}
    if [[ $glue || $word == [:=]* ]] && ((${#words[@]} > 0)); then
      words[${#words[@]} - 1]+=$word
    else
      words+=("$word")
    fi
    [[ $word == *[:=] ]] && glue=1 || glue=
  done
  local last=$((${#words[@]} - 1))
  local current=${words[last]} command= at=0
  for ((i = 1; i < last; ++i)); do
    if [[ ${words[i]} != -* ]]; then
      command=${words[i]} at=$i
      break
    fi
  done

  local most kind list option= prefix= value=$current
  if [[ $current == --*=* ]]; then
    option=${current%%=*} prefix=$option= value=${current#*=}
    _sagegen_values "$command" "$option"
  elif [[ $current == -* ]]; then
    kind=words list=$(_sagegen_options "$command")
  elif [[ -z $command ]]; then
    kind=words list=$(_sagegen_options "")$'\n%COMMANDS%'
  else
    # The nearest option before, if it still takes values; else the argument whose turn it is.
    local argument=1 left=0
    for ((i = at + 1; i < last; ++i)); do
      if [[ ${words[i]} == -* ]]; then
        most=0
        [[ ${words[i]} == *=* ]] || _sagegen_values "$command" "${words[i]}"
        option=${words[i]} left=$most
      elif ((left > 0)); then
        ((left -= 1))
      else
        ((argument += 1))
      fi
    done
    if ((left > 0)); then
      _sagegen_values "$command" "$option"
    else
      _sagegen_values "$command" "$argument"
    fi
  fi
  [[ $kind == keys ]] && list=$(command "${COMP_WORDS[0]}" completion keys 2>/dev/null)

  # Only what follows the last character that splits words is replaced.
  local break=
  for ((i = ${#current}; i > 0; --i)); do
    if [[ ${current:i-1:1} == [:=] && $COMP_WORDBREAKS == *"${current:i-1:1}"* ]]; then
      break=${current:0:i}
      break
    fi
  done
  local IFS=$'\n'
  COMPREPLY=()
  if [[ $kind == named ]]; then
    [[ $value == *=* ]] || return
    kind=paths prefix=$prefix${value%%=*}= value=${value#*=}
  fi
  if [[ $kind == paths ]]; then
    compopt -o filenames 2>/dev/null
    for word in $(compgen -f -- "$value"); do
      word=$prefix$word
      COMPREPLY+=("${word#"$break"}")
    done
    return
  fi
  for word in $(compgen -W "$list" -- "$value"); do
    word=$prefix$word
    COMPREPLY+=("${word#"$break"}")
  done
}

complete -F _sagegen sagegen
)bash";

std::string kind_of(const OptionEntry& option) {
  if (is_path(option.value)) return "paths";
  if (option.value == kNamedFile) return "named";
  return option.value == "KEY" ? "keys" : option.words.empty() ? "" : "words";
}

std::string bash_script(const CommandEntry& tool, const std::vector<CommandEntry>& commands) {
  std::string values, options, names;
  options += fmt::format("    \"\") printf '%s\\n' {} ;;\n", fmt::join(names_of(tool), " "));
  for (const CommandEntry& command : commands) {
    names += names.empty() ? command.name : "\\n" + command.name;
    options += fmt::format("    {}) printf '%s\\n' {} ;;\n", command.name,
                           fmt::join(names_of(command), " "));
    int arguments = 0;
    for (const OptionEntry& option : command.options) {
      if (option.most == 0) continue;
      std::vector<std::string> patterns;
      if (option.is_positional) {
        ++arguments;  // one that may be given again stands for all that follow
        patterns.push_back(option.most > 1 ? fmt::format("\"{} \"[0-9]*", command.name)
                                           : fmt::format("\"{} {}\"", command.name, arguments));
      } else {
        for (const std::string& name : option.names)
          patterns.push_back(fmt::format("\"{} {}\"", command.name, name));
      }
      values += fmt::format(
          "    {})\n      most={} kind={} list={} ;;\n", fmt::join(patterns, " | "), option.most,
          kind_of(option),
          option.words.empty() ? "" : fmt::format("$'{}'", fmt::join(option.words, "\\n")));
    }
  }
  std::string script = replaced(kBash, "%VALUES%", values);
  script = replaced(std::move(script), "%OPTIONS%", options);
  return "# bash completion of sagegen; made by `sagegen completion bash`" +
         replaced(std::move(script), "%COMMANDS%", names);
}

// ---- zsh ------------------------------------------------------------------------------------------

// Within the specs of _arguments.
std::string zsh_text(const std::string& text) {
  return replaced(replaced(replaced(replaced(text, "\\", "\\\\"), "[", "\\["), "]", "\\]"), ":",
                  "\\:");
}

std::string zsh_action(const OptionEntry& option) {
  if (is_path(option.value)) return "_files";
  if (option.value == kNamedFile) return "{compset -P \"*=\" && _files}";
  if (option.value == "KEY") return "_sagegen_keys";
  return option.words.empty()
             ? " "
             : fmt::format("({})", zsh_text(fmt::format("{}", fmt::join(option.words, " "))));
}

std::string zsh_spec(const OptionEntry& option) {
  const std::string value =
      option.most == 0
          ? ""
          : fmt::format(":{}{}:{}", option.most > 1 && !option.is_positional ? "*-*:" : "",
                        zsh_text(option.value), zsh_action(option));
  if (option.is_positional) return quoted((option.most > 1 ? "*" : "") + value);
  std::string specs;
  for (const std::string& name : option.names) {
    const bool with_equals = option.most > 0 && name.starts_with("--");
    specs += fmt::format(
        "{}{}", specs.empty() ? "" : " ",
        quoted(fmt::format("{}{}{}[{}]{}", option.most > 1 ? "*" : "", name, with_equals ? "=" : "",
                           zsh_text(option.description), value)));
  }
  return specs;
}

std::string zsh_arguments(const CommandEntry& command, const std::string& indent) {
  std::string text = "_arguments -s";
  for (const OptionEntry& option : command.options)
    text += fmt::format(" \\\n{}{}", indent, zsh_spec(option));
  return text;
}

std::string zsh_script(const CommandEntry& tool, const std::vector<CommandEntry>& commands) {
  std::string list, cases;
  for (const CommandEntry& command : commands) {
    list += fmt::format("    {}\n", quoted(command.name + ":" + zsh_text(command.description)));
    cases += fmt::format("    {})\n      {}\n      ;;\n", command.name,
                         zsh_arguments(command, "        "));
  }
  return fmt::format(R"zsh(#compdef sagegen
# zsh completion of sagegen; made by `sagegen completion zsh`

_sagegen_keys() {{
  local -a keys
  keys=(${{(f)"$(command sagegen completion keys 2>/dev/null)"}})
  compadd -a keys
}}

_sagegen() {{
  local curcontext="$curcontext" state line
  local -a commands
  commands=(
{}  )
  {} \
    '1: :->command' '*:: :->arguments' && return
  case $state in
    command) _describe -t commands 'sagegen command' commands; return ;;
  esac
  case $words[1] in
{}  esac
}}

if [ "$funcstack[1]" = _sagegen ]; then
  _sagegen "$@"
else
  compdef _sagegen sagegen
fi
)zsh",
                     list, replaced(zsh_arguments(tool, "    "), "_arguments -s", "_arguments -C"),
                     cases);
}

// ---- fish -----------------------------------------------------------------------------------------

bool is_file(const OptionEntry& option) {
  return is_path(option.value) || option.value == kNamedFile;
}

std::string fish_values(const OptionEntry& option) {
  if (is_file(option)) return " -F";  // fish looks behind a = by itself
  if (option.value == "KEY") return " -a '(command sagegen completion keys 2>/dev/null)'";
  return option.words.empty() ? ""
                              : " -a " + quoted(fmt::format("{}", fmt::join(option.words, " ")));
}

std::string fish_line(const OptionEntry& option, const std::string& when) {
  std::string line = "complete -c sagegen -n " + quoted(when);
  if (option.is_positional) {
    if (fish_values(option).empty()) return {};
    return line + fish_values(option) + "\n";
  }
  for (const std::string& name : option.names)
    line += name.starts_with("--") ? " -l " + name.substr(2) : " -s " + name.substr(1);
  if (option.most > 0) line += is_file(option) ? " -r -F" : " -x" + fish_values(option);
  return line + " -d " + quoted(replaced(option.description, "\\", "\\\\")) + "\n";
}

std::string fish_script(const CommandEntry& tool, const std::vector<CommandEntry>& commands) {
  std::string script =
      "# fish completion of sagegen; made by `sagegen completion fish`\n"
      "complete -c sagegen -f\n";
  for (const OptionEntry& option : tool.options)
    script += fish_line(option, "__fish_use_subcommand");
  for (const CommandEntry& command : commands) {
    script += fmt::format("complete -c sagegen -n __fish_use_subcommand -a {} -d {}\n",
                          command.name, quoted(replaced(command.description, "\\", "\\\\")));
  }
  for (const CommandEntry& command : commands) {
    for (const OptionEntry& option : command.options)
      script += fish_line(option, "__fish_seen_subcommand_from " + command.name);
  }
  return script;
}

// ---- the command ----------------------------------------------------------------------------------

std::string keys_text() {
  std::string text;
  for (const Kernel& kernel : default_set()) text += kernel.key() + "\n";
  return text;
}

std::string script_of(Shell shell, const CLI::App& tree) {
  switch (shell) {
    case Shell::bash:
      return bash_script(entry_of(tree), commands_of(tree));
    case Shell::zsh:
      return zsh_script(entry_of(tree), commands_of(tree));
    case Shell::fish:
      return fish_script(entry_of(tree), commands_of(tree));
    case Shell::keys:
      return keys_text();
  }
  return {};
}

}  // namespace

void add_completion(App& app) {
  app.add<CompletionCommand>(
      "completion", "print what completes sagegen's command line in a shell",
      "  source <(sagegen completion bash)          in ~/.bashrc; also for zsh\n"
      "  sagegen completion fish --out sagegen.fish",
      [](CLI::App& options, CompletionCommand& command) {
        add_choice<Shell>(
            options, "SHELL", command.shell,
            {{"bash", Shell::bash},
             {"zsh", Shell::zsh},
             {"fish", Shell::fish},
             {"keys", Shell::keys}},
            "bash, zsh or fish; keys: those of the default set, for which the scripts ask")
            ->required();
        refuse_empty(options.add_option("--out", command.out, "write it to this file instead"));
      },
      [&app](const CompletionCommand& command, Output& output) {
        const std::string script = script_of(command.shell, app.tree());
        if (command.out.empty()) {
          output.bytes(script);
          output.json({{"text", script}});
          return Exit::ok;
        }
        write_file(command.out, script);
        output.json({{"file", command.out}});
        return Exit::ok;
      });
}

}  // namespace sagegen::cli
