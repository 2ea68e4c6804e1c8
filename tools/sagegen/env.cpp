#include <cstdlib>

#include <filesystem>

#include <fmt/format.h>

#include "sagegen/runtime/driver_api.h"
#include "tools/sagegen/app.h"
#include "tools/sagegen/environment.h"
#include "tools/sagegen/generator.h"

namespace sagegen::cli {
namespace {

struct EnvOptions {};

using Variable = EnvironmentVariable;
constexpr Variable kVariables[] = {
    {"CUDA_VISIBLE_DEVICES", "which GPUs the CUDA driver shows, and in which order"},
    {"CUDA_CACHE_DISABLE", "1: the CUDA driver compiles PTX anew at every start"},
    {"CUDA_FORCE_PTX_JIT", "1: the CUDA driver takes no machine code, and sagegen keeps none"},
    {"LD_LIBRARY_PATH", "where libcuda.so.1 is looked for first"},
    {"SAGEGEN_CACHE_DIR", "folder of what `sagegen tune` found, in place of sagegen in the user's cache"},
    {"SAGEGEN_CODE_CACHE", "off, or the folder of machine code, in place of code in the folder above"},
    {"SAGEGEN_CODE_CACHE_BYTES", "how large it may become (default: 536870912)"},
    {"SAGEGEN_EMULATOR_LANES", "baseline, avx2 or avx512: the vectors that the emulator runs on"},
    {"SAGEGEN_TUNING", "off, cached, tune or \"pinned FILE\": which schedules applications run (default: cached)"},
    {"SAGEGEN_PTXAS", "the ptxas that `inspect --model` assembles with"},
};

std::string driver_version() {
  std::string why;
  const auto cuda = runtime::load_cuda(&why);
  if (!cuda) return "none: " + why;
  int version = 0;
  if (cuda->driver_version(&version) != runtime::Result::success) return "unknown";
  return fmt::format("CUDA {}.{}", version / 1000, version % 1000 / 10);
}

Exit print_env(const EnvOptions&, Output& output) {
  std::error_code ignored;
  const bool generator = generator_state() == GeneratorState::built_in;
  const std::vector<std::pair<std::string, std::string>> facts = {
      {"sagegen", tool_version()},
      {"generator",
       generator ? "LLVM " + generator_llvm_version() : "not built in; PTX is the embedded set"},
      {"executable", std::filesystem::read_symlink("/proc/self/exe", ignored).string()},
      {"driver", driver_version()},
  };
  Table variables({"variable", "value", "meaning"});
  Json variable_list = Json::object();
  for (const Variable& variable : kVariables) {
    const char* value = std::getenv(variable.name);
    variables.add({variable.name, value ? value : "(not set)", variable.meaning});
    variable_list[variable.name] = value ? Json(value) : Json(nullptr);
  }
  Table table({"what", "value"});
  Json fields = Json::object();
  for (const auto& [name, value] : facts) {
    table.add({name, value});
    fields[name] = value;
  }
  fields["variables"] = variable_list;
  output.text(table.text() + "\n" + variables.text());
  output.json(fields);
  return Exit::ok;
}

}  // namespace

std::vector<EnvironmentVariable> environment_variables() {
  return {std::begin(kVariables), std::end(kVariables)};
}

void add_env(App& app) {
  app.add<EnvOptions>(
      "env", "show versions, paths and environment variables",
      "  sagegen env\n  sagegen env --json", [](CLI::App&, EnvOptions&) {}, print_env);
}

}  // namespace sagegen::cli
