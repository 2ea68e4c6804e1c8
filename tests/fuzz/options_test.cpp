#include <catch2/catch.hpp>

#include "sagegen/kernel.h"
#include "tests/fuzz/mutation_loop.h"

TEST_CASE("kernel_of_options survives mutated texts") {
  sagegen::fuzz::MutationLoop loop;
  for (const sagegen::Family* family : sagegen::builtin_families().all()) {
    const sagegen::Kernel kernel = kernel_of_options(*family, "", sagegen::Target{89});
    loop.seeds.push_back(options_of(kernel));
    for (const sagegen::Field& field : family->what) loop.dictionary.emplace_back(field.name);
  }
  loop.seeds.emplace_back("causal schedule=q64k64w4s2 io=bf16");
  for (const char* word :
       {"=", " ", "\t", "schedule", "true", "0", "999999", "1000000", "-1", "q0"})
    loop.dictionary.emplace_back(word);
  loop.iterations = 50000;
  CHECK(sagegen::fuzz::run(loop) > loop.iterations);
}
