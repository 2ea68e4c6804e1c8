#include <catch2/catch.hpp>
#include <filesystem>
#include <fstream>
#include <set>
#include <sstream>

#include "tests/fuzz/mutation_loop.h"

TEST_CASE("the PTX parser survives mutated texts") {
  sagegen::fuzz::MutationLoop loop;
  std::set<std::filesystem::path> files;  // sorted, so that every machine runs the same inputs
  const std::string corpus = std::string(SAGEGEN_SOURCE_DIR) + "/tests/fuzz/corpus/ptx";
  for (const auto& entry : std::filesystem::directory_iterator(corpus)) files.insert(entry.path());
  for (const std::filesystem::path& path : files) {
    std::ifstream file(path);
    std::stringstream text;
    text << file.rdbuf();
    loop.seeds.push_back(text.str());
  }
  REQUIRE(loop.seeds.size() >= 3);
  loop.dictionary = {".reg .b32 %r<9>;",
                     "{",
                     "}",
                     "@%p1 bra $L__BB0_2;",
                     "$L__BB0_2:",
                     "/*",
                     ".shared .b8 q[9];",
                     ".entry",
                     "(",
                     "[%rd1+-4]",
                     "0f3F80",
                     "\"",
                     "<999999999>",
                     ".func",
                     "-",
                     "18446744073709551616",
                     ".section",
                     "::",
                     ".loc 1 2 3",
                     ";",
                     "%r1|",
                     ".align 4294967296",
                     "{_,_}",
                     "0x"};
  loop.iterations = 20000;
  CHECK(sagegen::fuzz::run(loop) > loop.iterations);
}
