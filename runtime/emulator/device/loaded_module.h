// PTX text on an emulated device: checked against the device, decoded, its variables allocated.
#pragma once

#include <functional>
#include <map>
#include <memory>
#include <string>
#include <string_view>
#include <vector>

#include "runtime/emulator/device/profiles.h"
#include "runtime/emulator/exec/launch.h"
#include "runtime/emulator/exec/memory.h"
#include "sagegen/runtime/driver_api.h"

namespace sagegen::emulator {

class LoadedModule {
 public:
  // Null and a result other than success if the text does not load: invalid_ptx (syntax, an instruction
  // or target that the device does not have), unsupported_ptx_version, out_of_memory. `log` receives the
  // reasons, and on success what the PTX leaves to the assembler.
  static std::shared_ptr<LoadedModule> load(std::string_view ptx, const DeviceDescription& device,
                                            std::shared_ptr<DeviceMemory> memory, std::string& log,
                                            runtime::Result& result);
  ~LoadedModule();  // frees the variables
  LoadedModule(const LoadedModule&) = delete;
  LoadedModule& operator=(const LoadedModule&) = delete;

  // Null if the module has no such entry.
  std::shared_ptr<const Program> function(std::string_view name) const;

 private:
  explicit LoadedModule(std::shared_ptr<DeviceMemory> memory) : memory_(std::move(memory)) {}
  bool allocate_variables(const ptx::Module& module, SymbolAddresses& addresses);

  std::shared_ptr<DeviceMemory> memory_;
  std::vector<Address> variables_;
  std::map<std::string, std::shared_ptr<const Program>, std::less<>> functions_;
};

}  // namespace sagegen::emulator
