// What is read of ptxas: its report, and the loops of machine code. Neither needs ptxas.
#include <unistd.h>

#include <catch2/catch.hpp>
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
