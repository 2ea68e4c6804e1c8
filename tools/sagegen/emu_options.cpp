#include "tools/sagegen/emu_options.h"

#include <algorithm>
#include <optional>

#include <fmt/format.h>
#include <fmt/ranges.h>

#include "tools/reference/printable.h"
#include "tools/sagegen/emu_file.h"
#include "tools/sagegen/emulator_options.h"
#include "tools/sagegen/errors.h"
#include "tools/sagegen/files.h"
#include "tools/sagegen/options.h"

namespace sagegen::cli {
namespace {

void define_launch(CLI::App& app, EmuCommand& command) {
  constexpr std::uint64_t kMostShared = std::uint64_t{1} << 20;
  constexpr std::uint64_t kMostShown = 1024;
  const auto repeated = [&](const char* name, std::vector<std::string>& values, const char* what) {
    return app.add_option(name, values, what)->allow_extra_args(false);
  };
  refuse_empty(app.add_option("--entry", command.entry, "of the PTX (default: its only one)"));
  app.add_option("--grid", command.grid, "blocks: 8, 8x4 or 8x4x2")->capture_default_str();
  app.add_option("--block", command.block, "threads of each: 128, 32x4 (default: the .reqntid)");
  require_whole(app.add_option("--shared", command.shared, "bytes of dynamic shared memory"), 0,
                kMostShared);
  repeated("--arg", command.arg, "an argument, see below; several times");
  repeated("--out", command.out, "KEY=FILE: write a buffer to .npy or .bin; several times");
  repeated("--expect", command.expect, "KEY=VALUE: compare a buffer; several times");
  const auto not_negative = [](const std::string& text) {
    const std::optional<Number> number = parse_number(text);
    return number && *number >= 0 ? std::string() : text + " is refused; it is 0 or more";
  };
  app.add_option("--atol", command.tolerance.atol,
                 "of --expect: |got - expected| may be ATOL + RTOL |expected| (default: 0)")
      ->check(not_negative);
  app.add_option("--rtol", command.tolerance.rtol, "of --expect (default: 0)")->check(not_negative);
  require_whole(app.add_option("--show", command.show, "values of each buffer to print")
                    ->capture_default_str(),
                0, kMostShown);
  app.add_option("--target", command.target,
                 "the emulated device: sm_80, ... or ideal (default: the first that runs the PTX)");
  command.emulator_options = define_emulator_options(app, command.emulator);
  require_whole(app.add_option("--instruction-limit", command.emulator.instruction_limit,
                               "warp instructions of one block, 0 for the emulator's own"),
                0, std::uint64_t{1} << 60);
}

// Words for the parser of the options: those of the file that the command line does not give, then the
// command line's.
std::vector<std::string> words_of(const std::vector<LaunchKey>& keys, const CLI::App& given,
                                  const CLI::App& known, Launch& launch) {
  std::vector<std::string> words, names{"ptx"};
  for (const CLI::Option* option : known.get_options()) {
    for (const std::string& name : option->get_lnames()) {
      if (name != "help") names.push_back(name);
    }
  }
  for (const LaunchKey& key : keys) {
    const auto refuse = [&](const std::string& why) {
      return FileError(fmt::format("{}:{}: {}", launch.file, key.line, why));
    };
    if (std::find(names.begin(), names.end(), key.name) == names.end()) {
      throw refuse(fmt::format("unknown key {}{}; valid are {}", reference::printable(key.name),
                               suggestion(key.name, names), fmt::join(names, ", ")));
    }
    const bool is_repeated = key.name == "arg" || key.name == "out" || key.name == "expect";
    if (key.is_list && !is_repeated) throw refuse(key.name + " takes one value, and no list");
    if (key.name == "ptx") {
      launch.command.file = (launch.file_directory / key.values[0]).string();
      continue;
    }
    if (given.get_option("--" + key.name)->count() > 0) continue;
    launch.in_file.push_back(key.name);
    for (const std::string& value : key.values)
      words.push_back(fmt::format("--{}={}", key.name, value));
  }
  for (const CLI::Option* option : known.get_options()) {
    for (const std::string& name : option->get_lnames()) {
      if (name == "help") continue;
      for (const std::string& value : given.get_option("--" + name)->results())
        words.push_back(fmt::format("--{}={}", name, value));
    }
  }
  return words;
}

}  // namespace

void define_emu(CLI::App& app, EmuCommand& command) {
  command.app = &app;
  app.add_option("FILE", command.file, "a PTX text, or a launch in TOML")->required();
  define_launch(app, command);
}

bool Launch::is_from_file(const std::string& option) const {
  return std::find(in_file.begin(), in_file.end(), option) != in_file.end();
}

Launch complete(const EmuCommand& command) {
  if (!command.file.ends_with(".toml")) {
    check_order_seed(command.emulator, command.emulator_options);
    return {.command = command, .file_directory = {}, .in_file = {}, .file = {}};
  }
  Launch launch;
  launch.file = reference::printable(command.file);
  launch.file_directory = std::filesystem::path(command.file).parent_path();
  const std::vector<LaunchKey> keys = parse_launch_file(read_file(command.file), launch.file);
  CLI::App app;
  define_launch(app, launch.command);
  std::vector<std::string> words = words_of(keys, *command.app, app, launch);
  if (launch.command.file.empty())
    throw FileError(fmt::format("{}: no ptx = \"FILE\" says which kernel to run", launch.file));
  std::reverse(words.begin(), words.end());  // as CLI11 wants them
  try {
    app.parse(words);
    check_order_seed(launch.command.emulator, launch.command.emulator_options);
  } catch (const CLI::ParseError& error) {
    throw FileError(fmt::format("{}: {}", launch.file, error.what()));
  } catch (const UsageError& error) {
    throw FileError(fmt::format("{}: {}", launch.file, error.what()));
  }
  launch.command.emulator_options.clear();  // they go with `app`
  return launch;
}

}  // namespace sagegen::cli
