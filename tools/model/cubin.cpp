#include "tools/model/cubin.h"

#include <algorithm>
#include <cstdint>
#include <cstring>
#include <stdexcept>

namespace sagegen::model {

namespace {

template <typename Value>
Value at(const std::string& bytes, std::size_t offset) {
  Value value{};
  if (offset > bytes.size() || bytes.size() - offset < sizeof value) {
    throw std::runtime_error("the cubin ends early");
  }
  std::memcpy(&value, bytes.data() + offset, sizeof value);
  return value;
}

int architecture_of(const std::string& cubin) {
  constexpr std::size_t kAbiVersion = 8, kFlags = 0x30;
  const auto flags = at<std::uint32_t>(cubin, kFlags);
  return static_cast<int>((at<std::uint8_t>(cubin, kAbiVersion) >= 8 ? flags >> 8 : flags) & 0xff);
}

struct Section {
  std::string name;
  std::uint64_t offset, bytes;
};

std::vector<Section> sections_of(const std::string& cubin) {
  constexpr std::uint16_t kMachineCuda = 190;
  if (cubin.substr(0, 4) !=
          "\x7f"
          "ELF" ||
      at<std::uint16_t>(cubin, 0x12) != kMachineCuda) {
    throw std::runtime_error("not a cubin");
  }
  const auto headers = at<std::uint64_t>(cubin, 0x28);
  const auto size = at<std::uint16_t>(cubin, 0x3a), count = at<std::uint16_t>(cubin, 0x3c),
             names = at<std::uint16_t>(cubin, 0x3e);
  const auto name_table = at<std::uint64_t>(cubin, headers + names * size + 24u);
  std::vector<Section> sections;
  for (std::size_t i = 0; i < count; ++i) {
    const std::size_t header = headers + i * size;
    const std::size_t name = name_table + at<std::uint32_t>(cubin, header);
    if (name >= cubin.size()) throw std::runtime_error("the cubin ends early");
    sections.push_back({.name = cubin.substr(name, cubin.find('\0', name) - name),
                        .offset = at<std::uint64_t>(cubin, header + 24),
                        .bytes = at<std::uint64_t>(cubin, header + 32)});
  }
  return sections;
}

const Section* find(const std::vector<Section>& sections, const std::string& name) {
  for (const Section& section : sections) {
    if (section.name == name) return &section;
  }
  return nullptr;
}

// .nv.info is a list of attributes: a byte of form, a byte of name, two bytes that are the value or, in the long
// form, the bytes of the value that follows. That of registers holds a symbol and a number; other functions than
// the kernel have entries of their own, so the largest one counts.
int registers_of(const std::string& cubin, const Section& info) {
  constexpr int kLongForm = 4, kRegisters = 0x2f;
  int registers = 0;
  for (std::uint64_t i = 0; i + 4 <= info.bytes;) {
    const std::size_t attribute = info.offset + i;
    i += 4;
    if (at<std::uint8_t>(cubin, attribute) != kLongForm) continue;
    if (at<std::uint8_t>(cubin, attribute + 1) == kRegisters) {
      registers = std::max(registers, static_cast<int>(at<std::uint32_t>(cubin, attribute + 8)));
    }
    i += at<std::uint16_t>(cubin, attribute + 2);
  }
  return registers;
}

}  // namespace

Code read_cubin(const std::string& cubin) {
  const std::vector<Section> sections = sections_of(cubin);
  const std::string prefix = ".text.";
  const Section* text = nullptr;
  int kernels = 0;
  for (const Section& section : sections) {
    if (!section.name.starts_with(prefix)) continue;
    text = &section;
    ++kernels;
  }
  if (kernels != 1) {
    throw std::runtime_error("the cubin has " + std::to_string(kernels) + " kernels; one is read");
  }
  Code code{.architecture = architecture_of(cubin)};
  for (std::uint64_t i = 0; i < text->bytes; i += sizeof(Instruction)) {
    code.instructions.push_back(at<Instruction>(cubin, text->offset + i));
  }
  if (const Section* info = find(sections, ".nv.info")) code.registers = registers_of(cubin, *info);
  if (const Section* shared = find(sections, ".nv.shared." + text->name.substr(prefix.size()))) {
    constexpr int kFirstWithSystemPart = 90, kSystemPart = 1024;
    code.static_shared = static_cast<int>(shared->bytes);
    if (code.architecture >= kFirstWithSystemPart && code.static_shared >= kSystemPart)
      code.static_shared -= kSystemPart;
  }
  return code;
}

}  // namespace sagegen::model
