#include "tools/sagegen/emu_launch.h"

#include <algorithm>
#include <charconv>
#include <cstring>
#include <set>

#include <fmt/format.h>
#include <fmt/ranges.h>

#include "generator/vocabulary/suggestion.h"
#include "tools/reference/printable.h"
#include "tools/sagegen/emu_values.h"
#include "tools/sagegen/errors.h"

namespace sagegen::cli {
namespace {

using runtime::PtxEntry;
using runtime::PtxParameter;

constexpr std::uint64_t kMostBytes = std::uint64_t{1} << 32;  // of one buffer

struct Layout {
  std::size_t bytes = 0, alignment = 1;
};

// As C lays structs out.
Layout layout_of(const ArgumentSpec& argument) {
  switch (argument.kind) {
    case ArgumentSpec::Kind::scalar:
      return {.bytes = info(argument.type).bytes, .alignment = info(argument.type).bytes};
    case ArgumentSpec::Kind::buffer:
    case ArgumentSpec::Kind::reference:
      return {.bytes = sizeof(runtime::DevicePtr), .alignment = sizeof(runtime::DevicePtr)};
    case ArgumentSpec::Kind::structure:
      break;
  }
  Layout whole;
  for (const ArgumentSpec& field : argument.fields) {
    const Layout one = layout_of(field);
    whole.bytes = (whole.bytes + one.alignment - 1) / one.alignment * one.alignment + one.bytes;
    whole.alignment = std::max(whole.alignment, one.alignment);
  }
  whole.bytes = (whole.bytes + whole.alignment - 1) / whole.alignment * whole.alignment;
  return whole;
}

// What could be given for a parameter.
std::string fitting(const PtxParameter& p) {
  if (p.is_array)
    return fmt::format("a struct of {} bytes, such as {{f32[1024]=iota,i32=5}}", p.bytes);
  if (p.type.starts_with('f')) return fmt::format("{}=0.5", p.type);
  const std::string integer = fmt::format("{}{}=5", p.type[0] == 's' ? 'i' : 'u', 8 * p.bytes);
  if (p.bytes == sizeof(runtime::DevicePtr))
    return fmt::format("a buffer, such as f32[1024]=iota, or {}", integer);
  return p.type.starts_with('b') && p.bytes > 1 ? fmt::format("{} or f{}=0.5", integer, 8 * p.bytes)
                                                : integer;
}

void check_one(const PtxParameter& p, const ArgumentSpec& argument, std::size_t position) {
  const auto refuse = [&](const std::string& why) {
    return UsageError(fmt::format("argument {}, \"{}\", does not fit parameter {}: {}; give {}",
                                  position, reference::printable(spelled(argument)), spelled(p),
                                  why, fitting(p)));
  };
  const Layout layout = layout_of(argument);
  if (layout.bytes != p.bytes)
    throw refuse(fmt::format("it has {} bytes instead of {}", layout.bytes, p.bytes));
  if (p.is_array || p.type.starts_with('b')) return;
  const bool takes_float = p.type.starts_with('f');
  if (argument.kind != ArgumentSpec::Kind::scalar) {
    const bool is_address = argument.kind != ArgumentSpec::Kind::structure;
    if (takes_float || !is_address)
      throw refuse(is_address ? "it is an address" : "it is a struct");
    return;
  }
  const ElementInfo& element = info(argument.type);
  const bool is_code = element.bytes == 1;  // e4m3 and e5m2 travel in bytes
  if (element.is_float && !takes_float && !is_code) throw refuse("it is a floating-point number");
  if (!element.is_float && takes_float) throw refuse("it is an integer");
}

// Names are used once; what is referred to is a buffer.
class Names {
 public:
  void add(const ArgumentSpec& argument, const std::string& position) {
    if (!argument.name.empty() && !names_.insert(argument.name).second)
      throw UsageError(fmt::format("two arguments are named {}; rename one", argument.name));
    if (argument.kind == ArgumentSpec::Kind::buffer) {
      keys_.push_back(argument.name.empty() ? position : argument.name);
      buffers_.insert(position);
      if (!argument.name.empty()) buffers_.insert(argument.name);
    }
    for (std::size_t i = 0; i < argument.fields.size(); ++i)
      add(argument.fields[i], fmt::format("{}.{}", position, i));
  }

  void check(const ArgumentSpec& argument) const {
    if (argument.kind == ArgumentSpec::Kind::reference && buffers_.count(argument.target) == 0) {
      throw UsageError(fmt::format(
          "\"{}\": no buffer is called {}; there is {}", reference::printable(spelled(argument)),
          reference::printable(argument.target),
          keys_.empty() ? "none" : fmt::format("{}", fmt::join(keys_, ", "))));
    }
    for (const ArgumentSpec& field : argument.fields) check(field);
  }

 private:
  std::set<std::string> names_, buffers_;
  std::vector<std::string> keys_;
};

// Whether PTX for `target` ("sm_90a") runs on a device; what is no target is for the loading to refuse.
bool runs(const std::string& target, int capability) {
  int number = 0;
  if (!target.starts_with("sm_")) return true;
  const char* const end = target.data() + target.size();
  const auto [rest, error] = std::from_chars(target.data() + 3, end, number);
  if (error != std::errc()) return true;
  const std::string_view suffix(rest, static_cast<std::size_t>(end - rest));
  if (suffix == "a") return number == capability;
  if (suffix == "f") return number / 10 == capability / 10 && number <= capability;
  return number <= capability;
}

}  // namespace

std::string spelled(const PtxParameter& parameter) {
  if (parameter.is_array)
    return fmt::format("{} (a struct of {} bytes)", parameter.name, parameter.bytes);
  return fmt::format("{} (.{})", parameter.name, parameter.type);
}

std::string parameters_text(const PtxEntry& entry) {
  std::string text;
  for (std::size_t i = 0; i < entry.parameters.size(); ++i) {
    text +=
        fmt::format("\n{}: {}: {}", i, spelled(entry.parameters[i]), fitting(entry.parameters[i]));
  }
  return text;
}

void check_arguments(const PtxEntry& entry, const std::vector<ArgumentSpec>& arguments) {
  for (const PtxParameter& p : entry.parameters) {
    if (p.bytes != 0) continue;
    throw UsageError(
        fmt::format("{}: the size of its parameter {} is not understood; the emulator "
                    "runs entries that take numbers, addresses and structs",
                    entry.name, p.name));
  }
  if (arguments.size() != entry.parameters.size()) {
    throw UsageError(
        fmt::format("{} takes {} arguments, and {} are given; give one --arg for each "
                    "in this order:{}",
                    entry.name, entry.parameters.size(), arguments.size(), parameters_text(entry)));
  }
  Names names;
  for (std::size_t i = 0; i < arguments.size(); ++i) {
    check_one(entry.parameters[i], arguments[i], i);
    names.add(arguments[i], std::to_string(i));
  }
  for (const ArgumentSpec& argument : arguments) names.check(argument);
}

EmuDevice open_emulated(const std::string& profile, const std::string& ptx_target,
                        const runtime::EmulatorOptions& options) {
  const std::shared_ptr<runtime::EmulatorDriver> emulator = runtime::make_emulator(options);
  runtime::check(*emulator, emulator->init(), "cuInit");
  int count = 0;
  runtime::check(*emulator, emulator->device_count(&count), "cuDeviceGetCount");
  std::vector<std::string> names;
  for (int i = 0; i < count; ++i) {
    names.push_back(to_string(static_cast<runtime::EmulatorProfile>(i)));
    const bool is_chosen = names.back() == profile;
    if (!profile.empty() && !is_chosen) continue;
    runtime::Device device(emulator, i);
    if (is_chosen || runs(ptx_target, device.compute_capability()))
      return {.name = "emulator:" + names.back(), .emulator = emulator, .device = device};
  }
  throw UsageError(fmt::format("{}; the emulator has {}",
                               profile.empty() ? fmt::format("no emulated device runs PTX for {}",
                                                             reference::printable(ptx_target))
                                               : fmt::format("--target {} is refused",
                                                             reference::printable(profile)),
                               fmt::join(names, ", ")) +
                   suggestion(profile, names));
}

EmuArguments::EmuArguments(const runtime::Device& device,
                           const std::vector<ArgumentSpec>& arguments,
                           const std::filesystem::path& directory) {
  for (std::size_t i = 0; i < arguments.size(); ++i)
    allocate(arguments[i], std::to_string(i), device, directory);
  std::size_t next_buffer = 0;
  for (const ArgumentSpec& argument : arguments) {
    values_.emplace_back();
    append(argument, next_buffer, values_.back());
  }
}

void EmuArguments::allocate(const ArgumentSpec& argument, const std::string& position,
                            const runtime::Device& device, const std::filesystem::path& directory) {
  for (std::size_t i = 0; i < argument.fields.size(); ++i)
    allocate(argument.fields[i], fmt::format("{}.{}", position, i), device, directory);
  if (argument.kind != ArgumentSpec::Kind::buffer) return;
  EmuBuffer made;
  made.name = argument.name;
  made.position = position;
  made.type = argument.type;
  made.value = argument.value;
  const std::string about = fmt::format("\"{}\"", reference::printable(spelled(argument)));
  const std::uint64_t seed = buffers_.size() + 1;  // of its own, where none is given
  Source source = open_source(argument.value, argument.type,
                              argument.shape ? &*argument.shape : nullptr, seed, directory, about);
  made.shape = source.shape;
  const std::uint64_t bytes = element_count(made.shape) * info(made.type).bytes;
  if (bytes > kMostBytes) {
    throw UsageError(
        fmt::format("{}: {} bytes; a buffer has at most {}", about, bytes, kMostBytes));
  }
  made.buffer = runtime::Buffer(device, bytes);
  const bool is_undefined = made.is_scratch() || made.value.kind == ValueSpec::Kind::output;
  if (!is_undefined) {
    made.before = fill(source, made.type, about);
    made.buffer.upload(made.before);
  }
  buffers_.push_back(std::move(made));
}

// Buffers come in the order in which allocate() made them.
void EmuArguments::append(const ArgumentSpec& argument, std::size_t& next_buffer,
                          std::vector<std::byte>& out) {
  const Layout layout = layout_of(argument);
  out.resize((out.size() + layout.alignment - 1) / layout.alignment * layout.alignment);
  const std::size_t begin = out.size();
  if (argument.kind == ArgumentSpec::Kind::structure) {
    // A struct of its own, so that its fields' places count from its start.
    std::vector<std::byte> inner;
    for (const ArgumentSpec& field : argument.fields) append(field, next_buffer, inner);
    inner.resize(layout.bytes);
    out.insert(out.end(), inner.begin(), inner.end());
    return;
  }
  out.resize(begin + layout.bytes);
  if (argument.kind == ArgumentSpec::Kind::scalar) {
    const Number number = *parse_number(argument.value.number);
    if (encode(argument.type, number, out.data() + begin)) return;
    throw UsageError(fmt::format("\"{}\": {} cannot hold {}; take another type or number",
                                 reference::printable(spelled(argument)), info(argument.type).name,
                                 argument.value.number));
  }
  runtime::DevicePtr address = 0;
  if (argument.kind == ArgumentSpec::Kind::buffer) {
    address = buffers_[next_buffer++].buffer.data();
  } else {
    address = find(argument.target, "a reference").buffer.data() + argument.offset;
  }
  std::memcpy(out.data() + begin, &address, sizeof address);
}

std::vector<runtime::KernelArgument> EmuArguments::list() const {
  std::vector<runtime::KernelArgument> result;
  for (const std::vector<std::byte>& value : values_)
    result.push_back({.data = value.data(), .bytes = value.size()});
  return result;
}

EmuBuffer& EmuArguments::find(const std::string& key, const std::string& about) {
  std::vector<std::string> keys;
  for (EmuBuffer& one : buffers_) {
    if (one.name == key || one.position == key) return one;
    keys.push_back(one.key());
  }
  throw UsageError(fmt::format("{}: no buffer is called {}; there is {}", about,
                               key.empty() ? "\"\"" : reference::printable(key),
                               keys.empty() ? "none" : fmt::format("{}", fmt::join(keys, ", "))));
}

void EmuArguments::download() {
  for (EmuBuffer& one : buffers_) {
    if (one.is_scratch()) continue;
    one.after.resize(one.buffer.bytes());
    one.buffer.download(one.after);
  }
}

}  // namespace sagegen::cli
