// The options of `sagegen emu`, from the command line and from a launch in TOML, which has the same ones.
#pragma once

#include <filesystem>
#include <string>
#include <vector>

#include <CLI/CLI.hpp>

#include "sagegen/runtime/emulator.h"
#include "tools/sagegen/emu_values.h"

namespace sagegen::cli {

struct EmuCommand {
  std::string file, entry, target, grid = "1", block;
  int shared = 0;
  std::vector<std::string> arg, out, expect;
  Tolerance tolerance;
  int show = 6;
  runtime::EmulatorOptions emulator;
  std::vector<const CLI::Option*> emulator_options;
  const CLI::App* app = nullptr;
};

void define_emu(CLI::App& app, EmuCommand& command);

// A launch as it is to be run, with where its words come from.
struct Launch {
  EmuCommand command;
  std::filesystem::path file_directory;  // of the TOML file
  std::vector<std::string> in_file;      // options that it gives
  std::string file;                      // as shown; empty without one

  bool is_from_file(const std::string& option) const;
  // What relative file names in an option count from.
  std::filesystem::path directory(const std::string& option) const {
    return is_from_file(option) ? file_directory : std::filesystem::path();
  }
  // How errors name an option: "--arg", "launch.toml: arg".
  std::string origin(const std::string& option) const {
    return is_from_file(option) ? file + ": " + option : "--" + option;
  }
};

// Reads the TOML file, if one is given; what the command line says goes before it. Throws FileError,
// UsageError.
Launch complete(const EmuCommand& command);

}  // namespace sagegen::cli
