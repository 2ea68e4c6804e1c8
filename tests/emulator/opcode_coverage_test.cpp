// Every instruction of the committed kernels is one that the emulator knows, and every kernel decodes for
// the device it is made for. Skipped (exit code 77) while generated/ has no PTX.
#include <algorithm>
#include <catch2/catch.hpp>
#include <cstdio>
#include <cstdlib>
#include <filesystem>
#include <fstream>
#include <map>
#include <set>
#include <sstream>
#include <string>

#include "runtime/emulator/device/profiles.h"
#include "runtime/emulator/exec/launch.h"
#include "runtime/emulator/ptx/module.h"

namespace sagegen::emulator {
namespace {

namespace fs = std::filesystem;

std::set<fs::path> generated_files() {
  std::set<fs::path> files;
  const fs::path root = fs::path(SAGEGEN_SOURCE_DIR) / "generated";
  if (!fs::is_directory(root)) return files;
  for (const auto& entry : fs::recursive_directory_iterator(root)) {
    if (entry.path().extension() == ".ptx") files.insert(entry.path());
  }
  return files;
}

ptx::Module parse_file(const fs::path& path) {
  std::ifstream file(path, std::ios::binary);
  std::stringstream text;
  text << file.rdbuf();
  return ptx::parse(text.str());
}

std::string spelled(const ptx::Instruction& instruction) {
  std::string out = instruction.opcode;
  for (const std::string& modifier : instruction.modifiers) out += "." + modifier;
  return out;
}

struct Use {
  int count = 0;
  std::string example;  // file:line
};

TEST_CASE("the emulator knows every instruction of generated/") {
  const std::set<fs::path> files = generated_files();
  if (files.empty()) {
    std::puts("skipped: generated/ has no PTX; run `sagegen generate`");
    std::exit(77);
  }
  std::map<std::string, Use> uses;
  std::map<std::string, std::string> unknown;
  int devices_decoded = 0;
  for (const fs::path& path : files) {
    INFO(path.string());
    const ptx::Module module = parse_file(path);
    CHECK_FALSE(module.functions.empty());
    for (const ptx::Function& function : module.functions) {
      for (const ptx::Instruction& instruction : function.body) {
        const std::string text = spelled(instruction);
        Use& use = uses[text];
        if (use.count++ > 0) continue;
        use.example = path.filename().string() + ":" + std::to_string(instruction.line);
        if (std::string why = why_unknown(instruction); !why.empty()) unknown[text] = why;
      }
    }
    for (int ordinal = 0; ordinal < device_count(); ++ordinal) {
      const DeviceDescription& device = device_description(ordinal);
      if (!why_not_loadable(module.target, device).empty()) continue;
      SymbolAddresses symbols;
      for (const ptx::Variable& variable : module.globals)
        symbols.emplace(variable.name, kGlobalBase);
      for (const ptx::Function& function : module.functions) {
        INFO(device.name);
        CHECK_NOTHROW(decode(module, function, device.arithmetic, symbols));
        ++devices_decoded;
      }
    }
  }
  std::printf("%zu distinct instructions in %zu files:\n", uses.size(), files.size());
  for (const auto& [text, use] : uses) {
    std::printf("%7d  %s  (%s)\n", use.count, text.c_str(), use.example.c_str());
  }
  for (const auto& [text, why] : unknown) {
    INFO(uses[text].example << ": " << why);
    CHECK(text.empty());
  }
  CHECK(uses.size() > 50);
  CHECK(devices_decoded > 0);
}

}  // namespace
}  // namespace sagegen::emulator
