// One launch of a foreign kernel in the emulator: from arguments as text to buffers on the device, and
// back.
#pragma once

#include <cstddef>
#include <filesystem>
#include <memory>
#include <string>
#include <vector>

#include "sagegen/runtime/device.h"
#include "sagegen/runtime/emulator.h"
#include "sagegen/runtime/ptx_entry.h"
#include "tools/sagegen/emu_arguments.h"

namespace sagegen::cli {

// "n (.u32)", "pair (a struct of 8 bytes)"; and all of an entry, one a line, with what fits each.
std::string spelled(const runtime::PtxParameter& parameter);
std::string parameters_text(const runtime::PtxEntry& entry);

// Throws UsageError unless the arguments fit the entry's parameters: number, sizes, kinds, names that are
// used once, references to buffers that are there.
void check_arguments(const runtime::PtxEntry& entry, const std::vector<ArgumentSpec>& arguments);

// The emulated device of a profile ("sm_89", "ideal"), or where it is empty the first that runs PTX for
// `ptx_target`. Throws UsageError that lists what there is.
struct EmuDevice {
  std::string name;  // "emulator:sm_89"
  std::shared_ptr<runtime::EmulatorDriver> emulator;
  runtime::Device device;
};
EmuDevice open_emulated(const std::string& profile, const std::string& ptx_target,
                        const runtime::EmulatorOptions& options);

// A buffer that an argument, or a field of one, passes.
struct EmuBuffer {
  std::string name;      // may be empty
  std::string position;  // "2", "0.1"
  ElementType type = ElementType::f32;
  std::vector<std::uint64_t> shape;
  ValueSpec value;
  std::vector<std::byte> before, after;  // contents; before: empty where it was left undefined
  runtime::Buffer buffer;

  const std::string& key() const { return name.empty() ? position : name; }
  bool is_scratch() const { return value.kind == ValueSpec::Kind::scratch; }
  bool is_changed() const { return before != after; }
};

// The arguments of one launch with their memory.
class EmuArguments {
 public:
  // Allocates and fills. Relative file names are looked for in `directory`. Throws FileError, UsageError,
  // DriverError.
  EmuArguments(const runtime::Device& device, const std::vector<ArgumentSpec>& arguments,
               const std::filesystem::path& directory);

  // One per parameter of the entry; they point into this object.
  std::vector<runtime::KernelArgument> list() const;
  std::vector<EmuBuffer>& buffers() { return buffers_; }
  const std::vector<EmuBuffer>& buffers() const { return buffers_; }
  // By name or position. UsageError that lists what there is; `about` begins it.
  EmuBuffer& find(const std::string& key, const std::string& about);
  // Copies what the buffers hold now, but scratch, into `after`.
  void download();

 private:
  void allocate(const ArgumentSpec& argument, const std::string& position,
                const runtime::Device& device, const std::filesystem::path& directory);
  void append(const ArgumentSpec& argument, std::size_t& next_buffer, std::vector<std::byte>& out);

  std::vector<EmuBuffer> buffers_;
  std::vector<std::vector<std::byte>> values_;
};

}  // namespace sagegen::cli
