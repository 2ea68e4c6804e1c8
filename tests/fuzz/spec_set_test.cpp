#include <catch2/catch.hpp>

#include <fstream>
#include <sstream>

#include "tests/fuzz/mutation_loop.h"

TEST_CASE("read_spec_set survives mutated set descriptions") {
  std::ifstream file(std::string(SAGEGEN_SOURCE_DIR) + "/templates/specs/default.toml");
  std::ostringstream text;
  text << file.rdbuf();
  REQUIRE(text.str().size() > 100);

  sagegen::fuzz::MutationLoop loop;
  loop.seeds = {text.str(),
                "[[attention]]\ntargets = [\"sm_89\"]\nhead_dims = [64]\nio = [\"f16\"]\n"
                "schedules = [{ cta_q = 128, cta_k = 64, warps = 4, stages = 2 }]\n"};
  loop.dictionary = {"[[attention]]\n",
                     "targets",
                     "=",
                     "[",
                     "]",
                     "\"",
                     "\n",
                     "sm_80",
                     "e4m3",
                     "1e9",
                     "-1",
                     "9223372036854775807",
                     "9223372036854775808",
                     "'''",
                     "\"\"\"",
                     "{",
                     "}",
                     "[a.b]\n",
                     "2020-01-01",
                     "nan",
                     "\xff\xfe"};
  loop.iterations = 20000;
  CHECK(sagegen::fuzz::run(loop) > loop.iterations);
}
