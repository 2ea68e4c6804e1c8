#include "runtime/emulator/device/loaded_module.h"

#include <fmt/format.h>

#include <new>

namespace sagegen::emulator {

using runtime::Result;

namespace {

// What the assembler refuses whatever the launch.
void check_sizes(const ptx::Function& function, const ProgramInfo& program) {
  const auto at_most = [&](std::size_t bytes, std::size_t limit, const char* what) {
    if (bytes <= limit) return;
    throw ptx::ParseError(function.line,
                          fmt::format("'{}' has {} bytes of {}; at most {} are possible",
                                      function.name, bytes, what, limit));
  };
  at_most(program.param_bytes, kMaxParameterBytes, "parameters");
  at_most(program.static_shared_bytes, kDefaultSharedPerBlock, "static shared memory");
  at_most(program.local_bytes, kMaxLocalBytes, "local memory per thread");
}

}  // namespace

LoadedModule::~LoadedModule() {
  for (const Address variable : variables_) memory_->release(variable);
}

bool LoadedModule::allocate_variables(const ptx::Module& module, SymbolAddresses& addresses) {
  for (const ptx::Variable& variable : module.globals) {
    if (variable.is_extern) {
      throw ptx::ParseError(variable.line,
                            fmt::format("'{}' is extern, but there is nothing to link "
                                        "it with",
                                        variable.name));
    }
    const Address address = memory_->allocate(variable.bytes);
    if (address == 0) return false;
    variables_.push_back(address);
    memory_->fill(address, 0, variable.bytes);
    const std::vector<std::uint8_t> initial = initial_bytes(variable, addresses);
    memory_->write(address, initial.data(), initial.size());
    addresses.emplace(variable.name, address);
  }
  return true;
}

std::shared_ptr<LoadedModule> LoadedModule::load(std::string_view text,
                                                 const DeviceDescription& device,
                                                 std::shared_ptr<DeviceMemory> memory,
                                                 std::string& log, Result& result) {
  std::shared_ptr<LoadedModule> loaded(new LoadedModule(std::move(memory)));
  try {
    const ptx::Module module = ptx::parse(text);
    if (module.version > kNewestPtx) {
      log +=
          fmt::format("PTX version {}.{} is newer than {}.{}, the newest that this driver takes\n",
                      module.version / 10, module.version % 10, kNewestPtx / 10, kNewestPtx % 10);
      result = Result::unsupported_ptx_version;
      return nullptr;
    }
    if (const std::string why = why_not_loadable(module.target, device); !why.empty()) {
      log += why + "\n";
      result = Result::invalid_ptx;
      return nullptr;
    }
    SymbolAddresses addresses;
    std::uint64_t bytes = 0;
    for (const ptx::Variable& variable : module.globals) bytes += variable.bytes;
    // Asked beforehand, so that a hostile text does not fill gigabytes before it is refused.
    if (bytes > loaded->memory_->capacity_bytes() ||
        !loaded->allocate_variables(module, addresses)) {
      log += fmt::format(
          "the module has variables of {} bytes; the device has {}, of which {} are used\n", bytes,
          loaded->memory_->capacity_bytes(), loaded->memory_->used_bytes());
      result = Result::out_of_memory;
      return nullptr;
    }
    for (const ptx::Function& function : module.functions) {
      auto decoded = decode(module, function, device.arithmetic, addresses);
      const ProgramInfo& program = info(*decoded);
      loaded->functions_.emplace(function.name, decoded);
      check_sizes(function, program);
      for (const std::string& warning : program.warnings) {
        log += fmt::format("{}: {}\n", program.name, warning);
      }
    }
  } catch (const ptx::ParseError& error) {
    log += fmt::format("{}\n", error.what());
    result = Result::invalid_ptx;
    return nullptr;
  } catch (const std::bad_alloc&) {
    log += "not enough host memory to decode the module\n";
    result = Result::out_of_memory;
    return nullptr;
  }
  result = Result::success;
  return loaded;
}

std::shared_ptr<const Program> LoadedModule::function(std::string_view name) const {
  const auto found = functions_.find(name);
  return found == functions_.end() ? nullptr : found->second;
}

}  // namespace sagegen::emulator
