// The whole emulator on any PTX text: module load and a small launch of every entry. Whatever the text
// says, the driver answers with a result; it neither crashes nor runs for long.
#include <cstdlib>
#include <string>
#include <vector>

#include "runtime/emulator/ptx/module.h"
#include "sagegen/runtime/emulator.h"

namespace {

using namespace sagegen::runtime;

void require(bool condition) {
  if (!condition) std::abort();
}

std::vector<std::string> entries(const std::string& text) {
  std::vector<std::string> names;
  for (const auto& function : sagegen::emulator::ptx::parse(text).functions) {
    // Parameters are passed as addresses of one allocation; what a kernel reads from them is its business.
    if (function.params.size() <= 8) names.push_back(function.name);
  }
  return names;
}

}  // namespace

extern "C" int LLVMFuzzerTestOneInput(const std::uint8_t* data, std::size_t size) {
  const std::string text(reinterpret_cast<const char*>(data), size);
  if (text.find('\0') != std::string::npos) return 0;  // module_load takes C strings
  EmulatorOptions options;
  options.threads = 1;
  options.instruction_limit = 20'000;
  options.checks = size % 2 == 0 ? Checks::on : Checks::off;
  const auto driver = make_emulator(options);
  ContextHandle context = nullptr;
  require(driver->init() == Result::success);
  require(driver->primary_context_retain(&context, static_cast<int>(EmulatorProfile::ideal)) ==
          Result::success);
  require(driver->set_current(context) == Result::success);
  ModuleHandle module = nullptr;
  std::string log;
  const Result loaded = driver->module_load(&module, text.c_str(), &log);
  if (loaded != Result::success) {
    require(!log.empty());
    return 0;
  }
  DevicePtr buffer = 0;
  require(driver->mem_alloc(&buffer, 4096) == Result::success);
  std::vector<DevicePtr> block(1 << 12, buffer);  // longer than any parameter list may be
  std::vector<void*> params(8, block.data());
  for (const std::string& name : entries(text)) {
    FunctionHandle function = nullptr;
    require(driver->module_function(&function, module, name.c_str()) == Result::success);
    driver->launch(function, {.x = 2, .y = 1, .z = 1}, {.x = 64, .y = 1, .z = 1}, 1024, nullptr,
                   params.data());
  }
  require(driver->module_unload(module) == Result::success);
  return 0;
}
