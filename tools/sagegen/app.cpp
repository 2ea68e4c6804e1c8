#include "tools/sagegen/app.h"

#include <algorithm>
#include <cstdio>
#include <exception>
#include <filesystem>
#include <new>
#include <system_error>

#include <fmt/format.h>
#include <fmt/ranges.h>

#include "sagegen/error.h"
#include "sagegen/runtime/error.h"
#include "sagegen/runtime/tuning.h"
#include "tools/reference/printable.h"
#include "tools/reference/whole_file.h"
#include "tools/sagegen/errors.h"
#include "tools/sagegen/generator.h"
#include "tools/sagegen/help.h"
#include "tools/sagegen/interrupt.h"
#include "tools/sagegen/options.h"
#include "tools/sagegen/progress.h"

namespace sagegen::cli {
namespace {

constexpr const char* kDescription =
    "sagegen: quantized attention kernels, from a spec to PTX to a checked result. "
    "No GPU and no CUDA toolkit are needed.";

constexpr const char* kExamples = R"(Examples:
  sagegen emit --target all --out ptx/       the default set, every target
  sagegen run --dist outlier --q-len 512     attention, checked against fp64
  sagegen run --help                         options and examples of one command
)";

std::string footer() {
  std::string text = std::string(kExamples) + "\nExit codes:\n";
  for (const ExitCode& exit : kExitCodes)
    text += fmt::format("  {:>3}  {}\n", static_cast<int>(exit.code), exit.meaning);
  return text + "\nResults go to stdout, progress and errors to stderr.";
}

void add_quiet(CLI::App& app) {
  app.add_flag_callback("-q,--quiet", silence_progress, "say results and errors alone");
}

constexpr std::size_t kMaxMessage = 4000;  // bytes; what files hold may be quoted in it

}  // namespace

App::App() : app_(kDescription, "sagegen") {
  app_.formatter(std::make_shared<HelpFormatter>());
  app_.footer(footer());
  app_.require_subcommand(1);
  add_quiet(app_);
  app_.set_version_flag("--version", "sagegen " + version_line());
  for (void (*add_one)(App&) :
       {add_targets, add_list, add_emit, add_inspect, add_trace, add_generate, add_run, add_compare,
        add_tune, add_cache, add_kv, add_bundle, add_emu, add_devices, add_doctor, add_env, add_completion,
        add_man}) {
    add_one(*this);
  }
}

CLI::App* App::add_command(const std::string& name, const std::string& description,
                           const std::string& examples) {
  CLI::App* command = app_.add_subcommand(name, description);
  command->footer("Examples:\n" + examples);
  add_quiet(*command);
  command->add_flag_callback(
      "--json", [this] { format_ = OutputFormat::json; }, "print one JSON object on stdout");
  return command;
}

int App::report(const char* kind, const std::string& text, Exit code) {
  const std::string message = reference::printable(text, kMaxMessage);
  std::string block = fmt::format("sagegen: {}\n  ", kind);
  for (char c : message.substr(0, message.find_last_not_of(" \n") + 1)) {
    block += c;
    if (c == '\n') block += "  ";
  }
  block += '\n';
  std::fwrite(block.data(), 1, block.size(), stderr);
  if (format_ == OutputFormat::json) {
    Output(chosen_, format_)
        .json({{"error",
                {{"kind", kind}, {"message", message}, {"exit_code", static_cast<int>(code)}}}});
    std::fflush(stdout);  // the process may end by a signal
  }
  return static_cast<int>(code);
}

// CLI11 would only say that a command is missing.
void App::choose_command(const std::vector<std::string>& words) {
  std::vector<std::string> names;
  for (const CLI::App* command : app_.get_subcommands(nullptr))
    names.push_back(command->get_name());
  // Options of the tool itself take no values.
  const auto word = std::ranges::find_if(words, [](const auto& w) { return !w.starts_with('-'); });
  if (word == words.end()) return;
  if (std::ranges::find(names, *word) == names.end()) {
    throw UsageError(fmt::format("unknown command \"{}\"{}; use one of\n{}", *word,
                                 suggestion(*word, names),
                                 filled(fmt::format("{}", fmt::join(names, ", ")), 2, 76)));
  }
  chosen_ = *word;
}

// `words` are those of the command line.
std::string App::hint_for_unknown_options(const std::vector<std::string>& words) const {
  std::vector<std::string> names;
  const CLI::App* command = chosen_.empty() ? &app_ : app_.get_subcommand(chosen_);
  for (const CLI::Option* option : command->get_options()) {
    for (const std::string& name : option->get_lnames()) names.push_back("--" + name);
  }
  std::string hint;
  for (const std::string& word : words) {
    const std::string name = word.substr(0, word.find('='));
    if (name.starts_with("--") && std::find(names.begin(), names.end(), name) == names.end())
      hint += suggestion(name, names);
  }
  return hint;
}

// The one way to success, and so the one place that knows whether all of stdout has arrived.
int App::parse_and_act(int argc, char** argv) {
  int code = 0;
  try {
    choose_command({argv + 1, argv + argc});
    app_.parse(argc, argv);
    Output output(chosen_, format_);
    code = static_cast<int>(action_(output));
  } catch (const CLI::Success& help) {  // --help and --version
    code = app_.exit(help);
  }
  reference::flush_standard_output();
  return code;
}

int App::run(int argc, char** argv) {
  try {
    return parse_and_act(argc, argv);
  } catch (const CLI::ParseError& error) {
    const std::string command = chosen_.empty() ? "" : " " + chosen_;
    const bool unknown = error.get_exit_code() == static_cast<int>(CLI::ExitCodes::ExtrasError);
    return report(
        "usage error",
        fmt::format("{}{}\nsee `sagegen{} --help`", error.what(),
                    unknown ? hint_for_unknown_options({argv, argv + argc}) : "", command),
        Exit::usage);
  } catch (const UsageError& error) {
    return report(error.kind(), error.what(), Exit::usage);
  } catch (const FileError& error) {
    return report(error.kind(), error.what(), Exit::file);
  } catch (const Interrupted& error) {
    return report(error.kind(), error.what(), Exit::interrupted);
  } catch (const SpecError& error) {
    return report(error.kind(), error.what(), Exit::spec);
  } catch (const CodegenError& error) {
    return report(error.kind(), error.what(), Exit::codegen);
  } catch (const runtime::DriverError& error) {
    return report(error.kind(), error.what(), Exit::driver);
  } catch (const runtime::ArgumentError& error) {
    return report(error.kind(), error.what(), Exit::usage);
  } catch (const reference::FileError& error) {
    return report("file error", error.what(), Exit::file);
  } catch (const runtime::ArtifactError& error) {
    return report("file error", error.what(), Exit::file);
  } catch (const runtime::CacheError& error) {
    return report("file error", error.what(), Exit::file);
  } catch (const std::filesystem::filesystem_error& error) {
    return report(
        "file error",
        fmt::format("{}: {}", reference::printable(error.path1().native()), error.code().message()),
        Exit::file);
  } catch (const std::bad_alloc&) {
    return report("out of memory",
                  "the machine, or the limit set for this process, has not enough memory for this; "
                  "take smaller inputs or raise the limit",
                  Exit::machine);
  } catch (const std::system_error& error) {  // of threads; files have their own errors
    return report("machine error",
                  fmt::format("the system refused something that is needed: {}", error.what()),
                  Exit::machine);
  } catch (const std::exception& error) {
    return report("internal error",
                  std::string(error.what()) + "\nthis is a bug in sagegen; please report it",
                  Exit::internal);
  }
}

int run(int argc, char** argv) {
  const int code = App().run(argc, argv);
  return was_interrupted() ? static_cast<int>(Exit::interrupted) : code;
}

}  // namespace sagegen::cli
