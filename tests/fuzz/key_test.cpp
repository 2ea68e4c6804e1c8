#include <catch2/catch.hpp>

#include "sagegen/set.h"
#include "tests/fuzz/mutation_loop.h"

TEST_CASE("parse_key survives mutated keys") {
  sagegen::fuzz::MutationLoop loop;
  for (const sagegen::Kernel& kernel :
       sagegen::read_set_file(std::string(SAGEGEN_SOURCE_DIR) + "/templates/attention/set.toml")) {
    loop.seeds.push_back(kernel.key());
  }
  loop.dictionary = {"_",     "__", "sage", "fwd", "0",    "999999", "1000000", "sm89",
                     "sm90a", "x2", "f32",  "-1",  "g0x0", "causal", "fold",    "smooth"};
  loop.iterations = 200000;
  CHECK(sagegen::fuzz::run(loop) > loop.iterations);
}
