// How commands plug into the tool: each registers a subcommand whose callback stores what to do, and the
// tool runs it after parsing, so that one place turns errors into messages and exit codes.
#pragma once

#include <functional>
#include <memory>
#include <string>
#include <vector>

#include <CLI/CLI.hpp>

#include "tools/sagegen/command_tree.h"
#include "tools/sagegen/output.h"

namespace sagegen::cli {

// What each means: kExitCodes.
enum class Exit : int {
  ok = 0,
  check_failed =
      1,  // findings of the emulator, an accuracy bound missed, generated files that drifted
  usage = 2,
  spec = 3,           // a kernel that cannot be, a bad key or set description
  codegen = 4,        // the generator cannot produce this kernel, or this build has no generator
  driver = 5,         // no such device, a failed driver call
  file = 6,           // a file that cannot be read, understood or written
  internal = 70,      // a bug in sagegen
  machine = 71,       // the machine has not enough of something: memory, threads
  interrupted = 130,  // as shells show the end by SIGINT
};

struct ExitCode {
  Exit code;
  const char* meaning;
};
// For the help and the manual page; docs/reference.md says the same.
inline constexpr ExitCode kExitCodes[] = {
    {Exit::ok, "ok"},
    {Exit::check_failed, "a check failed: findings, accuracy, drift"},
    {Exit::usage, "usage: the command line is refused, or emulation that takes too long"},
    {Exit::spec, "a kernel that cannot be, a bad key, target or set description"},
    {Exit::codegen, "the generator cannot make this kernel, or this build has none"},
    {Exit::driver, "no such device, or the driver failed"},
    {Exit::file, "a file that cannot be read, understood or written; stdout, too"},
    {Exit::internal, "a bug in sagegen"},
    {Exit::machine, "not enough memory or threads"},
    {Exit::interrupted, "interrupted by Ctrl-C: the process ends by that signal"},
};

// Runs the tool; never throws.
int run(int argc, char** argv);

class App {
 public:
  App();

  // Adds a command. `define` adds options to the subcommand, bound to an `Options` object that outlives
  // parsing; `action` does the work. Every command has --json and --quiet.
  template <typename Options>
  void add(const std::string& name, const std::string& description, const std::string& examples,
           const std::function<void(CLI::App&, Options&)>& define,
           const std::function<Exit(const Options&, Output&)>& action) {
    auto options = std::make_shared<Options>();
    CLI::App* command = add_command(name, description, examples);
    define(*command, *options);
    name_values(*command);
    command->callback([this, options, action] {
      action_ = [options, action](Output& output) { return action(*options, output); };
    });
  }

  int run(int argc, char** argv);

  // All commands with their options; parsing with it runs nothing.
  CLI::App& tree() { return app_; }

 private:
  CLI::App* add_command(const std::string& name, const std::string& description,
                        const std::string& examples);
  void choose_command(const std::vector<std::string>& words);
  std::string hint_for_unknown_options(const std::vector<std::string>& words) const;
  int parse_and_act(int argc, char** argv);
  int report(const char* kind, const std::string& text, Exit code);

  CLI::App app_;
  std::string chosen_;
  std::function<Exit(Output&)> action_;
  OutputFormat format_ = OutputFormat::text;
};

// One per command, each in the file of its name.
void add_targets(App& app);
void add_list(App& app);
void add_emit(App& app);
void add_inspect(App& app);
void add_trace(App& app);
void add_generate(App& app);
void add_run(App& app);
void add_compare(App& app);
void add_tune(App& app);
void add_cache(App& app);
void add_kv(App& app);
void add_bundle(App& app);
void add_doctor(App& app);
void add_emu(App& app);
void add_devices(App& app);
void add_env(App& app);
void add_completion(App& app);
void add_man(App& app);

}  // namespace sagegen::cli
