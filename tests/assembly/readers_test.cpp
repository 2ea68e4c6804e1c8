// What is read of ptxas: its report, and the loops of machine code. Neither needs ptxas.
#include <unistd.h>

#include <catch2/catch.hpp>
#include <cstring>
#include <filesystem>
#include <fstream>

#include "tests/assembly/machine_code.h"
#include "tools/model/loops.h"
#include "tools/model/ptxas.h"

namespace sagegen::model {
namespace {

using Indices = std::vector<std::size_t>;
using namespace sagegen::test;

TEST_CASE("a report of ptxas is clean only without spills and remarks") {
  const std::string clean =
      "ptxas info    : 0 bytes gmem\n"
      "    0 bytes stack frame, 0 bytes spill stores, 0 bytes spill loads\n"
      "ptxas info    : Used 168 registers, used 1 barriers\n";
  CHECK(complaint(clean).empty());
  CHECK(registers(clean) == 168);
  CHECK(spilled_bytes(clean) == 0);
  const auto with = [&](const std::string& from, const std::string& to) {
    std::string report = clean;
    report.replace(report.find(from), from.size(), to);
    return report;
  };
  for (const std::string& bad :
       {with("0 bytes spill stores", "10 bytes spill stores"),
        with("0 bytes spill loads", "4 bytes spill loads"), with("0 bytes stack", "40 bytes stack"),
        with("Used 168 registers", ""),
        clean + "ptxas info    : (C7517) Potential Performance Loss",
        clean + "ptxas warning : something", std::string("ptxas fatal   : aborted")}) {
    CHECK(complaint(bad) == bad);
  }
  CHECK_FALSE(complaint("").empty());
  const std::string spill = with("0 bytes spill stores", "10 bytes spill stores");
  CHECK(spilled_bytes(spill) == 10);
  CHECK_FALSE(has_remark(spill));
  CHECK(has_remark(clean + "ptxas info    : (C7517) Potential Performance Loss"));
}

TEST_CASE("ptxas is looked for on PATH, in the toolkit, and where the script puts it") {
  CHECK(ptxas_folders("/a::/b c", "/x/build/bin/sagegen") ==
        std::vector<std::string>{"/a", "/b c", "/usr/local/cuda/bin", "/x/build/tools/ptxas"});
  CHECK(ptxas_folders("", "") == std::vector<std::string>{"/usr/local/cuda/bin"});

  namespace fs = std::filesystem;
  const fs::path root = fs::temp_directory_path() / ("ptxas_test_" + std::to_string(getpid()));
  const auto file_in = [&](const std::string& folder, fs::perms permissions) {
    fs::create_directories(root / folder);
    std::ofstream(root / folder / "ptxas") << "#!/bin/sh\n";
    fs::permissions(root / folder / "ptxas", permissions);
  };
  file_in("a text", fs::perms::owner_read);
  file_in("program", fs::perms::owner_all);
  fs::create_directories(root / "folder" / "ptxas");
  const auto in = [&](const std::string& folder) { return (root / folder).string(); };
  CHECK(first_ptxas({in("absent"), in("folder"), in("a text"), in("program")}) ==
        in("program") + "/ptxas");
  CHECK(first_ptxas({in("absent"), in("folder")}).empty());
  fs::remove_all(root);
}

// ---- loops --------------------------------------------------------------------------------

TEST_CASE("a loop is what leads back to its head, and nothing else") {
  const Instruction add = plain(0x021), exit = plain(operation::kExit);
  // 0, the loop 1-3, 4, exit, and the endless branch that pads the code after it.
  const Code code =
      code_of({add, add, plain(operation::kImma), branch(-3, kIf), add, exit, branch(-1, kAlways)});
  const std::vector<Loop> loops = find_loops(code);
  REQUIRE(loops.size() == 1);
  CHECK(loops[0].body == Indices{1, 2, 3});
  CHECK(loops[0].every == loops[0].body);
  CHECK(count(code, loops[0].body, operation::kImma) == 1);
}

TEST_CASE("what a branch skips belongs to the loop, but not to every iteration") {
  const Instruction add = plain(0x021);
  const Code code =
      code_of({add, branch(2, kIf), add, add, branch(-5, kIf), plain(operation::kExit)});
  const std::vector<Loop> loops = find_loops(code);
  REQUIRE(loops.size() == 1);
  CHECK(loops[0].body == Indices{0, 1, 2, 3, 4});
  CHECK(loops[0].every == Indices{0, 1, 4});
}

TEST_CASE("a branch with a second predicate may fall through") {
  Instruction skip = branch(1, kAlways);
  skip.high = 0;  // P0
  const Code code = code_of({skip, plain(0x021), branch(-3, kAlways)});
  const std::vector<Loop> loops = find_loops(code);
  REQUIRE(loops.size() == 1);
  CHECK(loops[0].body == Indices{0, 1, 2});
  CHECK(loops[0].every == Indices{0, 2});
}

TEST_CASE("an inner loop is a loop of its own and counts once in the outer one") {
  const Instruction add = plain(0x021);
  const Code code =
      code_of({add, add, branch(-2, kIf), add, branch(-5, kIf), plain(operation::kExit)});
  const std::vector<Loop> loops = find_loops(code);
  REQUIRE(loops.size() == 2);
  CHECK(loops[0].every == Indices{0, 1, 2, 3, 4});
  CHECK(loops[1].body == Indices{1, 2});
}

TEST_CASE("a way into the middle makes no loop, nor does code that is never reached") {
  const Instruction add = plain(0x021), exit = plain(operation::kExit);
  CHECK(find_loops(code_of({branch(1, kIf), add, add, branch(-3, kIf), exit})).empty());
  CHECK(find_loops(code_of({exit, add, branch(-2, kIf)})).empty());
  CHECK(find_loops(code_of({})).empty());
}

TEST_CASE("an instruction under a guard that is never true does not execute") {
  CHECK(Instruction{.low = kNever | 0x021u, .high = 0}.is_never_executed());
  CHECK_FALSE(plain(0x021).is_never_executed());
  CHECK_FALSE(Instruction{.low = kIf | 0x021u, .high = 0}.is_always_executed());
}

// ---- cubins -------------------------------------------------------------------------------

template <typename Value>
void put(std::string& bytes, std::size_t offset, Value value) {
  if (bytes.size() < offset + sizeof value) bytes.resize(offset + sizeof value);
  std::memcpy(bytes.data() + offset, &value, sizeof value);
}

// An ELF file for sm_`architecture` with sections of these names and contents.
std::string elf(int architecture,
                const std::vector<std::pair<std::string, std::string>>& sections) {
  constexpr std::size_t kHeader = 64;
  std::string bytes =
                  "\x7f"
                  "ELF",
              names, headers;
  put<std::uint8_t>(bytes, 8, 8);
  put<std::uint16_t>(bytes, 0x12, 190);
  put<std::uint32_t>(bytes, 0x30, static_cast<std::uint32_t>(architecture) << 8);
  bytes.resize(kHeader);
  const auto add = [&](const std::string& name, const std::string& content) {
    const std::size_t header = headers.size();
    put(headers, header, static_cast<std::uint32_t>(names.size()));
    put(headers, header + 24, std::uint64_t{bytes.size()});
    put(headers, header + 32, std::uint64_t{content.size()});
    headers.resize(header + kHeader);
    names += name + '\0';
    bytes += content;
  };
  for (const auto& [name, content] : sections) add(name, content);
  add(".shstrtab", "");
  put(headers, headers.size() - kHeader + 24, std::uint64_t{bytes.size()});
  bytes += names;
  put(bytes, 0x28, std::uint64_t{bytes.size()});
  put(bytes, 0x3a, static_cast<std::uint16_t>(kHeader));
  put(bytes, 0x3c, static_cast<std::uint16_t>(sections.size() + 1));
  put(bytes, 0x3e, static_cast<std::uint16_t>(sections.size()));
  return bytes + headers;
}

std::string bytes_of(const Instruction& instruction) {
  std::string bytes;
  put(bytes, 0, instruction.low);
  put(bytes, 8, instruction.high);
  return bytes;
}

// An attribute of .nv.info with a symbol and a number: 0x2f is the count of registers.
std::string attribute(std::uint8_t name, std::uint32_t number) {
  std::string bytes;
  put<std::uint8_t>(bytes, 0, 4);
  put(bytes, 1, name);
  put<std::uint16_t>(bytes, 2, 8);
  put<std::uint32_t>(bytes, 4, 1);
  put(bytes, 8, number);
  return bytes;
}

TEST_CASE("a cubin gives its code, registers and shared memory") {
  const std::string code = bytes_of(plain(0x021)) + bytes_of(plain(operation::kExit));
  // A short attribute first, which has no bytes of its own; then that of stack frames.
  const std::string info =
      std::string("\x03\x2f\x07\x00", 4) + attribute(0x11, 999) + attribute(0x2f, 168);
  const auto read = [&](int architecture, std::size_t shared) {
    return read_cubin(
        elf(architecture,
            {{".nv.info", info}, {".text.k", code}, {".nv.shared.k", std::string(shared, '\0')}}));
  };
  const Code ada = read(89, 2048);
  CHECK(ada.architecture == 89);
  CHECK(ada.registers == 168);
  CHECK(ada.static_shared == 2048);
  REQUIRE(ada.instructions.size() == 2);
  CHECK(ada.instructions[1].operation() == operation::kExit);
  CHECK(read(120, 2048).static_shared == 1024);  // 1 KiB of it is the system's
  CHECK(read(120, 0).static_shared == 0);

  const Code bare = read_cubin(elf(89, {{".text.k", code}}));
  CHECK(bare.registers == 0);
  CHECK(bare.static_shared == 0);
  CHECK_THROWS_WITH(read_cubin(elf(89, {{".text.k", code}, {".text.l", code}})),
                    "the cubin has 2 kernels; one is read");
  CHECK_THROWS_WITH(read_cubin(elf(89, {})), "the cubin has 0 kernels; one is read");
  const std::string whole = elf(89, {{".nv.info", info}, {".text.k", code}});
  constexpr std::size_t kUnread = 24;  // of the last header
  for (std::size_t size = 0; size < whole.size() - kUnread; ++size)
    CHECK_THROWS_AS(read_cubin(whole.substr(0, size)), std::runtime_error);
}

TEST_CASE("bytes that are no cubin are refused") {
  CHECK_THROWS_WITH(read_cubin(""), "not a cubin");
  CHECK_THROWS_WITH(read_cubin(std::string("\x7f"
                                           "ELF") +
                               std::string(60, '\0')),
                    "not a cubin");
  std::string cut(
      "\x7f"
      "ELF" +
      std::string(60, '\0'));
  cut[0x12] = '\xbe';  // 190
  cut[0x28] = '\x70';  // the section headers would begin behind the end
  cut[0x3a] = '\x40', cut[0x3c] = '\x01';
  CHECK_THROWS_WITH(read_cubin(cut), "the cubin ends early");
}

}  // namespace
}  // namespace sagegen::model
