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
#include "tools/sagegen/options.h"

namespace sagegen::cli {
namespace {

constexpr const char* kDescription =
    "sagegen: quantized attention kernels, from a spec to PTX to a checked result.\n"
    "No GPU and no CUDA toolkit are needed.";

constexpr const char* kFooter = R"(Examples:
  sagegen emit --target all --out /tmp/ptx     PTX of the default set, for every target
  sagegen run --dist outlier --q-len 512       attention in the emulator or on a GPU, against fp64
  sagegen COMMAND --help                       options and examples of one command

Exit codes: 0 ok; 1 a check failed (findings, accuracy, drift); 2 usage; 3 bad spec or key;
4 the generator cannot do it; 5 no device, or the driver failed; 6 a file that cannot be read, understood
or written; 70 a bug in sagegen; 71 not enough memory or threads. Results go to stdout, progress and
errors to stderr.)";

constexpr std::size_t kMaxMessage = 4000;  // bytes; what files hold may be quoted in it

}  // namespace

App::App() : app_(kDescription, "sagegen") {
  app_.footer(kFooter);
  app_.require_subcommand(1);
  app_.set_version_flag("--version", "sagegen " + version_line());
  app_.get_formatter()->column_width(34);
  for (void (*add_one)(App&) :
       {add_targets, add_list, add_emit, add_inspect, add_trace, add_generate, add_run, add_compare,
        add_tune, add_cache, add_bundle, add_emu, add_devices, add_doctor, add_env}) {
    add_one(*this);
  }
}

CLI::App* App::add_command(const std::string& name, const std::string& description,
                           const std::string& examples) {
  CLI::App* command = app_.add_subcommand(name, description);
  command->footer("Examples:\n" + examples);
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
  }
  return static_cast<int>(code);
}

// CLI11 would only say that a command is missing.
void App::choose_command(const std::string& word) {
  std::vector<std::string> names;
  for (const CLI::App* command : app_.get_subcommands(nullptr))
    names.push_back(command->get_name());
  if (word.starts_with('-')) return;
  chosen_ = word;
  if (std::find(names.begin(), names.end(), word) != names.end()) return;
  throw UsageError(fmt::format("unknown command \"{}\"{}; use one of {}", word,
                               suggestion(word, names), fmt::join(names, ", ")));
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
    if (argc > 1) choose_command(argv[1]);
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

int run(int argc, char** argv) { return App().run(argc, argv); }

}  // namespace sagegen::cli
