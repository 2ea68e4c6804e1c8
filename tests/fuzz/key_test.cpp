#include <catch2/catch.hpp>

#include "sagegen/spec.h"
#include "tests/fuzz/mutation_loop.h"

TEST_CASE("parse_key survives mutated keys") {
  sagegen::fuzz::MutationLoop loop;
  for (const sagegen::KernelSpec& spec : sagegen::read_spec_set_file(
           std::string(SAGEGEN_SOURCE_DIR) + "/templates/specs/default.toml")) {
    loop.seeds.push_back(sagegen::key(spec));
  }
  loop.dictionary = {"_",    "sage",  "fwd", "0",   "999999", "1000000",
                     "sm89", "sm90a", "x2",  "f32", "-1",     "g0x0"};
  loop.iterations = 200000;
  CHECK(sagegen::fuzz::run(loop) > loop.iterations);
}
