#include <catch2/catch.hpp>

#include <fstream>
#include <sstream>

#include "tests/fuzz/mutation_loop.h"

TEST_CASE("read_set survives mutated set descriptions") {
  std::ifstream file(std::string(SAGEGEN_SOURCE_DIR) + "/templates/attention/set.toml");
  std::ostringstream text;
  text << file.rdbuf();
  REQUIRE(text.str().size() > 100);

  sagegen::fuzz::MutationLoop loop;
  loop.seeds = {
      text.str(),
      "[[attention]]\ntargets = [\"sm_89\"]\nhead_dim = [64]\nio = [\"f16\"]\n"
      "schedules = [\"q128k64w4s2\"]\n",
      "[[kv_statistics]]\ntargets = 'sm_89'\nk_sum = true\n[[quantize_values]]\ntargets = "
      "'sm_89'\n",
      "[[attention]]\ntargets = ['sm_89'] # \xc3\xa9\n'\xc3\xa9' = \"\"\"\xc3\xa9\"\"\"\n",
      "[a.b.c.d.e.f.g.h]\n\"i\".j.k = { l.m = [[[[1.5]]]] }\n",
      "x = [\"\\\"\", '\\', '''\n''', \"\"\"\"\\\"\"\"\"]\n"};
  loop.dictionary = {"[[attention]]\n",
                     "[[quantize_rows]]\n",
                     "targets",
                     "schedules",
                     "q64k64w4s2",
                     "true",
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
                     "\xc3\xa9",
                     "\xe2\x80\xa8",
                     "\xe1\x9a\x80",
                     "a.a.a.a.a.a.a.a.",
                     "[[[[[[[[",
                     "'",
                     "#",
                     "\xff\xfe"};
  loop.iterations = 20000;
  CHECK(sagegen::fuzz::run(loop) > loop.iterations);
}
